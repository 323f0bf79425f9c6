"""The targets of anchors in training, as in MMDetection, in the form of Model Garden's labels."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.vision.ops import box_ops

from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors
from libra_tf.ops import assignment

Levels = Mapping[str, tf.Tensor]

# What a published detector gives an object whose best anchor is below the positive IoU.
RETINANET_MIN_POSITIVE_IOU = 0.0
RPN_MIN_POSITIVE_IOU = 0.3


def label_retinanet(
    anchors: Levels,
    image_size: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_classes: tf.Tensor,
    positive_iou: float,
    negative_iou: float,
) -> dict[str, Any]:
    """Labels the anchors of an image for RetinaNet.

    Args:
      anchors: by level, float32 `[height, width, anchors * 4]`, `[ymin, xmin, ymax, xmax]`.
      image_size: `[2]`, height and width of the image, with or without its own padding, in pixels.
      gt_boxes: float32 `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      gt_classes: int `[M]`.
      positive_iou: IoU from which an anchor is positive.
      negative_iou: IoU below which it is negative.

    Returns:
      `cls_targets` and `box_targets` by level: float32 `[height, width, anchors]` (-1 where there
      is no object) and `[height, width, anchors * 4]`; `cls_weights` and `box_weights`, float32
      `[anchors in all]`: 0 for ignored anchors, and 1 for positive ones.
    """
    assigned, box_targets = _assign_and_encode(
        anchors, image_size, gt_boxes, positive_iou, negative_iou, RETINANET_MIN_POSITIVE_IOU
    )
    is_positive = assigned > 0
    padded = tf.concat([[-1.0], tf.cast(gt_classes, tf.float32)], axis=0)
    cls_targets = tf.gather(padded, tf.maximum(assigned, 0))
    return {
        "cls_targets": _by_level(cls_targets, anchors, 4),
        "box_targets": _by_level(box_targets, anchors, 1),
        "cls_weights": tf.cast(assigned != assignment.IGNORED, tf.float32),
        "box_weights": tf.cast(is_positive, tf.float32),
    }


def label_rpn(
    anchors: Levels,
    image_size: tf.Tensor,
    gt_boxes: tf.Tensor,
    positive_iou: float,
    negative_iou: float,
) -> dict[str, Any]:
    """Labels the anchors of an image for an RPN, before anything is sampled.

    Args:
      anchors: see `label_retinanet`.
      image_size: see `label_retinanet`.
      gt_boxes: see `label_retinanet`.
      positive_iou: see `label_retinanet`.
      negative_iou: see `label_retinanet`.

    Returns:
      `rpn_score_targets` and `rpn_box_targets` by level: int32 `[height, width, anchors]` (1
      positive, 0 negative, -1 ignored) and float32 `[height, width, anchors * 4]`.
    """
    assigned, box_targets = _assign_and_encode(
        anchors, image_size, gt_boxes, positive_iou, negative_iou, RPN_MIN_POSITIVE_IOU
    )
    return {
        "rpn_score_targets": _by_level(tf.minimum(assigned, 1), anchors, 4),
        "rpn_box_targets": _by_level(box_targets, anchors, 1),
    }


def assign(
    anchors: Levels,
    image_size: tf.Tensor,
    gt_boxes: tf.Tensor,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Assigns the anchors of an image to its objects.

    Args:
      anchors: see `label_retinanet`.
      image_size: see `label_retinanet`.
      gt_boxes: see `label_retinanet`.
      positive_iou: see `label_retinanet`.
      negative_iou: see `label_retinanet`.
      min_positive_iou: see `libra_tf.ops.assignment`.

    Returns:
      What `assign_max_iou` returns for the anchors of all levels.
    """
    return assignment.assign_max_iou(
        _flatten(anchors),
        gt_boxes,
        positive_iou,
        negative_iou,
        min_positive_iou,
        mmdetection_anchors.is_valid(anchors, image_size),
    )


def _assign_and_encode(
    anchors: Levels, image_size: tf.Tensor, gt_boxes: tf.Tensor, *ious: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the object of each anchor, `[N]`, and its encoded box, `[N, 4]`, 0 without one."""
    flat = _flatten(anchors)
    assigned, _ = assign(anchors, image_size, gt_boxes, *ious)
    is_positive = (assigned > 0)[:, tf.newaxis]
    # The anchor itself stands in where there is no object: it encodes to zeros.
    padded = tf.concat([tf.zeros([1, 4]), gt_boxes], axis=0)
    matched = tf.where(is_positive, tf.gather(padded, tf.maximum(assigned, 0)), flat)
    return assigned, tf.where(is_positive, box_ops.encode_boxes(matched, flat), 0.0)


def _flatten(anchors: Levels) -> tf.Tensor:
    return tf.concat([tf.reshape(level, [-1, 4]) for level in anchors.values()], axis=0)


def _by_level(values: tf.Tensor, anchors: Levels, divisor: int) -> dict[str, tf.Tensor]:
    """Splits values of all anchors into levels.

    Args:
      values: `[N]` or `[N, 4]`.
      anchors: by level, `[height, width, anchors * 4]`.
      divisor: how many coordinates of an anchor share a value.
    """
    values = tf.reshape(values, [-1])
    sizes = [tf.size(x) // divisor for x in anchors.values()]
    parts = tf.split(values, sizes, num=len(sizes))
    return {
        level: tf.reshape(part, [*tf.unstack(tf.shape(x)[:2]), x.shape[2] // divisor])
        for (level, x), part in zip(anchors.items(), parts, strict=True)
    }
