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

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import base_task, task_factory

from libra_tf.checkpoints import structure, verify, weights
from libra_tf.checkpoints.importing import Imported
from libra_tf.checkpoints.verify import Comparison, Numbers
from libra_tf.cli.errors import UsageError, listed
from libra_tf.compat import keras
from libra_tf.dataloaders import mmdetection_labels
from libra_tf.layers import IoUBalancedROISampler
from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors
from libra_tf.modeling.mmdetection.boxes import swap_xy
from libra_tf.modeling.torch_sgd import TorchSGD
from libra_tf.ops import assignment

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
# rounding does is seen by changing the input by `_NUDGE` of itself, the size of its last bits.
ROUNDING_FACTOR = 5.0
_NUDGE, _NUM_NUDGES = 1e-7, 4
_CLIP_NORM, _WARMUP_STEPS = 35.0, 10
_HELP = "see libra_tf/checkpoints/verify_training.py for what the file must hold"
# MMDetection's names of the losses, and their names and factors here.
_RETINANET_LOSSES = {"loss_cls": ("cls_loss", 1.0), "loss_bbox": ("box_loss", 4.0)}
_FASTERRCNN_LOSSES = {
    "loss_rpn_cls": ("rpn_score_loss", 1.0),
    "loss_rpn_bbox": ("rpn_box_loss", 1.0),
    "loss_cls": ("frcnn_cls_loss", 1.0),
    "loss_bbox": ("frcnn_box_loss", 1.0),
}
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
    names, batches = _Names(imported), _batches(numbers)
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


def _batches(numbers: Numbers) -> dict[str, Sequence[int]]:
    """Returns the shape of each batch of a file, by the prefix of what belongs to it."""
    shapes = {"": numbers["input"].shape}
    for turn in range(_num_turns(numbers)):
        shapes[f"traj{turn}_"] = numbers[f"traj_input{turn}"].shape
    return shapes


def _needed_keys(names: "_Names", batches: Mapping[str, Sequence[int]]) -> set[str]:
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
    """Checks the objects and the size of one image."""
    boxes, labels, size = (numbers[name.format(x)] for x in ("gt_boxes", "gt_labels", "img_shape"))
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
    step = _Step(imported)
    batch = _Batch(imported, numbers, numbers["input"], "")
    sampler = None if step.names.is_retinanet else list(step.model.roi_sampler)
    yield from _compare_assignments(batch, numbers)
    if not step.names.is_retinanet:
        yield from _compare_proposals(step, batch, numbers)
        yield from _compare_roi_assignments(batch, numbers)
        batch.sample_anchors(numbers)
        step.model.roi_sampler = [_fed_samples(imported, batch, numbers)]
    losses, gradients = step.gradients(batch)
    yield from _compare_losses(step.names, losses, numbers)
    yield from _compare_gradients(step, batch, gradients, numbers)
    if _num_turns(numbers):
        yield from _compare_training(step, imported, numbers)
    if sampler is not None:
        step.model.roi_sampler = sampler


class _Names:
    """What the losses of a detector are called in MMDetection."""

    def __init__(self, imported: Imported):
        self.is_retinanet = imported.detector.kind == "retinanet"
        self.kind = "RetinaNet" if self.is_retinanet else "Faster R-CNN"
        self.losses = _RETINANET_LOSSES if self.is_retinanet else _FASTERRCNN_LOSSES

    def losses_in_mmdetection(self, losses: Mapping[str, tf.Tensor]) -> dict[str, float]:
        """Returns the losses under MMDetection's names, and the total as `loss`."""
        named = {theirs: float(losses[ours]) * x for theirs, (ours, x) in self.losses.items()}
        return {**named, "loss": float(losses["total_loss"])}


