"""MMDetection's training losses.

Sums over what was sampled, divided by a number that all replicas share, so that several devices
compute the gradients of one with the whole batch.
"""

from collections.abc import Mapping

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.losses import focal_loss, loss_utils

from libra_tf.compat import keras
from libra_tf.losses import BalancedL1Loss

_SUM = keras.losses.Reduction.SUM
# `[B, height, width, anchors * size]` by level -> `[B, anchors in all, size]`.
_flatten = loss_utils.multi_level_flatten

Levels = Mapping[str, tf.Tensor]


def retinanet_losses(
    outputs: Mapping[str, Levels], labels: Mapping[str, tf.Tensor], losses: hyperparams.Config
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the losses of RetinaNet: focal loss and box loss, both over the positive anchors.

    Args:
      outputs: `cls_outputs` (logits) and `box_outputs` (encoded) by level, float32
        `[B, height, width, anchors * size]`.
      labels: `cls_targets` and `box_targets` by level, likewise; `cls_weights` and `box_weights`,
        float32 `[B, anchors in all]`; see `libra_tf.dataloaders.mmdetection_labels`.
      losses: config of the losses.

    Returns:
      The class loss, and the box loss as a mean over the four coordinates, float32 scalars.
    """
    is_positive = labels["box_weights"]
    num_positives = _over_replicas(_at_least_one(tf.reduce_sum(is_positive, axis=1)))
    targets = _flatten(labels["cls_targets"], 1)[..., 0]
    num_channels = outputs["cls_outputs"][min(outputs["cls_outputs"])].shape[-1]
    num_anchors = labels["cls_targets"][min(labels["cls_targets"])].shape[-1]
    logits = _flatten(outputs["cls_outputs"], num_channels // num_anchors)
    # The first class is the background, which has no probability of its own.
    one_hot = tf.one_hot(tf.cast(targets, tf.int32), logits.shape[-1])[..., 1:]
    loss_fn = focal_loss.FocalLoss(
        losses.focal_loss_alpha, losses.focal_loss_gamma, keras.losses.Reduction.NONE
    )
    cls_loss = tf.reduce_sum(
        loss_fn.call(one_hot, logits[..., 1:]) * labels["cls_weights"][..., tf.newaxis]
    )
    box_loss = sum_box_loss(
        losses,
        losses.huber_loss_delta,
        _flatten(labels["box_targets"], 4),
        _flatten(outputs["box_outputs"], 4),
        is_positive,
    )
    return cls_loss / num_positives, box_loss / (4 * num_positives)


def rpn_losses(
    outputs: Mapping[str, Levels], labels: Mapping[str, Levels]
) -> tuple[tf.Tensor, ...]:
    """Returns the losses of the RPN over the sampled anchors: cross-entropy, and L1 of the boxes.

    Args:
      outputs: `rpn_scores` (logits) and `rpn_boxes` (encoded) by level, float32
        `[B, height, width, anchors * size]`.
      labels: `rpn_score_targets`, int32 (1, 0, or -1 for anchors that are not sampled), and
        `rpn_box_targets`, float32, by level, likewise.

    Returns:
      The score loss and the box loss, float32 scalars.
    """
    targets = _flatten(labels["rpn_score_targets"], 1)[..., 0]
    is_positive, is_negative = (tf.cast(tf.equal(targets, value), tf.float32) for value in (1, 0))
    # MMDetection counts at least one positive and one negative in every image.
    counts = [_at_least_one(tf.reduce_sum(x, axis=1)) for x in (is_positive, is_negative)]
    num_sampled = _over_replicas(tf.add_n(counts))
    logits = _flatten(outputs["rpn_scores"], 1)[..., 0]
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=is_positive, logits=logits)
    score_loss = tf.reduce_sum(cross_entropy * (is_positive + is_negative))
    errors = _flatten(outputs["rpn_boxes"], 4) - _flatten(labels["rpn_box_targets"], 4)
    box_loss = tf.reduce_sum(tf.abs(errors) * is_positive[..., tf.newaxis])
    return score_loss / num_sampled, box_loss / num_sampled


def roi_losses(
    outputs: Mapping[str, tf.Tensor], losses: hyperparams.Config, class_agnostic: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the losses of the second stage over the sampled RoIs: cross-entropy and box loss.

    Args:
      outputs: `class_outputs`, float32 `[B, K, classes]`, logits; `box_outputs`, float32
        `[B, K, classes * 4]` or `[B, K, 4]`, encoded; `class_targets`, int `[B, K]` (0 for the
        background, -1 for a RoI that only fills the shape); and `box_targets`, float32 `[B, K, 4]`,
        encoded.
      losses: config of the losses.
      class_agnostic: whether all classes share one box.

    Returns:
      The class loss and the box loss, float32 scalars.
    """
    targets = tf.cast(outputs["class_targets"], tf.int32)
    is_sampled = tf.cast(targets >= 0, tf.float32)
    num_sampled = _over_replicas(tf.reduce_sum(is_sampled))
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.maximum(targets, 0), logits=outputs["class_outputs"]
    )
    boxes = outputs["box_outputs"]
    if not class_agnostic:
        batch_size, num_rois = tf.unstack(tf.shape(boxes)[:2])
        boxes = tf.reshape(boxes, [batch_size, num_rois, -1, 4])
        boxes = tf.gather(boxes, tf.maximum(targets, 0), batch_dims=2)
    box_loss = sum_box_loss(
        losses,
        losses.frcnn_huber_loss_delta,
        outputs["box_targets"],
        boxes,
        tf.cast(targets > 0, tf.float32),
    )
    return tf.reduce_sum(cross_entropy * is_sampled) / num_sampled, box_loss / num_sampled


def sum_box_loss(
    losses: hyperparams.Config,
    huber_delta: float,
    targets: tf.Tensor,
    outputs: tf.Tensor,
    weights: tf.Tensor,
) -> tf.Tensor:
    """Returns the box loss that a config chooses, summed over boxes and coordinates.

    Args:
      losses: config of the losses, with `box_loss`.
      huber_delta: where Huber's loss becomes linear.
      targets: float32 `[..., 4]`, encoded boxes.
      outputs: float32 `[..., 4]`, predicted boxes, likewise.
      weights: float32 `[...]`, the weight of every box.

    Returns:
      A float32 scalar.
    """
    loss_fn = {
        "l1": lambda: keras.losses.MeanAbsoluteError(reduction=_SUM),
        "huber": lambda: keras.losses.Huber(huber_delta, reduction=_SUM),
        "balanced_l1": lambda: BalancedL1Loss(**losses.balanced_l1.as_dict(), reduction=_SUM),
    }[losses.box_loss]()
    # The loss is a mean over the coordinates.
    return 4 * loss_fn(targets, outputs, sample_weight=weights)


def _at_least_one(counts_of_images: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the counts of all images, each at least 1."""
    return tf.reduce_sum(tf.maximum(counts_of_images, 1.0))


def _over_replicas(count: tf.Tensor) -> tf.Tensor:
    """Returns the mean of a count over the replicas, at least 1; the losses are averaged, too."""
    mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, count)
    return tf.maximum(mean, 1.0)
