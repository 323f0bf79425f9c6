"""Repeats MMDetection's training steps with an imported detector.

The images, their objects and what MMDetection has drawn at random are in a file of its numbers.
`libra_tf/checkpoints/verify_training.py` says what such a file holds, and compares the rest of it.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import base_task, task_factory

from libra_tf.checkpoints import weights
from libra_tf.checkpoints.importing import Imported
from libra_tf.checkpoints.verify import Numbers
from libra_tf.compat import keras
from libra_tf.dataloaders import mmdetection_labels
from libra_tf.layers import IoUBalancedROISampler
from libra_tf.modeling.mmdetection.boxes import swap_xy
from libra_tf.modeling.torch_sgd import TorchSGD
from libra_tf.ops import assignment

# The size of the last bits of an image's numbers, as a share of them.
_NUDGE = 1e-7
_CLIP_NORM, _WARMUP_STEPS = 35.0, 10
# MMDetection's names of the losses, and their names and factors here.
_RETINANET_LOSSES = {"loss_cls": ("cls_loss", 1.0), "loss_bbox": ("box_loss", 4.0)}
_FASTERRCNN_LOSSES = {
    "loss_rpn_cls": ("rpn_score_loss", 1.0),
    "loss_rpn_bbox": ("rpn_box_loss", 1.0),
    "loss_cls": ("frcnn_cls_loss", 1.0),
    "loss_bbox": ("frcnn_box_loss", 1.0),
}


class LossNames:
    """What the losses of a detector are called in MMDetection.

    Args:
      imported: the detector.

    Attributes:
      is_retinanet: whether it is a RetinaNet; otherwise it is a Faster R-CNN.
      kind: which of the two, for messages.
      losses: by MMDetection's name, the name of a loss here and its factor there.
    """

    def __init__(self, imported: Imported):
        self.is_retinanet = imported.detector.kind == "retinanet"
        self.kind = "RetinaNet" if self.is_retinanet else "Faster R-CNN"
        self.losses = _RETINANET_LOSSES if self.is_retinanet else _FASTERRCNN_LOSSES

    def losses_in_mmdetection(self, losses: Mapping[str, tf.Tensor]) -> dict[str, float]:
        """Returns the losses under MMDetection's names, and the total as `loss`.

        Args:
          losses: the losses by their names here.
        """
        named = {theirs: float(losses[ours]) * x for theirs, (ours, x) in self.losses.items()}
        return {**named, "loss": float(losses["total_loss"])}


class Batch:
    """A batch of a file, labelled as in training.

    Args:
      imported: the detector that labels it.
      numbers: the file.
      images: the batch's images, float32 `[B, 3, height, width]`.
      prefix: what the names of all else that belongs to it begin with.

    Attributes:
      images: float32 `[B, height, width, 3]`.
      anchors: by level, float32 `[B, height, width, anchors * 4]`.
      boxes: of each image, float32 `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      classes: of each image, int `[M]`, category ids.
      labels: what a training step takes.
    """

    def __init__(self, imported: Imported, numbers: Numbers, images: np.ndarray, prefix: str):
        self.images = tf.constant(images.transpose(0, 2, 3, 1))
        self._is_retinanet = imported.detector.kind == "retinanet"
        self._task = imported.params.task
        self._parser = self._task.train_data.parser
        self.anchors = imported.model.make_anchors(self.images)
        indices = range(len(images))
        self._padded_sizes = [
            tf.constant(numbers.get(f"{prefix}pad_shape{i}", images.shape[2:]), tf.int32)
            for i in indices
        ]
        self.boxes = [
            swap_xy(numbers[f"{prefix}gt_boxes{i}"].astype(np.float32), axis=-1) for i in indices
        ]
        category_ids = np.asarray(imported.category_ids)
        self.classes = [category_ids[numbers[f"{prefix}gt_labels{i}"]] for i in indices]
        targets = [self._label(i) for i in indices]
        sizes = [numbers[f"{prefix}img_shape{i}"].astype(np.int32) for i in indices]
        sizes = np.asarray(sizes, np.float32)
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

    def nudged(self, seed: int) -> "Batch":
        """Returns the batch with other images: changed about as much as by rounding them.

        Args:
          seed: determines the change.
        """
        other = copy.copy(self)
        noise = tf.random.stateless_normal(self.images.shape, [seed, 0])
        other.images = self.images * (1 + _NUDGE * noise)
        return other

    def assign_anchors(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Assigns the anchors of an image to its objects, as in MMDetection.

        Args:
          index: of the image.

        Returns:
          The objects and the largest IoUs, see `libra_tf.ops.assignment`.
        """
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

    def assign_rois(self, index: int, rois: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Assigns RoIs of an image to its objects, as in MMDetection.

        Args:
          index: of the image.
          rois: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.

        Returns:
          The objects and the largest IoUs, see `libra_tf.ops.assignment`.
        """
        sampler = self._task.model.roi_sampler
        assigned, max_ious = assignment.assign_max_iou(
            tf.constant(rois),
            self.boxes[index],
            sampler.foreground_iou_threshold,
            sampler.background_iou_high_threshold,
        )
        return assigned.numpy(), max_ious.numpy()

    def sample_anchors(self, numbers: Numbers) -> None:
        """Keeps only the anchors that MMDetection has drawn.

        Args:
          numbers: the file.
        """
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


class Step:
    """A detector's training step.

    Args:
      imported: the detector.

    Attributes:
      names: of its losses.
      model: the Keras model.
      assignments: by name, which weight of MMDetection belongs to which variable.
    """

    def __init__(self, imported: Imported):
        self.names = LossNames(imported)
        self.model = imported.model
        self._task: base_task.Task = task_factory.get_task(imported.params.task)
        self.assignments = {
            a.name: a
            for a in weights.detector_assignments(
                imported.detector, imported.model, imported.category_ids
            )
        }

    def by_name(self, of_trained: Sequence[tf.Tensor]) -> Numbers:
        """Returns values of the trained variables by the names of the assignments.

        Args:
          of_trained: a value for each trained variable.
        """
        variables = self.model.trainable_variables
        values = {id(v): value.numpy() for v, value in zip(variables, of_trained, strict=True)}
        return {
            name: values[id(a.variable)]
            for name, a in self.assignments.items()
            if id(a.variable) in values
        }

    def feed_samples(self, batch: Batch, numbers: Numbers) -> None:
        """Makes the second stage take the RoIs that MMDetection has drawn.

        Args:
          batch: the batch that they were drawn for.
          numbers: the file.
        """
        self.model.roi_sampler = [_fed_samples(batch, numbers)]

    def sample_everything(self) -> None:
        """Makes the second stage take every proposal and every object."""
        task = self._task.task_config
        num_objects = task.train_data.parser.max_num_instances
        sampler = IoUBalancedROISampler(
            num_sampled_rois=task.model.roi_generator.num_proposals + num_objects,
            foreground_fraction=1.0,
            instance_balanced=False,
            iou_balanced=False,
            ignore_fillers=True,
            seed=0,
        )
        self.model.roi_sampler = [sampler]

    def propose(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns the proposals of a training step.

        Args:
          batch: what they are for.

        Returns:
          boxes: float32 `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels, padded with boxes
            without area.
          scores: float32 `[B, N]`.
        """
        model = self.model
        scores, boxes = model.rpn_head(model.decoder(model.backbone(batch.images)))[:2]
        rois, roi_scores = model.roi_generator(
            boxes, scores, batch.anchors, batch.labels["image_info"][:, 1], training=True
        )
        return rois.numpy(), roi_scores.numpy()

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns the losses by their names here.

        Args:
          batch: what to compute them for.
        """
        labels, kwargs = batch.labels, {}
        if not self.names.is_retinanet:
            kwargs = {key: labels[key] for key in ("anchor_boxes", "gt_boxes", "gt_classes")}
            kwargs["image_shape"] = labels["image_info"][:, 1]
        outputs = self.model(batch.images, training=True, **kwargs)
        losses = self._task.build_losses(outputs, labels)
        if self.names.is_retinanet:
            names = ("total_loss", "cls_loss", "box_loss", "model_loss")
            losses = dict(zip(names, losses, strict=True))
        return losses

    def gradients(self, batch: Batch) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Returns the losses, and the gradient of their total for each trained variable.

        Operation by operation: what TensorFlow makes of a whole graph rounds differently, and a
        ReLU that flips for it changes gradients by several per cent.

        Args:
          batch: what to compute them for.
        """
        with tf.GradientTape() as tape:
            losses = self.losses(batch)
        trained = self.model.trainable_variables
        zero = tf.UnconnectedGradients.ZERO
        return losses, tape.gradient(losses["total_loss"], trained, unconnected_gradients=zero)


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training has given.

    Attributes:
      losses: of every step, by MMDetection's names.
      norms: of every step, of the gradient before clipping.
      weights: at the end, by the names of the assignments.
    """

    losses: list[dict[str, float]]
    norms: list[float]
    weights: Numbers


def train(step: Step, batches: Sequence[Batch], numbers: Numbers) -> Training:
    """Trains as in a file; the weights of the detector are the same afterwards.

    Args:
      step: the detector's step.
      batches: they take turns.
      numbers: the file.
    """
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
    return Training(all_losses, norms, trained)


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stacks arrays of different lengths, padded with -1."""
    padded = np.full([len(rows), length, *rows[0].shape[1:]], -1, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _fed_samples(batch: Batch, numbers: Numbers) -> "_FedSampler":
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
