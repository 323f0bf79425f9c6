"""How often MMDetection's IoU-balanced sampler of negatives takes each box.

`make.py` runs it. A file `sampler_SCENE_thrT_fracF_binsK_STATE` has these arrays with a row for
each box, the added ground truth first:

* `full_gt_inds` (0 negative, > 0 number of the instance) and `full_max_overlaps`;
* `counts`: how many of `repeats` draws took the box as a negative;
* `expected_inclusion`: the exact probability of that.

`num_pos` and `num_neg` are the numbers of positives and negatives in each draw. STATE is `fresh`
for the first draw of a sampler and `persistent` for all later ones: with a threshold of -1,
MMDetection's sampler sets its own threshold to 0 in its first call.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import CombinedSampler, SamplingResult
from mmengine.structures import InstanceData

from seeds import generator

Arrays = dict[str, np.ndarray]

REPEATS = 500
# By scene: positives per instance, number of negatives without overlap, IoUs of the others.
SCENES = {
    "fewpos_unbalanced1800": ([160, 6, 4, 2, 1, 1], 820, lambda rng: rng.exponential(0.08, 806)),
    "mostlyzero1000": ([4, 6, 8], 855, lambda rng: rng.uniform(0, 0.5, 127)),
    "nogt1100": ([], 1100, lambda rng: np.zeros(0)),
    "skewed1500": (
        [21, 14, 22, 11, 8],
        620,
        lambda rng: np.append(rng.exponential(0.04, 640), rng.uniform(0.1, 0.5, 164)),
    ),
}
OPTIONS = (
    "thr-1_frac0_bins3_fresh",
    "thr-1_frac0_bins3_persistent",
    "thr0_frac0.25_bins5_persistent",
    "thr0.1_frac0_bins3_persistent",
    "thr0.1_frac0.25_bins3_persistent",
)
NAMES = tuple(f"sampler_{scene}_{options}" for scene in SCENES for options in OPTIONS)


def draw(name: str, _: pathlib.Path) -> Arrays:
    """Draws the scene of a file and lets MMDetection sample from it."""
    scene, threshold, fraction, bins, state = name.removeprefix("sampler_").rsplit("_", 4)
    inputs = {
        **_draw_scene(scene),
        "floor_thr": np.array(float(threshold.removeprefix("thr"))),
        "floor_fraction": np.array(float(fraction.removeprefix("frac"))),
        "num_bins": np.array(int(bins.removeprefix("bins"))),
        "state": np.array(state),
        "repeats": np.array(REPEATS),
    }
    return inputs | _sample(name, inputs)


def compute(name: str, inputs: Mapping[str, np.ndarray], _: pathlib.Path) -> Arrays:
    """Returns the exact probabilities, once MMDetection's draws have been found to follow them.

    Raises:
      ValueError: if MMDetection's draws do not follow them.
    """
    expected = _expected_inclusion(inputs, inputs["num_neg"])
    drawn = [(inputs["counts"], expected, int(inputs["repeats"]))]
    again = _sample(name, inputs)
    drawn.append((again["counts"], _expected_inclusion(inputs, again["num_neg"]), REPEATS))
    for counts, probabilities, repeats in drawn:
        deviation = np.sqrt(repeats * probabilities * (1 - probabilities))
        difference = np.abs(counts - repeats * probabilities)
        if (difference > 5.5 * deviation + 1e-6).any():
            raise ValueError(f"{name}: MMDetection's draws do not follow the probabilities")
    return {"expected_inclusion": expected}


def _draw_scene(scene: str) -> Arrays:
    rng = generator(scene)
    positives, num_zeros, draw_others = SCENES[scene]
    others = draw_others(rng)
    instances = np.repeat(np.arange(1, len(positives) + 1), positives)
    gt_inds = np.concatenate([instances, np.zeros(num_zeros + others.size, int)])
    ious = [rng.uniform(0.5, 1, instances.size), np.zeros(num_zeros), np.minimum(others, 0.499)]
    order = rng.permutation(gt_inds.size)
    added = np.arange(1, len(positives) + 1)
    return {
        "full_gt_inds": np.append(added, gt_inds[order]),
        "full_max_overlaps": np.append(np.ones(added.size), np.concatenate(ious)[order]).astype(
            np.float32
        ),
        "num_gt": np.array(added.size),
    }


def _sample(name: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Lets MMDetection sample many times from the same scene."""
    torch.manual_seed(0)
    np.random.seed(0)
    num_gt = int(inputs["num_gt"])
    gt_inds = torch.tensor(inputs["full_gt_inds"])[num_gt:]
    ious = torch.tensor(inputs["full_max_overlaps"])[num_gt:]
    labels = torch.zeros(num_gt, dtype=torch.long)
    truth = InstanceData(bboxes=torch.zeros(num_gt, 4), labels=labels)
    candidates = InstanceData(priors=torch.zeros(gt_inds.numel(), 4))
    sampler = _sampler(inputs)

    def sample_once() -> SamplingResult:
        assigned = AssignResult(
            num_gt, gt_inds.clone(), ious.clone(), torch.zeros(gt_inds.numel(), dtype=torch.long)
        )
        return sampler.sample(assigned, candidates, truth)

    sample_once()
    counts = np.zeros(inputs["full_gt_inds"].size, np.int32)
    numbers = []
    for _ in range(REPEATS):
        if str(inputs["state"]) == "fresh":
            sampler = _sampler(inputs)
        result = sample_once()
        counts[result.neg_inds.numpy()] += 1
        numbers.append((result.pos_inds.numel(), result.neg_inds.numel()))
    num_pos, num_neg = np.transpose(numbers)
    return {"counts": counts, "num_pos": num_pos, "num_neg": num_neg}


