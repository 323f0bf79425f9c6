"""MMDetection's selection of detections."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from official.vision.modeling.layers import detection_generator

from libra_tf.modeling.mmdetection import boxes as box_coder
from libra_tf.ops.boxes import is_empty


class DetectionGenerator(detection_generator.DetectionGenerator):
    """Selects detections from the boxes of the second stage.

    Every class of every box is a candidate if its score is above the threshold. `nms_version` and
    `pre_nms_top_k` have no effect.
    """

    def __call__(
        self,
        raw_boxes: tf.Tensor,
        raw_scores: tf.Tensor,
        anchor_boxes: tf.Tensor,
        image_shape: tf.Tensor,
        regression_weights: Sequence[float] | None = None,
        bbox_per_class: bool = True,
    ) -> dict[str, tf.Tensor]:
        """Generates detections; see Model Garden's `DetectionGenerator`."""
        scores = tf.nn.softmax(tf.cast(raw_scores, tf.float32))[..., 1:]
        num_classes = raw_scores.shape[-1] if bbox_per_class else 1
        deltas = tf.reshape(
            tf.cast(raw_boxes, tf.float32), [-1, raw_boxes.shape[1], num_classes, 4]
        )
        if bbox_per_class:
            deltas = deltas[:, :, 1:]
        boxes = box_coder.decode(
            deltas,
            tf.cast(anchor_boxes[:, :, tf.newaxis], tf.float32),
            image_shape[:, tf.newaxis, tf.newaxis],
            regression_weights,
        )
        scores = tf.where(is_empty(anchor_boxes)[..., tf.newaxis], box_coder.NO_SCORE, scores)
        return _finish(self._config_dict, boxes, scores)


class MultilevelDetectionGenerator(detection_generator.MultilevelDetectionGenerator):
    """Selects detections from the anchors of RetinaNet.

    On each level, the best `pre_nms_top_k` pairs of anchor and class are candidates. `nms_version`
    has no effect.
    """

    def __call__(
        self,
        raw_boxes: Mapping[str, tf.Tensor],
        raw_scores: Mapping[str, tf.Tensor],
        anchor_boxes: Mapping[str, tf.Tensor],
        image_shape: tf.Tensor,
        raw_attributes: Mapping[str, tf.Tensor] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Generates detections; see Model Garden's `MultilevelDetectionGenerator`."""
        del raw_attributes
        candidates = [
            self._best_of_level(
                raw_boxes[level], raw_scores[level], anchor_boxes[level], image_shape
            )
            for level in sorted(raw_scores, key=int)
        ]
        boxes, scores = (tf.concat(parts, axis=1) for parts in zip(*candidates, strict=True))
        return _finish(self._config_dict, boxes[:, :, tf.newaxis], scores)

    def _best_of_level(
        self,
        raw_boxes: tf.Tensor,
        raw_scores: tf.Tensor,
        anchors: tf.Tensor,
        image_shape: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Selects the best pairs of anchor and class on one level.

        Args:
          raw_boxes: `[B, height, width, anchors * 4]`, encoded.
          raw_scores: `[B, height, width, anchors * num_classes]`, logits, background first.
          anchors: `[B, height, width, anchors * 4]`, `[ymin, xmin, ymax, xmax]`.
          image_shape: `[B, 2]`, height and width without padding, in pixels.

        Returns:
          boxes: `[B, K, 4]`, one for each pair.
          scores: `[B, K, num_classes - 1]`, the score at the class of the pair, and `NO_SCORE`
            at all others.
        """
        batch_size = tf.shape(raw_scores)[0]
        deltas, anchors = (
            tf.cast(tf.reshape(x, [batch_size, -1, 4]), tf.float32) for x in (raw_boxes, anchors)
        )
        num_classes = raw_scores.shape[-1] * 4 // raw_boxes.shape[-1]
        logits = tf.reshape(tf.cast(raw_scores, tf.float32), [batch_size, -1, num_classes])
        num_classes -= 1
        scores = tf.reshape(tf.sigmoid(logits[..., 1:]), [batch_size, -1])
        count = tf.minimum(self._config_dict["pre_nms_top_k"], tf.shape(scores)[1])
        scores, indices = tf.math.top_k(scores, count)
        deltas, anchors = (
            tf.gather(x, indices // num_classes, batch_dims=1) for x in (deltas, anchors)
        )
        boxes = box_coder.decode(
            deltas, anchors, image_shape[:, tf.newaxis], self._config_dict.get("box_coder_weights")
        )
        is_class = tf.one_hot(indices % num_classes, num_classes, on_value=True, off_value=False)
        is_candidate = is_class & ~is_empty(boxes)[..., tf.newaxis]
        return boxes, tf.where(is_candidate, scores[..., tf.newaxis], box_coder.NO_SCORE)


def _finish(config: Mapping[str, Any], boxes: tf.Tensor, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Suppresses boxes within each class, and names the outputs as Model Garden does."""
    if not config["apply_nms"]:
        return {"decoded_boxes": boxes, "decoded_box_scores": scores}
    boxes, scores, classes, counts = box_coder.suppress(
        boxes,
        scores,
        max_boxes=config["max_num_detections"],
        iou_threshold=config["nms_iou_threshold"],
        score_threshold=config["pre_nms_score_threshold"],
    )
    return {
        "detection_boxes": boxes,
        "detection_scores": scores,
        # Class 0 is the background.
        "detection_classes": classes + 1,
        "num_detections": counts,
    }
