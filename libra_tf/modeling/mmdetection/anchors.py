"""MMDetection's anchors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Images are padded at the bottom and on the right to sides that are multiples of this.
PAD_MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class AnchorGenerator:
    """Generates the anchors of a pyramid as MMDetection's `AnchorGenerator` does.

    Anchors are centred at the top left corner of a cell, not in its middle. Within a cell, all
    scales of the first aspect ratio come first. The arguments are those of Model Garden's
    `build_anchor_generator`, so this class can replace it.

    Attributes:
      min_level: finest level.
      max_level: coarsest level.
      num_scales: anchors per octave and aspect ratio.
      aspect_ratios: ratios of width to height.
      anchor_size: side of the smallest square anchor of a level, in strides of that level.
    """

    min_level: int
    max_level: int
    num_scales: int
    aspect_ratios: Sequence[float]
    anchor_size: float

    def __call__(self, image_size: Sequence[Any]) -> dict[str, tf.Tensor]:
        """Returns the anchors of an image.

        Args:
          image_size: height and width in pixels, padding included; ints or int tensors.

        Returns:
          By level, float32 `[height, width, anchors * 4]`, each `[ymin, xmin, ymax, xmax]`.
        """
        levels = range(self.min_level, self.max_level + 1)
        return {str(level): self._of_level(image_size, level) for level in levels}

    def _of_level(self, image_size: Sequence[Any], level: int) -> tf.Tensor:
        stride = 2**level
        height, width = (-(-size // stride) for size in image_size)
        corners = self._around_origin(stride)
        y, x = (stride * tf.range(size) for size in (height, width))
        y, x = tf.meshgrid(y, x, indexing="ij")
        centers = tf.cast(tf.stack([y, x, y, x], axis=-1), tf.float32)
        anchors = centers[:, :, tf.newaxis] + corners
        return tf.reshape(anchors, [height, width, corners.size])

    def _around_origin(self, stride: int) -> np.ndarray:
        """Returns the anchors of the cell at the origin, `[anchors, 4]`."""
        scales = self.anchor_size * 2.0 ** (np.arange(self.num_scales) / self.num_scales)
        roots = np.sqrt(self.aspect_ratios)
        widths = stride * (roots[:, np.newaxis] * scales).reshape(-1)
        heights = stride * (scales / roots[:, np.newaxis]).reshape(-1)
        corners = np.stack([-heights, -widths, heights, widths], axis=-1) / 2
        return corners.astype(np.float32)


def own_padded_size(size: tf.Tensor) -> tf.Tensor:
    """Returns the sides of an image with its own padding, int32 `[2]`.

    Args:
      size: int32 `[2]`, height and width without padding, in pixels.
    """
    return -(-size // PAD_MULTIPLE) * PAD_MULTIPLE


def is_valid(anchors: Mapping[str, tf.Tensor], image_size: tf.Tensor) -> tf.Tensor:
    """Returns which anchors have their cell on an image or its own padding.

    What lies beyond is there because of larger images of the batch. MMDetection calls those anchors
    invalid, and leaves them out of training.

    Args:
      anchors: by level, `[height, width, anchors * 4]`.
      image_size: `[2]`, height and width of the image, with or without its own padding, in pixels.

    Returns:
      bool `[N]`, for the anchors of all levels.
    """
    padded_size = own_padded_size(tf.cast(image_size, tf.int32))
    flags = []
    for level, of_level in anchors.items():
        height, width = tf.unstack(tf.shape(of_level)[:2])
        rows, columns = tf.unstack(-(-padded_size // 2 ** int(level)))
        is_inside = (tf.range(height) < rows)[:, tf.newaxis] & (tf.range(width) < columns)
        flags.append(tf.repeat(tf.reshape(is_inside, [-1]), of_level.shape[2] // 4))
    return tf.concat(flags, axis=0)
