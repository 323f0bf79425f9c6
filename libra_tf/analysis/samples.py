"""The sample level: what there is to sample from, and what each way of sampling takes.

A candidate is an anchor or a proposal; its IoU is the largest with any object of its image. Paper
section 3.1: most hard negatives overlap an object, and random sampling takes few of these.
"""

import collections
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf import ops
from libra_tf.configs import components
from libra_tf.ops import sampling

# The paper calls negatives above it hard.
HARD_IOU = 0.05
NUM_BINS = round(1 / HARD_IOU)
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
# What a way of sampling can take. The first two are what there is, the last what a detector that
# looked for its own worst mistakes would take (online hard example mining).
PICKS = ("candidates", "negatives", "random", "iou_balanced", "mmdet", "hardest")


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one image, padding left out.

    Attributes:
      boxes: float array `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the input.
      max_ious: float array `[N]`, the largest IoU of each with an object, 0 without objects.
      kinds: int array `[N]`: `POSITIVE`, `NEGATIVE` or `IGNORED`.
      instances: int array `[N]`, the object of largest IoU.
      classes: int array `[N]`, the class of that object, 0 where the IoU is 0.
      levels: int array `[N]`, the pyramid level that each is seen in.
      losses: float array `[N]`, the classification loss of each if it is background.
      num_instances: how many objects the image has.
    """

    boxes: np.ndarray
    max_ious: np.ndarray
    kinds: np.ndarray
    instances: np.ndarray
    classes: np.ndarray
    levels: np.ndarray
    losses: np.ndarray
    num_instances: int


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many candidates of an image are sampled, and how IoU-balanced sampling bins them.

    Attributes:
      num_samples: positives and negatives together.
      positive_fraction: the largest share of positives, from 0 to 1.
      negative_iou: the IoU below which a candidate is negative; the paper's bins end there.
      balancing: how they are binned; its `bin_range` does not matter.
      max_negatives_per_positive: see `libra_tf.configs.components.RPNSampler`.
    """

    num_samples: int
    positive_fraction: float
    negative_iou: float
    balancing: components.IoUBalancing = dataclasses.field(default_factory=components.IoUBalancing)
    max_negatives_per_positive: int = 0

    def num_positives(self, candidates: Candidates) -> int:
        """Returns how many positives of an image are sampled."""
        limit = int(self.num_samples * self.positive_fraction)
        return min(int((candidates.kinds == POSITIVE).sum()), limit)

    def num_negatives(self, candidates: Candidates) -> int:
        """Returns how many negatives of an image are sampled, if it has so many."""
        num_positives = self.num_positives(candidates)
        number = self.num_samples - num_positives
        if self.max_negatives_per_positive:
            number = min(number, self.max_negatives_per_positive * max(num_positives, 1))
        return number

    def bins(self, bin_range: str) -> sampling.IoUBins:
        """Returns the bins of IoU-balanced sampling, with another `bin_range`."""
        return self.balancing.replace(bin_range=bin_range).bins(self.negative_iou)


def pick(candidates: Candidates, quota: Quota, seed: int) -> dict[str, np.ndarray]:
    """Samples the negatives of an image in every way.

    Args:
      candidates: what to sample from.
      quota: how many.
      seed: fixes the draws.

    Returns:
      By the names of `PICKS`, a bool array `[N]`. `mmdet` is IoU-balanced sampling with
      MMDetection's bins, which reach up to the largest IoU of all candidates.
    """
    negatives = candidates.kinds == NEGATIVE
    number = quota.num_negatives(candidates)
    row, ious = tf.constant(negatives[None]), tf.constant(candidates.max_ious[None], tf.float32)
    hardness = np.where(negatives, candidates.losses, -np.inf)
    hardest = np.zeros_like(negatives)
    hardest[np.argsort(-hardness, kind="stable")[:number]] = True
    paper, mmdet = (
        sampling.draw_iou_balanced(ious, row, number, quota.bins(bin_range), seed)
        for bin_range in ("candidates", "all")
    )
    return {
        "candidates": np.ones_like(negatives),
        "negatives": negatives,
        "random": ops.sample_random(row, number, seed).numpy()[0],
        "iou_balanced": paper.numpy()[0],
        "mmdet": mmdet.numpy()[0],
        "hardest": hardest & negatives,
    }


def bin_of(ious: np.ndarray) -> np.ndarray:
    """Returns the bin in `[0, NUM_BINS)` of every IoU in [0, 1].

    Bins are a twentieth wide and hold their upper edge, so that all but the first are hard.
    """
    # In float64 the float32 nearest to 0.05 would be above 0.05.
    edges = np.linspace(0, 1, NUM_BINS + 1)[1:-1].astype(np.float32)
    return np.searchsorted(edges, ious.astype(np.float32), side="left")


class SampleTally:
    """Counts over many images what there is and what is taken.

    Args:
      levels: the pyramid levels.
      class_names: category id to name.
      quota: how many are sampled.
    """

    def __init__(self, levels: list[int], class_names: dict[int, str], quota: Quota):
        self._levels = list(levels)
        self._class_names = {0: "no object", **class_names}
        self._class_rows = {category: row for row, category in enumerate(self._class_names)}
        self._quota = quota
        shape = (len(self._levels), len(self._class_names), NUM_BINS)
        self._counts = {name: np.zeros(shape, np.int64) for name in PICKS}
        self._exactly_zero = dict.fromkeys(PICKS, 0)
        self._num_images = 0
        self._bins = {"candidates": [], "all": []}
        self._positives = collections.defaultdict(list)
        self._wanted_positives = 0
        self._present_positives = 0

    def add(self, candidates: Candidates) -> dict[str, np.ndarray]:
        """Counts one image.

        Args:
          candidates: its candidates.

        Returns:
          What `pick` gave.
        """
        picks = pick(candidates, self._quota, seed=self._num_images)
        levels = candidates.levels - self._levels[0]
        classes = np.array([self._class_rows.get(c, 0) for c in candidates.classes], np.int64)
        bins = bin_of(candidates.max_ious)
        for name, mask in picks.items():
            np.add.at(self._counts[name], (levels[mask], classes[mask], bins[mask]), 1)
            self._exactly_zero[name] += int((candidates.max_ious[mask] <= 0).sum())
        for bin_range, rows in self._bins.items():
            rows.append(fill_of_bins(candidates, self._quota, bin_range))
        self._add_positives(candidates)
        self._num_images += 1
        return picks

    def _add_positives(self, candidates):
        wanted = int(self._quota.num_samples * self._quota.positive_fraction)
        self._wanted_positives += wanted
        self._present_positives += int((candidates.kinds == POSITIVE).sum())
        for name, counts in positives_per_instance(candidates, wanted, self._num_images).items():
            self._positives[name].extend(counts.tolist())

    def result(self) -> dict[str, Any]:
        """Returns all numbers, ready for JSON.

        `hard_share` is the share above `HARD_IOU`, `zero_share` the share of exactly 0; `starved`
        the share of an image's bins that hold fewer candidates than the bin is to give.
        """
        by_pick = {name: self._of_pick(name) for name in PICKS}
        return {
            "num_images": self._num_images,
            "num_samples": self._quota.num_samples,
            "num_bins": self._quota.balancing.num_bins,
            "bin_edges": np.linspace(0, 1, NUM_BINS + 1).round(2).tolist(),
            "picks": by_pick,
            "by_level": {
                str(level): {name: _shares(self._counts[name][i]) for name in PICKS}
                for i, level in enumerate(self._levels)
            },
            "by_class": {
                name_of_class: {name: _shares(self._counts[name][:, row]) for name in PICKS}
                for row, name_of_class in enumerate(self._class_names.values())
                if self._counts["candidates"][:, row].any()
            },
            "bins": {name: _bins_result(rows) for name, rows in self._bins.items()},
            "positives": self._positives_result(),
        }

    def _of_pick(self, name):
        counts = self._counts[name]
        total = int(counts.sum())
        return {
            "histogram": counts.sum((0, 1)).tolist(),
            "zero_share": self._exactly_zero[name] / total if total else None,
            **_shares(counts),
            "per_image": total / self._num_images if self._num_images else None,
        }

    def _positives_result(self):
        images = max(self._num_images, 1)
        return {
            "num_instances": len(self._positives["all"]),
            "per_image": self._present_positives / images,
            "wanted_per_image": self._wanted_positives / images,
            **{name: _spread(counts) for name, counts in self._positives.items()},
        }


def fill_of_bins(candidates: Candidates, quota: Quota, bin_range: str) -> dict[str, Any]:
    """Says what each bin of IoU-balanced sampling has to give in one image, and what it has.

    Args:
      candidates: the image's candidates.
      quota: how many are sampled.
      bin_range: `candidates` for the paper's bins, `all` for MMDetection's.

    Returns:
      `wanted`, how many each bin is to give, and `held`, a list of how many negatives it holds.
    """
    number = quota.num_negatives(candidates)
    pool = sampling.iou_pool(
        tf.constant(candidates.max_ious[None], tf.float32),
        tf.constant((candidates.kinds == NEGATIVE)[None]),
        number,
        quota.bins(bin_range),
    )
    groups = pool.groups.numpy()[0]
    held = np.bincount(groups, minlength=quota.balancing.num_bins + 1)[: quota.balancing.num_bins]
    return {"wanted": int(pool.share(held[None]).numpy()[0, 0]), "held": held.tolist()}


def positives_per_instance(candidates: Candidates, wanted: int, seed: int) -> dict[str, np.ndarray]:
    """Counts the positives of each object of an image.

    Args:
      candidates: the image's candidates.
      wanted: how many positives are sampled at the most.
      seed: fixes the draws.

    Returns:
      Int arrays `[M]`: `all` positives, a `random` sample of them, an `instance_balanced` one.
    """
    positives = candidates.kinds == POSITIVE
    row = tf.constant(positives[None])
    instances = tf.constant(candidates.instances[None], tf.int32)
    num_instances = max(candidates.num_instances, 1)
    masks = {
        "all": positives,
        "random": ops.sample_random(row, wanted, seed).numpy()[0],
        "instance_balanced": ops.sample_instance_balanced(
            instances, row, wanted, num_instances, seed
        ).numpy()[0],
    }
    return {
        name: np.bincount(candidates.instances[mask], minlength=num_instances)[
            : candidates.num_instances
        ]
        for name, mask in masks.items()
    }


def _shares(counts):
    total = int(counts.sum())
    hard = int(counts[..., 1:].sum())
    return {"count": total, "hard_share": hard / total if total else None}


def _bins_result(rows):
    held = np.array([row["held"] for row in rows], np.float64)
    wanted = np.array([row["wanted"] for row in rows], np.float64)
    if not held.size:
        return {"held": [], "wanted": None, "starved": [], "empty": []}
    return {
        "held": held.mean(0).tolist(),
        "wanted": wanted.mean(),
        "starved": (held < wanted[:, None]).mean(0).tolist(),
        "empty": (held == 0).mean(0).tolist(),
    }


def _spread(counts):
    counts = np.array(counts, np.float64)
    if not counts.size:
        return {"mean": None, "variation": None, "without": None, "histogram": []}
    mean = counts.mean()
    return {
        "mean": mean,
        # The standard deviation in units of the mean: 0 where all objects have the same number.
        "variation": counts.std() / mean if mean else None,
        "without": (counts == 0).mean(),
        "histogram": np.bincount(counts.astype(np.int64)).tolist(),
    }
