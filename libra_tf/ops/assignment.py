"""Assignment of boxes to objects by their IoU, as in MMDetection's `MaxIoUAssigner`."""

import tensorflow as tf

from libra_tf.ops.boxes import is_object

# What `assign_max_iou` gives to a box that belongs to no object. Objects count from 1.
IGNORED = -1
NEGATIVE = 0
# MMDetection's smallest divisor of an IoU, in square pixels.
_MIN_UNION = 1e-6


def pairwise_iou(boxes: tf.Tensor, gt_boxes: tf.Tensor) -> tf.Tensor:
    """Returns the IoU of every box with every object, rounded as in MMDetection.

    Args:
      boxes: float `[..., N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      gt_boxes: float `[..., M, 4]`, likewise.

    Returns:
      float `[..., N, M]`.
    """
    top, left, bottom, right = tf.unstack(boxes[..., tf.newaxis, :], axis=-1)
    gt_top, gt_left, gt_bottom, gt_right = tf.unstack(gt_boxes[..., tf.newaxis, :, :], axis=-1)
    width = tf.minimum(right, gt_right) - tf.maximum(left, gt_left)
    height = tf.minimum(bottom, gt_bottom) - tf.maximum(top, gt_top)
    intersection = tf.maximum(width, 0) * tf.maximum(height, 0)
    areas = (right - left) * (bottom - top) + (gt_right - gt_left) * (gt_bottom - gt_top)
    return intersection / tf.maximum(areas - intersection, _MIN_UNION)


def assign_max_iou(
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float | None = None,
    is_valid: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Assigns boxes to the objects that they overlap most.

    A box is positive from `positive_iou` on, negative below `negative_iou`, and ignored in between.
    With `min_positive_iou`, each object also gets every box whose IoU with it is the largest that
    any box has, if that is at least so much; a box that several objects claim goes to the last.

    Args:
      boxes: float32 `[..., N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      gt_boxes: float32 `[..., M, 4]`, the objects, likewise; boxes of -1 are padding.
      positive_iou: see above.
      negative_iou: see above.
      min_positive_iou: see above; None for no such boxes.
      is_valid: bool `[..., N]`, the boxes that take part; the others are ignored. None for all.

    Returns:
      assigned: int32 `[..., N]`, the object of each box, counted from 1; `NEGATIVE`; or `IGNORED`.
      max_ious: float32 `[..., N]`, the largest IoU of each box with an object, 0 without objects.
    """
    # One column that is no object, so that there is something to take the maximum of.
    ious = tf.where(is_object(gt_boxes)[..., tf.newaxis, :], pairwise_iou(boxes, gt_boxes), -1.0)
    ious = tf.concat([ious, tf.fill(tf.shape(boxes[..., :1]), -1.0)], axis=-1)
    if is_valid is not None:
        ious = tf.where(is_valid[..., tf.newaxis], ious, -1.0)
    max_ious = tf.maximum(tf.reduce_max(ious, axis=-1), 0)
    assigned = tf.where(max_ious < negative_iou, NEGATIVE, IGNORED)
    nearest = tf.argmax(ious, axis=-1, output_type=tf.int32) + 1
    assigned = tf.where(max_ious >= positive_iou, nearest, assigned)
    if min_positive_iou is not None:
        best = tf.reduce_max(ious, axis=-2, keepdims=True)
        claims = (best >= max(min_positive_iou, 0.0)) & tf.equal(ious, best)
        numbers = tf.range(1, tf.shape(ious)[-1] + 1)
        last = tf.reduce_max(tf.where(claims, numbers, 0), axis=-1)
        assigned = tf.where(last > 0, last, assigned)
    if is_valid is not None:
        assigned = tf.where(is_valid, assigned, IGNORED)
    return assigned, max_ious