class _Batch:
    """A batch of a file, labelled as in training."""

    def __init__(self, imported: Imported, numbers: Numbers, images: np.ndarray, prefix: str):
        self.images = tf.constant(images.transpose(0, 2, 3, 1))
        self._is_retinanet = imported.detector.kind == "retinanet"
        self._parser = imported.params.task.train_data.parser
        self.anchors = imported.model.make_anchors(self.images)
        indices = range(len(images))
        self._padded_sizes = [
            tf.constant(numbers.get(f"{prefix}pad_shape{i}", images.shape[2:]), tf.int32)
            for i in indices
        ]
        self.sizes = [numbers[f"{prefix}img_shape{i}"].astype(np.int32) for i in indices]
        self.boxes = [
            swap_xy(numbers[f"{prefix}gt_boxes{i}"].astype(np.float32), axis=-1) for i in indices
        ]
        category_ids = np.asarray(imported.category_ids)
        self.classes = [category_ids[numbers[f"{prefix}gt_labels{i}"]] for i in indices]
        targets = [self._label(i) for i in indices]
        sizes = np.asarray(self.sizes, np.float32)
        self.labels = {
            **tf.nest.map_structure(lambda *rows: tf.stack(rows), *targets),
            "image_info": tf.constant(np.stack([sizes, sizes, sizes * 0 + 1, sizes * 0], axis=1)),
            "anchor_boxes": self.anchors,
            "gt_boxes": tf.constant(_padded(self.boxes, self._parser.max_num_instances)),
            "gt_classes": tf.constant(
                _padded(self.classes, self._parser.max_num_instances), tf.int32
            ),
        }

    def _label(self, index: int) -> dict[str, Any]:
        boxes, classes = tf.constant(self.boxes[index]), tf.constant(self.classes[index])
        place = (self._anchors_of(index), self._padded_sizes[index], boxes)
        if self._is_retinanet:
            return mmdetection_labels.label_retinanet(*place, classes, *self._thresholds())
        return mmdetection_labels.label_rpn(*place, *self._thresholds())

    def _anchors_of(self, index: int) -> dict[str, tf.Tensor]:
        return {level: boxes[index] for level, boxes in self.anchors.items()}

    def _thresholds(self) -> tuple[float, float]:
        """Returns the IoUs from which an anchor is positive, and below which it is negative."""
        parser = self._parser
        if self._is_retinanet:
            return parser.match_threshold, parser.unmatched_threshold
        return parser.rpn_match_threshold, parser.rpn_unmatched_threshold

    def nudged(self, seed: int) -> "_Batch":
        """Returns the batch with other images: changed about as much as by rounding them."""
        other = copy.copy(self)
        noise = tf.random.stateless_normal(self.images.shape, [seed, 0])
        other.images = self.images * (1 + _NUDGE * noise)
        return other

    def assignments(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the objects and the largest IoUs of an image's anchors, as in MMDetection."""
        least = mmdetection_labels.RPN_MIN_POSITIVE_IOU
        if self._is_retinanet:
            least = mmdetection_labels.RETINANET_MIN_POSITIVE_IOU
        assigned, max_ious = mmdetection_labels.assign(
            self._anchors_of(index),
            self._padded_sizes[index],
            tf.constant(self.boxes[index]),
            *self._thresholds(),
            least,
        )
        return assigned.numpy(), max_ious.numpy()

    def sample_anchors(self, numbers: Numbers) -> None:
        """Keeps only the anchors that MMDetection has drawn."""
        targets = self.labels["rpn_score_targets"]
        flat = np.full(
            [len(self.images), sum(x[0].shape.num_elements() for x in targets.values())], -1
        )
        for index, row in enumerate(flat):
            row[numbers[f"sample{index}_pos"]] = 1
            row[numbers[f"sample{index}_neg"]] = 0
        parts = tf.split(
            tf.constant(flat, tf.int32),
            [x[0].shape.num_elements() for x in targets.values()],
            axis=1,
        )
        self.labels["rpn_score_targets"] = {
            level: tf.reshape(part, x.shape)
            for (level, x), part in zip(targets.items(), parts, strict=True)
        }


class _Step:
    """A detector's training step."""

    def __init__(self, imported: Imported):
        self.names = _Names(imported)
        self.model = imported.model
        self.task: base_task.Task = task_factory.get_task(imported.params.task)
        self.assignments = {
            a.name: a
            for a in weights.detector_assignments(
                imported.detector, imported.model, imported.category_ids
            )
        }

    def by_name(self, of_trained: Sequence[tf.Tensor]) -> Numbers:
        """Returns values of the trained variables by the names of the assignments."""
        variables = self.model.trainable_variables
        values = {id(v): value.numpy() for v, value in zip(variables, of_trained, strict=True)}
        return {
            name: values[id(a.variable)]
            for name, a in self.assignments.items()
            if id(a.variable) in values
        }

    def losses(self, batch: _Batch) -> dict[str, tf.Tensor]:
        """Returns the losses by their names here."""
        labels, kwargs = batch.labels, {}
        if not self.names.is_retinanet:
            kwargs = {key: labels[key] for key in ("anchor_boxes", "gt_boxes", "gt_classes")}
            kwargs["image_shape"] = labels["image_info"][:, 1]
        outputs = self.model(batch.images, training=True, **kwargs)
        losses = self.task.build_losses(outputs, labels)
        if self.names.is_retinanet:
            names = ("total_loss", "cls_loss", "box_loss", "model_loss")
            losses = dict(zip(names, losses, strict=True))
        return losses

    def gradients(self, batch: _Batch) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Returns the losses, and the gradient of their total for each trained variable.

        Operation by operation: what TensorFlow makes of a whole graph rounds differently, and a
        ReLU that flips for it changes gradients by several per cent.
        """
        with tf.GradientTape() as tape:
            losses = self.losses(batch)
        trained = self.model.trainable_variables
        zero = tf.UnconnectedGradients.ZERO
        return losses, tape.gradient(losses["total_loss"], trained, unconnected_gradients=zero)


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stacks arrays of different lengths, padded with -1."""
    padded = np.full([len(rows), length, *rows[0].shape[1:]], -1, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _fed_samples(imported: Imported, batch: _Batch, numbers: Numbers) -> "_FedSampler":
    """Returns a sampler that gives the RoIs that MMDetection has drawn."""
    number = len(batch.images)
    rois, boxes, classes, objects = [], [], [], []
    for image in range(number):
        key = f"sample{number + image}"
        order = np.concatenate([numbers[f"{key}_pos"], numbers[f"{key}_neg"]])
        gt_inds = numbers[f"assign{number + image}_gt_inds"]
        # Ground truth is in front of the proposals.
        own = np.arange(1, len(batch.boxes[image]) + 1)
        objects.append(np.concatenate([own, gt_inds])[order] - 1)
        is_object = objects[-1] >= 0
        rois.append(swap_xy(numbers[f"{key}_boxes"], axis=-1))
        boxes.append(np.where(is_object[:, None], batch.boxes[image][objects[-1]], 0))
        classes.append(np.where(is_object, batch.classes[image][objects[-1]], 0))
    length = max(map(len, rois))
    return _FedSampler([tf.constant(_padded(x, length)) for x in (rois, boxes, classes, objects)])


class _FedSampler(keras.layers.Layer):
    """A sampler whose samples are given: RoIs, their objects' boxes and classes, and objects."""

    def __init__(self, samples: Sequence[tf.Tensor]):
        super().__init__()
        self._samples = samples

    def call(self, boxes: tf.Tensor, *args: Any) -> tuple[tf.Tensor, ...]:
        """Returns the samples."""
        rois, gt_boxes, classes, objects = self._samples
        return rois, tf.cast(gt_boxes, rois.dtype), classes, tf.cast(objects, tf.int32)

    def get_config(self) -> dict[str, Any]:
        """Returns what a sampler of Model Garden must tell."""
        return {"mix_gt_boxes": True}


def _compare_assignments(batch: _Batch, numbers: Numbers) -> Iterator[Comparison]:
    for index in range(len(batch.images)):
        assigned, max_ious = batch.assignments(index)
        yield from _compare_assignment(f"assign{index}", assigned, max_ious, numbers)


def _compare_roi_assignments(batch: _Batch, numbers: Numbers) -> Iterator[Comparison]:
    for index in range(len(batch.images)):
        rois = tf.constant(swap_xy(numbers[f"proposals{index}_boxes"], axis=-1))
        assigned, max_ious = assignment.assign_max_iou(rois, batch.boxes[index], 0.5, 0.5)
        name = f"assign{len(batch.images) + index}"
        yield from _compare_assignment(name, assigned.numpy(), max_ious.numpy(), numbers)


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


def _compare_proposals(step: _Step, batch: _Batch, numbers: Numbers) -> Iterator[Comparison]:
    scores, boxes = step.model.rpn_head(step.model.decoder(step.model.backbone(batch.images)))[:2]
    rois, roi_scores = step.model.roi_generator(
        boxes, scores, batch.anchors, batch.labels["image_info"][:, 1], training=True
    )
    for index in range(len(batch.images)):
        names = (f"proposals{index}_boxes", f"proposals{index}_scores")
        yield from verify.compare_proposals(
            names, rois[index].numpy(), roi_scores[index].numpy(), numbers
        )


def _compare_losses(
    names: _Names, losses: Mapping[str, tf.Tensor], numbers: Numbers
) -> Iterator[Comparison]:
    found = names.losses_in_mmdetection(losses)
    found["total"] = found.pop("loss")
    for name, value in found.items():
        deviation = _relative(value, float(np.sum(numbers[f"loss:{name}"])))
        yield Comparison(f"loss:{name}", deviation, LOSS_TOLERANCE, "relative")


def _compare_gradients(
    step: _Step, batch: _Batch, gradients: Sequence[tf.Tensor], numbers: Numbers
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


def _compare_training(step: _Step, imported: Imported, numbers: Numbers) -> Iterator[Comparison]:
    """Trains as MMDetection did, and once more from nudged images; restores the weights."""
    batches = [
        _Batch(imported, numbers, numbers[f"traj_input{turn}"], f"traj{turn}_")
        for turn in range(_num_turns(numbers))
    ]
    if not step.names.is_retinanet:
        step.model.roi_sampler = [_everything(imported)]
    initial = {name: a.variable.numpy() for name, a in step.assignments.items()}
    found = _train(step, batches, numbers)
    nudged = _train(step, [batch.nudged(0) for batch in batches], numbers)
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


@dataclasses.dataclass(frozen=True)
class _Training:
    """What a training has given.

    Attributes:
      losses: of every step, by MMDetection's names.
      norms: of every step, of the gradient before clipping.
      weights: at the end, by the names of the assignments.
    """

    losses: list[dict[str, float]]
    norms: list[float]
    weights: Numbers


def _train(step: _Step, batches: Sequence[_Batch], numbers: Numbers) -> _Training:
    """Trains as in a file; the weights of the detector are the same afterwards."""
    all_losses, norms = [], []
    before = [variable.numpy() for variable in step.model.variables]
    optimizer = TorchSGD(momentum=0.9, weight_decay=1e-4, global_clipnorm=_CLIP_NORM)
    for index in range(len(numbers["traj"])):
        share = min(1 / 3 + 2 / 3 * index / _WARMUP_STEPS, 1)
        optimizer.learning_rate = float(numbers["traj_lr"]) * share
        losses, gradients = step.gradients(batches[index % len(batches)])
        optimizer.apply_gradients(zip(gradients, step.model.trainable_variables, strict=True))
        all_losses.append(step.names.losses_in_mmdetection(losses))
        norms.append(float(tf.linalg.global_norm(gradients)))
    trained = {name: a.variable.numpy() for name, a in step.assignments.items()}
    for variable, value in zip(step.model.variables, before, strict=True):
        variable.assign(value)
    return _Training(all_losses, norms, trained)


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
    step: _Step, initial: Numbers, found: Numbers, nudged: Numbers, numbers: Numbers
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


def _everything(imported: Imported) -> IoUBalancedROISampler:
    """Returns a sampler that takes every proposal and every object."""
    task = imported.params.task
    num_objects = task.train_data.parser.max_num_instances
    return IoUBalancedROISampler(
        num_sampled_rois=task.model.roi_generator.num_proposals + num_objects,
        foreground_fraction=1.0,
        instance_balanced=False,
        iou_balanced=False,
        ignore_fillers=True,
        seed=0,
    )


def _num_turns(numbers: Numbers) -> int:
    """Returns how many batches take turns in the training of a file; 0 without one."""
    return sum(bool(re.fullmatch(r"traj_input\d+", name)) for name in numbers)


def _relative(value: float, expected: float) -> float:
    return abs(value - expected) / max(abs(expected), np.finfo(np.float32).tiny)
