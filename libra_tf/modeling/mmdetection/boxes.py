"""MMDetection's box coder and suppression, built from those of Model Garden and TensorFlow."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from official.vision.ops import box_ops, nms

from libra_tf.ops.boxes import is_empty

# The sides of a box are at most this many times longer or shorter than those of its anchor.
MAX_RATIO = 1000 / 16
# Score of a box that is not a candidate: below every probability and threshold.
NO_SCORE = -1.0
# Its own inverse.
_YX_FROM_XY = [1, 0, 3, 2]


def swap_xy(values: np.ndarray, axis: int) -> np.ndarray:
    """Converts boxes between x first and y first, whether sizes, corners or deltas.

    Args:
      values: array with groups of four coordinates along one axis, such as x, y, w, h.
      axis: that axis.

    Returns:
      The array with x and y swapped in each group, such as y, x, h, w.
    """
    order = np.arange(values.shape[axis]).reshape(-1, 4)[:, _YX_FROM_XY]
    return np.take(values, order.reshape(-1), axis)


def decode(
    deltas: tf.Tensor,
    anchors: tf.Tensor,
    image_shape: tf.Tensor,
    weights: Sequence[float] | None = None,
) -> tf.Tensor:
    """Decodes boxes and clips them to the image.

    Model Garden limits only how much larger than its anchor a box can be; MMDetection also limits
    how much smaller.

    Args:
      deltas: float `[..., 4]`, `[dy, dx, dh, dw]`.
      anchors: float `[..., 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      image_shape: float `[..., 2]`, height and width without padding, in pixels.
      weights: the four factors that deltas were multiplied by in training; None for ones.

    Returns:
      float `[..., 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
    """
    smallest = -np.log(MAX_RATIO) * np.asarray(weights or [1.0] * 4)
    smallest[:2] = -np.inf
    deltas = tf.maximum(deltas, tf.cast(smallest, deltas.dtype))
    return box_ops.clip_boxes(box_ops.decode_boxes(deltas, anchors, weights), image_shape)


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_boxes: int,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Suppresses boxes within each group, and keeps the best ones across groups.

    Args:
      boxes: float `[B, N, groups, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; or `[B, N, 1, 4]` if
        all groups share the boxes.
      scores: float `[B, N, groups]`.
      max_boxes: maximum number of boxes to keep per image.
      iou_threshold: a box is dropped if its IoU with a better box of its group is higher.
      score_threshold: boxes with lower or equal scores are dropped.

    Returns:
      boxes: float32 `[B, max_boxes, 4]`, best first, padded with zeros.
      scores: float32 `[B, max_boxes]`, 0 for padding.
      groups: int32 `[B, max_boxes]`.
      counts: int32 `[B]`, number of boxes without padding.
    """
    boxes, scores, groups, counts = tf.image.combined_non_max_suppression(
        tf.cast(boxes, tf.float32),
        tf.cast(scores, tf.float32),
        max_output_size_per_class=max_boxes,
        max_total_size=max_boxes,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=False,
    )
    return boxes, scores, tf.cast(groups, tf.int32), counts


def suppress_compilable(
    boxes: tf.Tensor, scores: tf.Tensor, max_boxes: int, iou_threshold: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Does what `suppress` does with operations that XLA compiles; it takes longer on a CPU.

    Args:
      boxes: float `[B, N, groups, 4]`, `[ymin, xmin, ymax, xmax]` in pixels, the best ones of a
        group first; boxes without area count for nothing.
      scores: float `[B, N, groups]`, positive.
      max_boxes: as in `suppress`.
      iou_threshold: as in `suppress`.

    Returns:
      boxes: as in `suppress`.
      scores: as in `suppress`.
      counts: as in `suppress`.
    """
    # Model Garden's suppression counts whatever is not zero as a box to keep.
    boxes = tf.where(is_empty(boxes)[..., tf.newaxis], 0.0, boxes)
    kept = [
        nms.sorted_non_max_suppression_padded(
            tf.cast(of_group[1], tf.float32),
            tf.cast(of_group[0], tf.float32),
            min(max_boxes, boxes.shape[1]),
            iou_threshold,
        )
        for of_group in zip(tf.unstack(boxes, axis=2), tf.unstack(scores, axis=2), strict=True)
    ]
    scores, boxes = (tf.concat(parts, axis=1) for parts in zip(*kept, strict=True))
    scores = tf.where(is_empty(boxes), NO_SCORE, scores)
    missing = max(0, max_boxes - scores.shape[1])
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NO_SCORE)
    boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
    scores, order = tf.math.top_k(scores, max_boxes)
    is_box = scores > NO_SCORE
    counts = tf.reduce_sum(tf.cast(is_box, tf.int32), axis=1)
    return tf.gather(boxes, order, batch_dims=1), tf.where(is_box, scores, 0.0), counts
