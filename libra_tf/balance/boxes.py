"""The objective level: the errors of predicted boxes, and the slope of the box loss there.

The error of a coordinate is prediction - target, in the units of the box coder.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf
from official.modeling import hyperparams

from libra_tf import ops
from libra_tf.configs import components

# Model Garden's RPN recognises positive anchors by a non-zero target.
_SMALLEST_TARGET = 1e-6


class BoxErrors(NamedTuple):
    """The coordinates that a head predicts, one tensor or one for each level.

    Attributes:
      outputs: float, the predictions.
      errors: float, of the shapes of `outputs`: prediction - target.
      is_positive: bool, of the shapes of `outputs`: the coordinates that the loss counts.
    """

    outputs: list[tf.Tensor]
    errors: list[tf.Tensor]
    is_positive: list[tf.Tensor]


@dataclasses.dataclass(frozen=True)
class BoxLoss:
    """The box loss of a run, coordinate by coordinate.

    Attributes:
      beta: the size of an error from which it is an outlier.
      balanced_l1: the constants of balanced L1, None where the loss is another.
      is_l1: whether it is L1; without either, the loss is Huber.
    """

    beta: float
    balanced_l1: components.BalancedL1 | None = None
    is_l1: bool = False

    def slopes(self, errors: tf.Tensor) -> tf.Tensor:
        """Returns the size of the derivative of the loss.

        Args:
          errors: float `[...]`.

        Returns:
          float `[...]`.
        """
        if self.is_l1:
            return tf.abs(tf.sign(errors))
        if self.balanced_l1 is None:
            return tf.minimum(tf.abs(errors), self.beta)
        with tf.GradientTape() as tape:
            tape.watch(errors)
            loss = ops.balanced_l1(tf.zeros_like(errors), errors, **self.balanced_l1.as_dict())
        return tf.abs(tape.gradient(loss, errors))


def box_loss(losses: hyperparams.Config, huber_delta: float) -> BoxLoss:
    """Returns the box loss of a run.

    Args:
      losses: config of the losses, with `box_loss` and `balanced_l1`.
      huber_delta: the knee of the Huber loss, if that is the loss.
    """
    if losses.box_loss == "huber":
        return BoxLoss(huber_delta)
    if losses.box_loss == "l1":
        # It has no knee of its own; this is where that of balanced L1 would be.
        return BoxLoss(losses.balanced_l1.beta, is_l1=True)
    return BoxLoss(losses.balanced_l1.beta, losses.balanced_l1)


def of_anchors(
    outputs: Mapping[str, tf.Tensor], targets: Mapping[str, tf.Tensor], weights: tf.Tensor
) -> BoxErrors:
    """Returns the errors of RetinaNet's boxes.

    Args:
      outputs: by level, float `[B, H, W, A * 4]`.
      targets: by level, of the same shapes.
      weights: float `[B, N]`, above 0 for the positives among the anchors of all levels.
    """
    sizes = [tf.size(target[0]) // 4 for target in targets.values()]
    parts = tf.split(weights, sizes, axis=1, num=len(sizes))
    is_positive = [
        tf.reshape(tf.repeat(part > 0, 4, axis=1), tf.shape(target))
        for part, target in zip(parts, targets.values(), strict=True)
    ]
    return _errors([outputs[level] for level in targets], list(targets.values()), is_positive)


def of_rpn(
    outputs: Mapping[str, tf.Tensor],
    targets: Mapping[str, tf.Tensor],
    score_targets: Mapping[str, tf.Tensor] | None = None,
) -> BoxErrors:
    """Returns the errors of an RPN's boxes.

    Args:
      outputs: by level, float `[B, H, W, A * 4]`.
      targets: by level, of the same shapes.
      score_targets: by level, int `[B, H, W, A]`, 1 for the anchors that the loss counts, as in
        MMDetection; None if it counts all that have a target, as in Model Garden.
    """
    is_positive = []
    for level, target in targets.items():
        height, width = tf.unstack(tf.shape(target)[1:3])
        by_anchor = tf.reshape(target, [-1, height, width, target.shape[3] // 4, 4])
        positive = tf.reduce_any(tf.abs(by_anchor) > _SMALLEST_TARGET, axis=-1)
        if score_targets is not None:
            positive = tf.equal(score_targets[level], 1)
        is_positive.append(tf.repeat(positive, 4, axis=-1))
    return _errors([outputs[level] for level in targets], list(targets.values()), is_positive)


def of_rois(
    outputs: tf.Tensor, targets: tf.Tensor, classes: tf.Tensor, class_agnostic: bool
) -> BoxErrors:
    """Returns the errors of a detection head's boxes.

    Args:
      outputs: float `[B, K, 4]`, or `[B, K, C * 4]` with a box for each class.
      targets: float `[B, K, 4]`.
      classes: int or float `[B, K]`, 0 for negatives.
      class_agnostic: whether one box is predicted for all classes.
    """
    classes = tf.cast(classes, tf.int32)
    if class_agnostic:
        return _errors([outputs], [targets], [tf.repeat(classes[..., None] > 0, 4, axis=-1)])
    num_classes = outputs.shape[-1] // 4
    of_class = tf.one_hot(classes, num_classes, on_value=True, off_value=False)
    is_positive = tf.repeat(of_class & (classes > 0)[..., None], 4, axis=-1)
    return _errors([outputs], [tf.tile(targets, [1, 1, num_classes])], [is_positive])


def _errors(
    outputs: list[tf.Tensor], targets: list[tf.Tensor], is_positive: list[tf.Tensor]
) -> BoxErrors:
    errors = [output - target for output, target in zip(outputs, targets, strict=True)]
    return BoxErrors(outputs, errors, is_positive)
