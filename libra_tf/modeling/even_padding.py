"""Convolutions and the stem of a ResNet that pad evenly, as PyTorch and Keras Applications do."""

import tensorflow as tf

from libra_tf.compat import keras


class SymmetricPaddingMixin:
    """Pads a convolution evenly on both sides, whatever its stride.

    In a strided layer, Keras' "same" padding puts the odd pixel at the bottom and on the right. On
    a map of even size, the sampling grid is then one pixel lower and further right than in PyTorch.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves; see `Conv2D`."""
        height, width = (size // 2 for size in self.kernel_size)
        return super().call(tf.pad(inputs, [[0, 0], [height, height], [width, width], [0, 0]]))


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricConv2D(SymmetricPaddingMixin, keras.layers.Conv2D):
    """Keras' `Conv2D`, evenly padded; its own `padding` must be `valid`."""


class EvenlyPaddedStem:
    """The first layers of Model Garden's ResNet, evenly padded; comes before it as a base class."""

    _stem_norm: type[keras.layers.BatchNormalization] = keras.layers.BatchNormalization

    def _stem(self, inputs: tf.Tensor) -> tf.Tensor:
        filters = int(64 * (self._depth_multiplier if self._scale_stem else 1.0))
        x = SymmetricConv2D(
            filters,
            kernel_size=7,
            strides=2,
            use_bias=False,
            kernel_initializer=self._kernel_initializer,
            kernel_regularizer=self._kernel_regularizer,
        )(inputs)
        x = self._stem_norm(
            axis=self._bn_axis,
            momentum=self._norm_momentum,
            epsilon=self._norm_epsilon,
            trainable=self._bn_trainable,
            synchronized=self._use_sync_bn,
        )(x)
        x = keras.layers.Activation(self._activation)(x)
        # After a ReLU, padding with zeros is equivalent to padding with minus infinity.
        x = keras.layers.ZeroPadding2D(1)(x)
        return keras.layers.MaxPool2D(pool_size=3, strides=2)(x)
