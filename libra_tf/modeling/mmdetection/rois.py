"""MMDetection's extraction of RoI features."""

from collections.abc import Mapping

import tensorflow as tf
from official.vision.modeling.layers import roi_aligner

from libra_tf import ops
from libra_tf.compat import keras

# In pixels. The finest level crops RoIs with a square root of the area below twice this.
_FINEST_SCALE = 56
MIN_LEVEL, MAX_LEVEL = 2, 5
# Longer than a side of any box, in pixels.
_LARGE = 1e5


def assign_levels(boxes: tf.Tensor) -> tf.Tensor:
    """Returns the pyramid level to crop each RoI from.

    Args:
      boxes: float `[..., 4]`, `[ymin, xmin, ymax, xmax]` in pixels.

    Returns:
      int32 `[...]`, from 2 to 5.
    """
    height, width = tf.unstack(boxes[..., 2:] - boxes[..., :2], axis=-1)
    octaves = tf.math.log(tf.sqrt(height * width) / _FINEST_SCALE + 1e-6) / tf.math.log(2.0)
    levels = MIN_LEVEL + tf.cast(tf.math.floor(octaves), tf.int32)
    return tf.clip_by_value(levels, MIN_LEVEL, MAX_LEVEL)


@keras.utils.register_keras_serializable(package="libra_tf")
class ROIAligner(roi_aligner.MultilevelROIAligner):
    """Crops RoIs as MMDetection's `SingleRoIExtractor` does.

    `sample_offset` has no effect.
    """

    def call(
        self, features: Mapping[str, tf.Tensor], boxes: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Crops RoIs; see Model Garden's `MultilevelROIAligner`."""
        del training
        levels = assign_levels(boxes)
        # By level and then by size: neighbours are cropped together, or skipped together.
        side = tf.reduce_max(boxes[..., 2:] - boxes[..., :2], axis=-1)
        order = tf.argsort(tf.cast(levels, tf.float32) * _LARGE + side, axis=1, stable=True)
        boxes, levels = (tf.gather(x, order, batch_dims=1) for x in (boxes, levels))
        crops = tf.add_n(
            [
                ops.roi_align(
                    features[str(level)],
                    boxes,
                    spatial_scale=1 / 2**level,
                    output_size=self._config_dict["crop_size"],
                    where=levels == level,
                )
                for level in range(MIN_LEVEL, MAX_LEVEL + 1)
            ]
        )
        return tf.gather(crops, tf.argsort(order, axis=1), batch_dims=1)
