"""Compares a training step of an imported detector with MMDetection's own numbers.

The numbers are in an `.npz` file with a batch, `input` (NCHW, normalised, padded with zeros), and
for image I its `gt_boxesI` (`x1, y1, x2, y2` in pixels), `gt_labelsI` (from 0) and `img_shapeI`
(height and width without padding). `pad_shapeI` is the size with the image's own padding, beyond
which anchors do not count; without it, that of the batch. The rest is what MMDetection computes:

* `assignK_gt_inds` and `assignK_max_ious`: K counts the images. Two-stage detectors have the RPN's
  anchors of all images first, then their RoIs;
* `sampleK_pos`, `sampleK_neg` and `sampleK_boxes` (two stages): what was drawn, which is fed in;
* `proposalsI_boxes` and `proposalsI_scores` (two stages);
* `loss:NAME`, one number a level or one in all, and `loss:total`;
* `grad:PARAMETER` of `loss:total` for every parameter that is trained;
* a training, optional: `traj_input0`, `traj_input1`, ... are batches that take turns, with
  `trajT_gt_boxesI` and so on; `traj[t]` has the numbers `traj_names` of step t, `traj_norms[t]` the
  norm of the gradient before it is clipped to 35, and `final:PARAMETER` the weights at the end. It
  is SGD with momentum 0.9 and weight decay 1e-4, whose rate warms up from a third of `traj_lr` over
  ten steps. In a two-stage detector every box is sampled, so that nothing is random.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from libra_tf.checkpoints import structure, training_steps, verify, weights
from libra_tf.checkpoints.importing import Imported
from libra_tf.checkpoints.training_steps import Batch, LossNames, Step
from libra_tf.checkpoints.verify import Comparison, Numbers
from libra_tf.cli.errors import UsageError, listed
from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors
from libra_tf.modeling.mmdetection.boxes import swap_xy

# Of an IoU; of a loss; and of a gradient, relative to the largest element of its tensor.
IOU_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
# Of the largest gradient: what may be left of a gradient that is zero.
_ROUNDING = 1e-4
# Of the losses of a training and, relative to the largest change of the tensor, of its weights.
TRAINING_TOLERANCE = 1e-3
# A ReLU or a suppression can flip for a rounding error, and a training then goes another way. So
# where rounding alone does more than the tolerances allow, this many times as much is allowed. What
# rounding does is seen by nudging the input.
ROUNDING_FACTOR = 5.0
_NUM_NUDGES = 4
_HELP = "see libra_tf/checkpoints/verify_training.py for what the file must hold"
# Rows without a counterpart: MMDetection's accuracy of the RoIs is not a loss.
_ACCURACY = "acc"


def is_training(numbers: Numbers) -> bool:
    """Returns whether a file has numbers of a training step, not of inference."""
    return "loss:total" in numbers


def check(path: str, numbers: Numbers, imported: Imported) -> None:
    """Checks that the numbers are complete and belong to a detector.

    Args:
      path: path of their file, for messages.
      numbers: the result of `libra_tf.checkpoints.verify.read`.
      imported: the detector.

    Raises:
      UsageError: if keys are missing or shapes do not fit, or it is another detector's file.
    """
    _check_turns(path, numbers)
    names, batches = LossNames(imported), _batches(numbers)
    kinds = {f"{key.partition(':')[0]}:*" for key in numbers}
    missing = sorted(_needed_keys(names, batches) - set(numbers) - kinds)
    if missing:
        raise UsageError(f"--verify={path} lacks {listed(missing, 3)}; {_HELP}")
    losses = {key[len("loss:") :] for key in numbers if key.startswith("loss:")}
    unknown = sorted(losses - {*names.losses, "total", _ACCURACY})
    if unknown:
        raise UsageError(
            f"--verify={path} has the losses {listed(unknown, 3)}, which this {names.kind} "
            f"does not have; {_HELP}"
        )
    for prefix, (number, _, *padded) in batches.items():
        for image in range(number):
            name = f"{prefix}{{}}{image}"
            _check_image(path, numbers, name, padded, len(imported.category_ids))
    _check_parameters(path, numbers, imported)
    if not names.is_retinanet:
        _check_samples(path, numbers, imported)
    if len(batches) > 1:
        _check_steps(path, numbers, {*names.losses, "loss", _ACCURACY})


def _batches(numbers: Numbers) -> dict[str, Sequence[int]]:
    """Returns the shape of each batch of a file, by the prefix of what belongs to it."""
    shapes = {"": numbers["input"].shape}
    for turn in range(_num_turns(numbers)):
        shapes[f"traj{turn}_"] = numbers[f"traj_input{turn}"].shape
    return shapes


def _needed_keys(names: LossNames, batches: Mapping[str, Sequence[int]]) -> set[str]:
    """Returns what a file with these batches must hold; `grad:*` is any key that begins so."""
    number, of_training = batches[""][0], set(batches) - {""}
    needed = {"grad:*"} | {f"loss:{name}" for name in names.losses}
    needed |= {
        f"{prefix}{name}{image}"
        for prefix, shape in batches.items()
        for image in range(shape[0])
        for name in ("gt_boxes", "gt_labels", "img_shape")
    }
    needed |= {f"assign{k}_{x}" for k in range(number) for x in ("gt_inds", "max_ious")}
    if not names.is_retinanet:
        needed |= {f"proposals{k}_{x}" for k in range(number) for x in ("boxes", "scores")}
        needed |= {f"sample{k}_{x}" for k in range(2 * number) for x in ("pos", "neg", "boxes")}
    if of_training:
        needed |= {"traj", "traj_names", "traj_norms", "traj_lr", "final:*"}
    return needed


def _check_image(
    path: str, numbers: Numbers, name: str, padded: Sequence[int], num_labels: int
) -> None:
    """Checks the objects and the sizes of one image."""
    boxes, labels, size = (numbers[name.format(x)] for x in ("gt_boxes", "gt_labels", "img_shape"))
    own = numbers.get(name.format("pad_shape"), np.array(padded))
    if (
        size.shape != (2,)
        or any(mmdetection_anchors.own_padded_size(size) > padded)
        or min(size) < 1
    ):
        raise UsageError(
            f"--verify={path}: {name.format('img_shape')} is {size.tolist()}, but the input has "
            f"{list(padded)} pixels; it must be the height and width without padding"
        )
    if boxes.shape != (len(labels), 4) or any(labels < 0) or any(labels >= num_labels):
        raise UsageError(
            f"--verify={path}: {name.format('gt_boxes')} has the shape {list(boxes.shape)} and "
            f"{name.format('gt_labels')} is {labels.tolist()}; there must be a label from 0 to "
            f"{num_labels - 1} for each box"
        )
    if own.shape != (2,) or any(own < size) or any(own > padded):
        raise UsageError(
            f"--verify={path}: {name.format('pad_shape')} is {own.tolist()}; it must be from "
            f"{size.tolist()}, the size of the image, to {list(padded)}, that of the input"
        )


def _check_turns(path: str, numbers: Numbers) -> None:
    """Checks that the batches of a training are numbered from 0 on, and that they are images."""
    for turn in range(_num_turns(numbers)):
        images = numbers.get(f"traj_input{turn}")
        if images is None or images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                f"--verify={path} has no `traj_input{turn}` of shape [batch, 3, height, width], "
                f"but others; {_HELP}"
            )


def _check_parameters(path: str, numbers: Numbers, imported: Imported) -> None:
    """Checks the shapes of gradients and of weights, and that there is a place for the weights."""
    assigned = {
        a.name: a
        for a in weights.detector_assignments(
            imported.detector, imported.model, imported.category_ids
        )
    }
    for prefix in ("grad:", "final:"):
        for name, value in _parameters(numbers, prefix).items():
            # A gradient too many counts as a deviation.
            if name in assigned and assigned[name].fitted(value) is None:
                raise UsageError(
                    f"--verify={path}: {prefix}{name} has the shape {list(value.shape)}, which "
                    "does not fit the detector; name the file that was made with this checkpoint"
                )
            if name not in assigned and prefix == "final:":
                raise UsageError(
                    f"--verify={path} has {prefix}{name}, but the detector has no such weight; "
                    "name the file that was made with this checkpoint"
                )


def _check_samples(path: str, numbers: Numbers, imported: Imported) -> None:
    """Checks that what was drawn exists: anchors of each image first, then RoIs and objects."""
    images = numbers["input"]
    anchors = imported.model.make_anchors(tf.zeros([1, *images.shape[2:], 1]))
    num_anchors = sum(tf.size(of_level).numpy() // 4 for of_level in anchors.values())
    limits = [num_anchors] * len(images)
    limits += [
        len(numbers[f"gt_boxes{i}"]) + len(numbers[f"assign{len(images) + i}_gt_inds"])
        for i in range(len(images))
    ]
    for index, limit in enumerate(limits):
        for kind in ("pos", "neg"):
            drawn = numbers[f"sample{index}_{kind}"]
            if drawn.size and not 0 <= drawn.min() <= drawn.max() < limit:
                raise UsageError(
                    f"--verify={path}: sample{index}_{kind} has indices from {drawn.min()} to "
                    f"{drawn.max()}, but there are {limit} boxes to draw from"
                )


def _check_steps(path: str, numbers: Numbers, known: set[str]) -> None:
    """Checks the numbers of each step of a training."""
    names, steps, norms = (numbers[key] for key in ("traj_names", "traj", "traj_norms"))
    unknown = sorted(set(names.tolist()) - known)
    if unknown:
        raise UsageError(
            f"--verify={path}: traj_names has {listed(unknown, 3)}; known are "
            f"{', '.join(sorted(known))}"
        )
    if steps.shape[1:] != names.shape or norms.shape != steps.shape[:1]:
        raise UsageError(
            f"--verify={path} has traj, traj_names and traj_norms of shapes {list(steps.shape)}, "
            f"{list(names.shape)}, {list(norms.shape)}; they must be [T, N], [N] and [T]"
        )


def compare(imported: Imported, numbers: Numbers) -> Iterator[Comparison]:
    """Compares a step, and a training if there is one, with MMDetection's numbers.

    The detector is the same afterwards.

    Args:
      imported: the detector.
      numbers: the result of `libra_tf.checkpoints.verify.read`, which `check` accepts.

    Yields:
      A comparison of each assignment, the proposals, each loss, the list of trained tensors, the
      gradients, and the losses and weights of the training.
    """
    step = Step(imported)
    batch = Batch(imported, numbers, numbers["input"], "")
    sampler = None if step.names.is_retinanet else list(step.model.roi_sampler)
    yield from _compare_assignments(batch, numbers)
    if not step.names.is_retinanet:
        yield from _compare_proposals(step, batch, numbers)
        yield from _compare_roi_assignments(batch, numbers)
        batch.sample_anchors(numbers)
        step.feed_samples(batch, numbers)
    losses, gradients = step.gradients(batch)
    yield from _compare_losses(step.names, losses, numbers)
    yield from _compare_gradients(step, batch, gradients, numbers)
    if _num_turns(numbers):
        yield from _compare_training(step, imported, numbers)
    if sampler is not None:
        step.model.roi_sampler = sampler


def _compare_assignments(batch: Batch, numbers: Numbers) -> Iterator[Comparison]:
    for index in range(len(batch.images)):
        assigned, max_ious = batch.assign_anchors(index)
        yield from _compare_assignment(f"assign{index}", assigned, max_ious, numbers)


def _compare_roi_assignments(batch: Batch, numbers: Numbers) -> Iterator[Comparison]:
    for index in range(len(batch.images)):
        rois = swap_xy(numbers[f"proposals{index}_boxes"], axis=-1)
        assigned, max_ious = batch.assign_rois(index, rois)
        name = f"assign{len(batch.images) + index}"
        yield from _compare_assignment(name, assigned, max_ious, numbers)


def _compare_assignment(
    name: str, assigned: np.ndarray, max_ious: np.ndarray, numbers: Numbers
) -> Iterator[Comparison]:
    expected = numbers[f"{name}_gt_inds"]
    wrong, deviation = np.inf, np.inf
    if expected.shape == assigned.shape:
        wrong = float(np.sum(assigned != expected))
        deviation = float(np.abs(max_ious - numbers[f"{name}_max_ious"]).max())
    yield Comparison(f"{name}_gt_inds", wrong, 0, "wrong")
    yield Comparison(f"{name}_max_ious", deviation, IOU_TOLERANCE, "IoU")


def _compare_proposals(step: Step, batch: Batch, numbers: Numbers) -> Iterator[Comparison]:
    for index, (boxes, scores) in enumerate(zip(*step.propose(batch), strict=True)):
        names = (f"proposals{index}_boxes", f"proposals{index}_scores")
        yield from verify.compare_proposals(names, boxes, scores, numbers)


def _compare_losses(
    names: LossNames, losses: Mapping[str, tf.Tensor], numbers: Numbers
) -> Iterator[Comparison]:
    found = names.losses_in_mmdetection(losses)
    found["total"] = found.pop("loss")
    for name, value in found.items():
        deviation = _relative(value, float(np.sum(numbers[f"loss:{name}"])))
        yield Comparison(f"loss:{name}", deviation, LOSS_TOLERANCE, "relative")


def _compare_gradients(
    step: Step, batch: Batch, gradients: Sequence[tf.Tensor], numbers: Numbers
) -> Iterator[Comparison]:
    found = step.by_name(gradients)
    theirs = _parameters(numbers, "grad:")
    yield Comparison(
        f"trained tensors ({len(found)}, {len(theirs)} there)",
        len(set(found) ^ set(theirs)),
        0,
        "different",
    )
    expected = {
        name: _converted(step.assignments[name], value)
        for name, value in theirs.items()
        if name in found
    }
    deviations = _relative_to_largest(found, expected)
    beyond = [name for name, value in deviations.items() if not value <= GRADIENT_TOLERANCE]
    rounding = dict.fromkeys(deviations, 0.0)
    for seed in range(_NUM_NUDGES if beyond else 0):
        nudged = step.by_name(step.gradients(batch.nudged(seed))[1])
        for name, value in _relative_to_largest(nudged, {n: found[n] for n in expected}).items():
            rounding[name] = max(rounding[name], value)
    for name in sorted(beyond) or [max(deviations, key=deviations.get)]:
        tolerance = max(GRADIENT_TOLERANCE, ROUNDING_FACTOR * rounding[name])
        note = "" if beyond else f", worst of {len(deviations)}"
        yield Comparison(f"grad:{name}{note}", deviations[name], tolerance, "x the largest")


def _parameters(numbers: Numbers, prefix: str) -> Numbers:
    """Returns the arrays of parameters by the names that the assignments have."""
    named = {key[len(prefix) :]: x for key, x in numbers.items() if key.startswith(prefix)}
    return structure.normalize_names(named)


def _relative_to_largest(found: Numbers, expected: Numbers) -> dict[str, float]:
    """Returns the largest deviation of each tensor, as a share of its largest element."""
    largest = {name: float(np.abs(value).max()) for name, value in expected.items()}
    # The bias of a softmax has no gradient; what is there instead is rounding.
    least = _ROUNDING * max(largest.values())
    return {
        name: float(np.abs(found[name] - value).max()) / max(largest[name], least)
        for name, value in expected.items()
    }


def _converted(assigned: weights.Assignment, value: np.ndarray) -> np.ndarray:
    """Returns a gradient in the layout of its variable, 0 for classes that the file lacks."""
    converted = assigned.convert(value)
    # What the conversion of a weight fills in is the same for every weight.
    filled = assigned.convert(np.zeros_like(value))
    return np.where(filled != 0, 0, converted)


def _compare_training(step: Step, imported: Imported, numbers: Numbers) -> Iterator[Comparison]:
    """Trains as MMDetection did, and once more from nudged images; restores the weights."""
    batches = [
        Batch(imported, numbers, numbers[f"traj_input{turn}"], f"traj{turn}_")
        for turn in range(_num_turns(numbers))
    ]
    if not step.names.is_retinanet:
        step.sample_everything()
    initial = {name: a.variable.numpy() for name, a in step.assignments.items()}
    found = training_steps.train(step, batches, numbers)
    nudged = training_steps.train(step, [batch.nudged(0) for batch in batches], numbers)
    names = [name for name in numbers["traj_names"] if name != _ACCURACY]
    columns = [list(numbers["traj_names"]).index(name) for name in names]
    expected = numbers["traj"][:, columns]
    losses, nudged_losses = (
        np.array([[step_losses[name] for name in names] for step_losses in training.losses])
        for training in (found, nudged)
    )
    yield from _compare_steps("traj losses", losses, nudged_losses, expected)
    norms = (np.array(x)[:, np.newaxis] for x in (found.norms, nudged.norms, numbers["traj_norms"]))
    yield from _compare_steps("traj norms", *norms)
    yield _compare_changes(step, initial, found.weights, nudged.weights, numbers)


def _compare_steps(
    what: str, found: np.ndarray, nudged: np.ndarray, expected: np.ndarray
) -> Iterator[Comparison]:
    """Compares numbers `[steps, N]` of a training, before and after rounding makes a difference."""
    deviations = (np.abs(found - expected) / np.abs(expected)).max(axis=1)
    rounding = np.maximum.accumulate((np.abs(nudged - found) / np.abs(found)).max(axis=1))
    calm = int(np.sum(ROUNDING_FACTOR * rounding <= TRAINING_TOLERANCE))
    if calm:
        worst = float(deviations[:calm].max())
        yield Comparison(f"{what}, steps 1-{calm}", worst, TRAINING_TOLERANCE, "relative")
    if calm < len(deviations):
        worst = float((deviations / rounding)[calm:].max())
        name = f"{what}, steps {calm + 1}-{len(deviations)} ({deviations.max():.2g})"
        yield Comparison(name, worst, ROUNDING_FACTOR, "x rounding")


def _compare_changes(
    step: Step, initial: Numbers, found: Numbers, nudged: Numbers, numbers: Numbers
) -> Comparison:
    """Compares the weights after a training, each tensor relative to its largest change."""
    deviations, rounding = [], []
    for name, value in _parameters(numbers, "final:").items():
        expected = _kept_classes(step.assignments[name], value)
        kept = ~np.isnan(expected)
        change = np.abs(expected - initial[name])[kept].max()
        change = max(float(change), np.finfo(np.float32).tiny)
        deviations.append(np.abs(found[name] - expected)[kept].max() / change)
        rounding.append(np.abs(found[name] - nudged[name])[kept].max() / change)
    tolerance = max(TRAINING_TOLERANCE, ROUNDING_FACTOR * float(max(rounding)))
    name = f"final, worst of {len(deviations)}"
    return Comparison(name, float(max(deviations)), tolerance, "x the largest change")


def _kept_classes(assigned: weights.Assignment, value: np.ndarray) -> np.ndarray:
    """Returns a weight in the layout of its variable, NaN for classes that the file lacks."""
    ones = assigned.convert(np.ones_like(value))
    return np.where(ones == 1, assigned.convert(value), np.nan)


def _num_turns(numbers: Numbers) -> int:
    """Returns how many batches take turns in the training of a file; 0 without one."""
    return sum(bool(re.fullmatch(r"traj_input\d+", name)) for name in numbers)


def _relative(value: float, expected: float) -> float:
    return abs(value - expected) / max(abs(expected), np.finfo(np.float32).tiny)
