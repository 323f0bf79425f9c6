"""Batch norm that rounds as PyTorch's does."""

import tensorflow as tf

from libra_tf.compat import keras

# A variance that is exactly one with this epsilon.
_EPSILON = 2.0**-16


@keras.utils.register_keras_serializable(package="libra_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch norm; with given statistics, it multiplies and adds as PyTorch does.

    PyTorch computes `x * scale + shift`, Keras `(x - mean) * scale + beta`. Both round, and behind
    fifty layers the two ways differ as much as float32 and float64 do.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, **kwargs) -> tf.Tensor:
        """Normalises; see Keras' `BatchNormalization`."""
        training = self._get_training_value(training)
        if not isinstance(training, (bool, int)) or training:
            return super().call(inputs, training=training, **kwargs)
        scale = self.gamma / tf.sqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        # The fused operation, which takes half precision as well, with nothing else left to do.
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