def _sampler(inputs: Mapping[str, np.ndarray]) -> CombinedSampler:
    return CombinedSampler(
        pos_sampler={"type": "InstanceBalancedPosSampler"},
        neg_sampler={
            "type": "IoUBalancedNegSampler",
            "floor_thr": float(inputs["floor_thr"]),
            "floor_fraction": float(inputs["floor_fraction"]),
            "num_bins": int(inputs["num_bins"]),
        },
        num=512,
        pos_fraction=0.25,
        add_gt_as_proposals=True,
    )


def _expected_inclusion(inputs: Mapping[str, np.ndarray], num_neg: np.ndarray) -> np.ndarray:
    """Returns each box's probability, averaged over the numbers of negatives in the draws."""
    wanted, times = np.unique(num_neg, return_counts=True)
    probabilities = [_inclusion(inputs, int(number)) for number in wanted]
    return np.average(probabilities, axis=0, weights=times)


def _inclusion(inputs: Mapping[str, np.ndarray], wanted: int) -> np.ndarray:
    """Returns each box's probability of being one of the `wanted` negatives.

    Every step of the sampler draws from whole groups of boxes. Boxes in a group are therefore
    equally likely, and it is enough to count how many are taken from each group.
    """
    ious = inputs["full_max_overlaps"].astype(np.float64)
    threshold, num_bins = float(inputs["floor_thr"]), int(inputs["num_bins"])
    negatives = inputs["full_gt_inds"] == 0
    if threshold > 0:
        floor = ious < threshold
    elif threshold == 0 or str(inputs["state"]) == "persistent":
        floor = ious == 0
    else:
        floor = np.zeros(ious.shape, bool)
    start = max(threshold, 0)
    edges = start + np.arange(1, num_bins + 1) * (ious.max() - start) / num_bins
    # The last bin is open at its end: a box with the largest IoU of all is in no bin.
    group = np.where(floor, num_bins + 1, np.searchsorted(edges, ious, side="right"))
    sizes = np.bincount(group[negatives], minlength=num_bins + 2).astype(float)
    taken = np.zeros_like(sizes)
    wanted = min(wanted, int(sizes.sum()))

    def fill(groups: slice, number: float) -> None:
        """Takes boxes at random from what is left of some groups."""
        left = sizes[groups] - taken[groups]
        taken[groups] += left * min(number / max(left.sum(), 1), 1)

    balanced, floor_group = slice(0, num_bins + 1), slice(num_bins + 1, None)
    wanted_balanced = int(wanted * (1 - float(inputs["floor_fraction"])))
    if sizes[balanced].sum() > wanted_balanced:
        taken[:num_bins] = np.minimum(sizes[:num_bins], wanted_balanced // num_bins)
    fill(balanced, wanted_balanced - taken.sum())
    fill(floor_group, wanted - taken.sum())
    fill(slice(None), wanted - taken.sum())
    share = np.divide(taken, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return np.where(negatives, share[group], 0)
