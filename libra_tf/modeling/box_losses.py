"""Balanced L1 as the box loss of Model Garden's detectors."""

from collections.abc import Mapping

import tensorflow as tf
from official.vision.losses import loss_utils, maskrcnn_losses

from libra_tf.compat import keras
from libra_tf.configs import components
from libra_tf.losses import BalancedL1Loss


def _summed_balanced_l1(config: components.BalancedL1) -> BalancedL1Loss:
    return BalancedL1Loss(
        alpha=config.alpha,
        gamma=config.gamma,
        beta=config.beta,
        form=config.form,
        reduction=keras.losses.Reduction.SUM,
    )


def retinanet_box_loss(
    config: components.BalancedL1,
    box_targets: Mapping[str, tf.Tensor],
    box_outputs: Mapping[str, tf.Tensor],
    box_weights: tf.Tensor,
) -> tf.Tensor:
    """Returns the balanced L1 loss over all anchors, normalised as in Model Garden's RetinaNet.

    Args:
      config: constants of the loss.
      box_targets: by level, float32 `[B, height, width, anchors * 4]`, encoded boxes.
      box_outputs: by level, predicted boxes, likewise.
      box_weights: float32 `[B, total_anchors]`, 1 for positive anchors and 0 for all others.

    Returns:
      A float32 scalar: the mean over the four coordinates, summed over the positive anchors and
      divided by the number of positive anchors plus one.
    """
    return _summed_balanced_l1(config)(
        y_true=loss_utils.multi_level_flatten(box_targets, last_dim=4),
        y_pred=loss_utils.multi_level_flatten(box_outputs, last_dim=4),
        sample_weight=box_weights / (tf.reduce_sum(box_weights) + 1.0),
    )


def positives_over_share(box_weights: tf.Tensor) -> tf.Tensor:
    """Returns the ratio of this replica's positive anchors to the mean over all replicas.

    Model Garden's RetinaNet divides a replica's losses by that replica's own number of positive
    anchors plus one, so the same images produce different gradients on two devices than on one.
    Multiplying by this ratio gives all replicas the same divisor, the one a single device would
    use.

    Args:
      box_weights: float32 `[B, total_anchors]`, 1 for positive anchors and 0 for all others.

    Returns:
      A float32 scalar: (positives of this replica + 1) / ((positives of all + 1) / replicas).
    """
    replica_context = tf.distribute.get_replica_context()
    positives = tf.reduce_sum(box_weights)
    all_positives = replica_context.all_reduce(tf.distribute.ReduceOp.SUM, positives)
    share = (all_positives + 1.0) / replica_context.num_replicas_in_sync
    return (positives + 1.0) / share


class BalancedFastrcnnBoxLoss(maskrcnn_losses.FastrcnnBoxLoss):
    """Model Garden's RoI box loss with balanced L1 instead of Huber.

    Args:
      config: constants of the loss.
      class_agnostic_bbox_pred: whether all classes share one predicted box.
      normalizer: `positives` or `sampled_rois`; see `libra_tf.configs.maskrcnn.Losses`.
    """

    def __init__(
        self,
        config: components.BalancedL1,
        class_agnostic_bbox_pred: bool = False,
        normalizer: str = "sampled_rois",
    ):
        super().__init__(huber_loss_delta=1.0, class_agnostic_bbox_pred=class_agnostic_bbox_pred)
        self._huber_loss = _summed_balanced_l1(config)
        self._normalizer = normalizer

    def _fast_rcnn_box_loss(
        self,
        box_outputs: tf.Tensor,
        box_targets: tf.Tensor,
        class_targets: tf.Tensor,
        normalizer: float = 1.0,
    ) -> tf.Tensor:
        if self._normalizer == "positives":
            return super()._fast_rcnn_box_loss(box_outputs, box_targets, class_targets, normalizer)
        is_positive = tf.cast(class_targets > 0, box_outputs.dtype)
        # The Keras loss averages over the last axis, so that axis holds a single coordinate.
        summed = self._huber_loss(
            box_targets[..., tf.newaxis],
            box_outputs[..., tf.newaxis],
            sample_weight=tf.repeat(is_positive[..., tf.newaxis], 4, axis=-1),
        )
        num_sampled_rois = tf.cast(tf.size(class_targets), summed.dtype)
        return summed / (normalizer * num_sampled_rois)
