"""ResNet v1, as in the first paper on residual networks and in Keras Applications.

Model Garden's ResNet is the later "v1.5": its stages have their stride in the 3x3 convolution, and
it pads as TensorFlow does. Weights of one are of no use to the other.
"""

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling.backbones import factory, resnet
from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras


@keras.utils.register_keras_serializable(package="libra_tf")
class StrideIn1x1Block(nn_blocks.BottleneckBlock):
    """Model Garden's bottleneck block with its stride in the first convolution."""

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the layers."""
        super().build(input_shape)
        self._conv1.strides, self._conv2.strides = self._conv2.strides, self._conv1.strides


@keras.utils.register_keras_serializable(package="libra_tf")
class ResNetV1(resnet.ResNet):
    """ResNet v1 with the options of Model Garden's ResNet for its blocks.

    Args:
      model_id: depth: that of any ResNet with bottlenecks in Model Garden.
      **kwargs: arguments of Model Garden's `ResNet`, without those for other stems.

    References:
      He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.
    """

    def _stem(self, inputs: tf.Tensor) -> tf.Tensor:
        x = keras.layers.ZeroPadding2D(3)(inputs)
        x = keras.layers.Conv2D(
            int(64 * (self._depth_multiplier if self._scale_stem else 1.0)),
            kernel_size=7,
            strides=2,
            use_bias=False,
            kernel_initializer=self._kernel_initializer,
            kernel_regularizer=self._kernel_regularizer,
        )(x)
        x = keras.layers.BatchNormalization(
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

    def _block_group(self, *args, block_fn: type[keras.layers.Layer], **kwargs) -> tf.Tensor:
        del block_fn
        return super()._block_group(*args, block_fn=StrideIn1x1Block, **kwargs)


@factory.register_backbone_builder("resnet_v1")
def build_resnet_v1(
    input_specs: keras.layers.InputSpec,
    backbone_config: hyperparams.Config,
    norm_activation_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> ResNetV1:
    """Builds the backbone from a config with `type` `resnet_v1`."""
    config = backbone_config.get()
    return ResNetV1(
        model_id=config.model_id,
        input_specs=input_specs,
        depth_multiplier=config.depth_multiplier,
        resnetd_shortcut=config.resnetd_shortcut,
        se_ratio=config.se_ratio,
        init_stochastic_depth_rate=config.stochastic_depth_drop_rate,
        scale_stem=config.scale_stem,
        activation=norm_activation_config.activation,
        use_sync_bn=norm_activation_config.use_sync_bn,
        norm_momentum=norm_activation_config.norm_momentum,
        norm_epsilon=norm_activation_config.norm_epsilon,
        kernel_regularizer=l2_regularizer,
        bn_trainable=config.bn_trainable,
    )
