"""Batch norm that rounds as in PyTorch."""

import tensorflow as tf

from libra_tf.compat import keras

# A power of two, so that 1 - epsilon + epsilon is exactly 1.
_EPSILON = 2.0**-16


@keras.utils.register_keras_serializable(package="libra_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch norm that computes the same as PyTorch's in inference.

    PyTorch computes `x * scale + shift`, Keras `(x - mean) * scale + beta`. They round differently,
    and after fifty layers the results differ as much as those of float32 and float64.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, **kwargs) -> tf.Tensor:
        """Normalises; see Keras' `BatchNormalization`."""
        training = self._get_training_value(training)
        if not isinstance(training, (bool, int)) or training:
            return super().call(inputs, training=training, **kwargs)
        scale = self.gamma / tf.sqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        # With a mean of 0 and a variance of 1, the fused operation only multiplies and adds. It
        # also supports half precision.
        outputs, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=shift,
            mean=tf.zeros_like(shift),
            variance=tf.ones_like(scale) - _EPSILON,
            epsilon=_EPSILON,
            is_training=False,
        )
        return outputs


@keras.utils.register_keras_serializable(package="libra_tf")
class FrozenStatisticsNormalization(BatchNormalization):
    """Batch norm that trains scale and shift but never updates its statistics.

    MMDetection's `norm_eval=True`. A model that is built with `trainable=False` for its batch norms
    still trains these two; to freeze them as well, set `trainable` of the layer.

    Args:
      trainable: has no effect here.
      **kwargs: arguments of Keras' `BatchNormalization`.
    """

    def __init__(self, trainable: bool = True, **kwargs):
        del trainable
        super().__init__(**kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None, **kwargs) -> tf.Tensor:
        """Normalises with the statistics that the layer has."""
        del training
        return super().call(inputs, training=False, **kwargs)


def norm_class(is_trainable: bool) -> type[BatchNormalization]:
    """Returns the batch norm for a config's `bn_trainable`.

    Args:
      is_trainable: whether training updates the statistics.
    """
    return BatchNormalization if is_trainable else FrozenStatisticsNormalization
