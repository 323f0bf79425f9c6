"""Which boxes stand for nothing."""

import tensorflow as tf


def is_object(boxes: tf.Tensor) -> tf.Tensor:
    """Returns whether each box is one, and not padding, which Model Garden fills with -1.

    Args:
      boxes: float `[..., 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the image; a box that lies
        all above or left of the image would count as padding.

    Returns:
      bool `[...]`.
    """
    return tf.reduce_max(boxes, axis=-1) >= 0


def is_empty(boxes: tf.Tensor) -> tf.Tensor:
    """Returns whether each box has no area, as padding does, be it of -1 or of 0.

    Args:
      boxes: float `[..., 4]`, `[ymin, xmin, ymax, xmax]`.

    Returns:
      bool `[...]`.
    """
    return tf.reduce_any(boxes[..., 2:] <= boxes[..., :2], axis=-1)
