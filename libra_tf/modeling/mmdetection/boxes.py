"""MMDetection's box coder and suppression, made of Model Garden's and TensorFlow's."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from official.vision.ops import box_ops

# A box is at most so many times larger or smaller than its anchor.
MAX_RATIO = 1000 / 16
# Below every probability and threshold: marks what is no candidate.
NO_SCORE = -1.0
# Either way.
_YX_FROM_XY = [1, 0, 3, 2]


def swap_xy(values: np.ndarray, axis: int) -> np.ndarray:
    """Turns boxes x, y, w, h into y, x, h, w or back, also of two corners or of deltas.

    Args:
      values: array with groups of four coordinates on an axis.
      axis: the axis.

    Returns:
      The same with the coordinates of each group in the other order.
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

    Model Garden limits how much larger than its anchor a box is, MMDetection also how much smaller.

    Args:
      deltas: `[..., 4]`, `[dy, dx, dh, dw]`.
      anchors: `[..., 4]`, `[ymin, xmin, ymax, xmax]`.
      image_shape: `[..., 2]`, height and width without padding.
      weights: what the deltas were multiplied by in training; None for ones.

    Returns:
      `[..., 4]`, `[ymin, xmin, ymax, xmax]`.
    """
    smallest = -np.log(MAX_RATIO) * np.asarray(weights or [1.0] * 4)
    smallest[:2] = -np.inf
    deltas = tf.maximum(deltas, tf.cast(smallest, deltas.dtype))
    return box_ops.clip_boxes(box_ops.decode_boxes(deltas, anchors, weights), image_shape)


def is_empty(boxes: tf.Tensor) -> tf.Tensor:
    """Says of boxes `[..., 4]` whether they have no area, as padding has."""
    return tf.reduce_any(boxes[..., 2:] <= boxes[..., :2], axis=-1)


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_boxes: int,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Suppresses boxes within each group, and keeps the best of all groups.

    Args:
      boxes: `[B, N, groups, 4]`, or `[B, N, 1, 4]` for the same in all groups.
      scores: `[B, N, groups]`.
      max_boxes: how many are kept of an image.
      iou_threshold: a box goes if it overlaps a better one of its group by more.
      score_threshold: only higher scores count.

    Returns:
      boxes: `[B, max_boxes, 4]`, best first, zeros behind them.
      scores: `[B, max_boxes]`.
      groups: int32 `[B, max_boxes]`.
      counts: int32 `[B]`, how many are no padding.
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
