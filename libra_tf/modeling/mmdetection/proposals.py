"""MMDetection's selection of proposals."""

from collections.abc import Mapping

import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.modeling import mixed_precision
from libra_tf.modeling.mmdetection import boxes as box_coder
from libra_tf.ops.boxes import is_empty


@keras.utils.register_keras_serializable(package="libra_tf")
class ROIGenerator(mixed_precision.MultilevelROIGenerator):
    """Proposes RoIs as MMDetection's RPN head does, with Model Garden's arguments.

    It decodes the best `pre_nms_top_k` boxes of each level, drops boxes without area, suppresses
    boxes within each level, and keeps the best `num_proposals` across levels. Score thresholds and
    `pre_nms_min_size_threshold` have no effect. With `use_batched_nms`, suppression is TensorFlow's
    operation, which XLA cannot compile.
    """

    def call(
        self,
        raw_boxes: Mapping[str, tf.Tensor],
        raw_scores: Mapping[str, tf.Tensor],
        anchor_boxes: Mapping[str, tf.Tensor],
        image_shape: tf.Tensor,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Proposes RoIs; see Model Garden's `MultilevelROIGenerator`.

        Returns:
          boxes: float32 `[B, num_proposals, 4]`, `[ymin, xmin, ymax, xmax]` in pixels, best first,
            padded with -1.
          scores: float32 `[B, num_proposals]`, probabilities, 0 for padding.
        """
        prefix = "" if training else "test_"
        top_k = self._config_dict[f"{prefix}pre_nms_top_k"]
        candidates = [
            _best_of_level(
                raw_boxes[level], raw_scores[level], anchor_boxes[level], image_shape, top_k
            )
            for level in sorted(raw_scores, key=int)
        ]
        boxes, scores = (tf.stack(parts, axis=2) for parts in zip(*candidates, strict=True))
        limits = {
            "max_boxes": self._config_dict[f"{prefix}num_proposals"],
            "iou_threshold": self._config_dict[f"{prefix}nms_iou_threshold"],
        }
        if self._config_dict["use_batched_nms"]:
            boxes, scores, _, counts = box_coder.suppress(
                boxes, scores, **limits, score_threshold=box_coder.NO_SCORE / 2
            )
        else:
            boxes, scores, counts = box_coder.suppress_compilable(boxes, scores, **limits)
        is_proposal = tf.sequence_mask(counts, tf.shape(scores)[1])
        return tf.where(is_proposal[..., tf.newaxis], boxes, -1.0), scores


def _best_of_level(
    raw_boxes: tf.Tensor,
    raw_scores: tf.Tensor,
    anchors: tf.Tensor,
    image_shape: tf.Tensor,
    top_k: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes the best boxes of one level.

    Args:
      raw_boxes: float `[B, height, width, anchors * 4]`, encoded.
      raw_scores: float `[B, height, width, anchors]`, logits.
      anchors: float32 `[B, height, width, anchors * 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      image_shape: float32 `[B, 2]`, height and width without padding, in pixels.
      top_k: number of boxes to return.

    Returns:
      boxes: float32 `[B, top_k, 4]`, `[ymin, xmin, ymax, xmax]` in pixels, best first, padded with
        zeros.
      scores: float32 `[B, top_k]`, probabilities; `NO_SCORE` for padding and for boxes without
        area.
    """
    batch_size = tf.shape(raw_scores)[0]
    scores = tf.sigmoid(tf.cast(tf.reshape(raw_scores, [batch_size, -1]), tf.float32))
    count = tf.minimum(top_k, tf.shape(scores)[1])
    scores, indices = tf.math.top_k(scores, count)
    deltas, anchors = (
        tf.gather(tf.cast(tf.reshape(x, [batch_size, -1, 4]), tf.float32), indices, batch_dims=1)
        for x in (raw_boxes, anchors)
    )
    boxes = box_coder.decode(deltas, anchors, image_shape[:, tf.newaxis])
    scores = tf.where(is_empty(boxes), box_coder.NO_SCORE, scores)
    padding = [[0, 0], [0, top_k - count]]
    boxes = tf.pad(boxes, [*padding, [0, 0]])
    scores = tf.pad(scores, padding, constant_values=box_coder.NO_SCORE)
    return tf.ensure_shape(boxes, [None, top_k, 4]), tf.ensure_shape(scores, [None, top_k])
