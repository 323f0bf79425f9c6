"""The sample level over many images: the candidates, and what each way takes.

A candidate is an anchor or a proposal; its IoU is the largest with any object of its image. What is
measured of an image is in `libra_tf.balance.samples`.
"""

import collections
import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.balance import samples
from libra_tf.balance.quotas import Quota
from libra_tf.balance.samples import NEGATIVE, NUM_IOU_BINS, POSITIVE
from libra_tf.ops import sampling

# The sets of candidates that are counted. The first two are those a sampler chooses from, the last
# what a detector that looked for its own worst mistakes would take (online hard example mining).
PICKS = ("candidates", "negatives", "random", "iou_balanced", "mmdet", "hardest")


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one image, without padding.

    Attributes:
      boxes: float array `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the input.
      max_ious: float array `[N]`, the largest IoU of each with an object, 0 without objects.
      kinds: int array `[N]`: `POSITIVE`, `NEGATIVE` or `IGNORED` of `libra_tf.balance.samples`.
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

    @functools.cached_property
    def matches(self) -> samples.Matches:
        """How they match the objects, as tensors."""
        return samples.Matches(
            tf.constant(self.max_ious, tf.float32),
            tf.constant(self.kinds, tf.int32),
            tf.constant(self.instances, tf.int32),
        )


def pick(candidates: Candidates, quota: Quota, seed: int) -> dict[str, np.ndarray]:
    """Samples the negatives of an image in every way.

    Args:
      candidates: what to sample from.
      quota: how many to sample.
      seed: fixes the draws.

    Returns:
      By the names of `PICKS`, a bool array `[N]`.
    """
    negatives = candidates.kinds == NEGATIVE
    number = int(quota.num_negatives(tf.constant(candidates.kinds == POSITIVE)))
    hardness = np.where(negatives, candidates.losses, -np.inf)
    hardest = np.zeros_like(negatives)
    hardest[np.argsort(-hardness, kind="stable")[:number]] = True
    sampled = samples.pick_negatives(candidates.matches, quota, seed)
    return {
        "candidates": np.ones_like(negatives),
        "negatives": negatives,
        **{name: mask.numpy() for name, mask in sampled.items()},
        "hardest": hardest & negatives,
    }


class SampleTally:
    """Counts the candidates of many images, and those that each way of sampling takes.

    Args:
      levels: the pyramid levels.
      class_names: category id to name.
      quota: how many are sampled from an image.
    """

    def __init__(self, levels: list[int], class_names: dict[int, str], quota: Quota):
        self._levels = list(levels)
        self._class_names = {0: "no object", **class_names}
        self._class_rows = {category: row for row, category in enumerate(self._class_names)}
        self._quota = quota
        shape = (len(self._levels), len(self._class_names), NUM_IOU_BINS)
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
          The result of `pick`.
        """
        picks = pick(candidates, self._quota, seed=self._num_images)
        levels = candidates.levels - self._levels[0]
        classes = np.array([self._class_rows.get(c, 0) for c in candidates.classes], np.int64)
        bins = samples.iou_bins(candidates.max_ious).numpy()
        for name, mask in picks.items():
            np.add.at(self._counts[name], (levels[mask], classes[mask], bins[mask]), 1)
            self._exactly_zero[name] += int((candidates.max_ious[mask] <= 0).sum())
        for bin_range, rows in self._bins.items():
            rows.append(fill_of_bins(candidates, self._quota, bin_range))
        self._add_positives(candidates)
        self._num_images += 1
        return picks

    def _add_positives(self, candidates: Candidates) -> None:
        self._wanted_positives += self._quota.max_positives
        self._present_positives += int((candidates.kinds == POSITIVE).sum())
        counts_by_pick = positives_per_instance(candidates, self._quota, self._num_images)
        for name, counts in counts_by_pick.items():
            self._positives[name].extend(counts.tolist())

    def result(self) -> dict[str, Any]:
        """Returns all numbers, ready for JSON.

        `hard_share` is the share of IoUs above `libra_tf.balance.samples.HARD_IOU`, `zero_share`
        the share of IoUs of exactly 0. `starved` has, for each bin of IoU-balanced sampling, the
        share of the images in which it holds fewer candidates than it should give.
        """
        by_pick = {name: self._of_pick(name) for name in PICKS}
        return {
            "num_images": self._num_images,
            "num_samples": self._quota.num_samples,
            "num_bins": self._quota.balancing.num_bins,
            "bin_edges": np.linspace(0, 1, NUM_IOU_BINS + 1).round(2).tolist(),
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

    def _of_pick(self, name: str) -> dict[str, Any]:
        counts = self._counts[name]
        total = int(counts.sum())
        return {
            "histogram": counts.sum((0, 1)).tolist(),
            "zero_share": self._exactly_zero[name] / total if total else None,
            **_shares(counts),
            "per_image": total / self._num_images if self._num_images else None,
        }

    def _positives_result(self) -> dict[str, Any]:
        images = max(self._num_images, 1)
        return {
            "num_instances": len(self._positives["all"]),
            "per_image": self._present_positives / images,
            "wanted_per_image": self._wanted_positives / images,
            **{name: _spread(counts) for name, counts in self._positives.items()},
        }


def fill_of_bins(candidates: Candidates, quota: Quota, bin_range: str) -> dict[str, Any]:
    """Returns how many negatives each bin of IoU-balanced sampling should give, and has.

    Args:
      candidates: the candidates of an image.
      quota: how many are sampled.
      bin_range: `candidates` for the paper's bins, `all` for MMDetection's.

    Returns:
      `wanted`, how many negatives each bin should give, and `held`, a list of how many it has.
    """
    matches, num_bins = candidates.matches, quota.balancing.num_bins
    pool = sampling.iou_pool(
        matches.ious[tf.newaxis],
        tf.equal(matches.kinds, NEGATIVE)[tf.newaxis],
        quota.num_negatives(tf.equal(matches.kinds, POSITIVE)),
        quota.bins(bin_range),
    )
    held = np.bincount(pool.groups.numpy()[0], minlength=num_bins + 1)[:num_bins]
    return {"wanted": int(pool.share(held[None]).numpy()[0, 0]), "held": held.tolist()}


def positives_per_instance(
    candidates: Candidates, quota: Quota, seed: int
) -> dict[str, np.ndarray]:
    """Counts the positives of each object of an image.

    Args:
      candidates: the candidates of an image.
      quota: how many are sampled.
      seed: fixes the draws.

    Returns:
      Int arrays `[M]`: `all` positives, a `random` sample of them, an `instance_balanced` one.
    """
    matches, num_instances = candidates.matches, max(candidates.num_instances, 1)
    picks = samples.pick_positives(matches, quota, num_instances, seed)
    return {
        name: samples.count_by_instance(mask, matches.instances, num_instances).numpy()[
            : candidates.num_instances
        ]
        for name, mask in picks.items()
    }


def _shares(counts: np.ndarray) -> dict[str, Any]:
    total = int(counts.sum())
    hard = int(counts[..., 1:].sum())
    return {"count": total, "hard_share": hard / total if total else None}


def _bins_result(rows: list[dict[str, Any]]) -> dict[str, Any]:
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


def _spread(counts: list[int]) -> dict[str, Any]:
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
