"""ResNet v1, as in the first paper on residual networks and in Keras Applications.

Model Garden's ResNet is the later "v1.5": its stages have their stride in the 3x3 convolution, and
it pads as TensorFlow does. Weights of one are of no use to the other.
"""

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling.backbones import factory, resnet
from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras
from libra_tf.modeling import even_padding, resnext


@keras.utils.register_keras_serializable(package="libra_tf")
class StrideIn1x1Block(nn_blocks.BottleneckBlock):
    """Model Garden's bottleneck block with its stride in the first convolution."""

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the layers."""
        super().build(input_shape)
        self._conv1.strides, self._conv2.strides = self._conv2.strides, self._conv1.strides


@keras.utils.register_keras_serializable(package="libra_tf")
class ResNetV1(even_padding.EvenlyPaddedStem, resnet.ResNet):
    """ResNet v1 with the options of Model Garden's ResNet for its blocks.

    Args:
      model_id: depth: that of any ResNet with bottlenecks in Model Garden.
      **kwargs: arguments of Model Garden's `ResNet`; those for other stems have no effect.

    References:
      He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.
    """

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
    return ResNetV1(
        input_specs=input_specs,
        **resnext.resnet_arguments(backbone_config.get(), norm_activation_config, l2_regularizer),
    )
