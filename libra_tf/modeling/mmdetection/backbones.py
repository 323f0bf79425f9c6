"""ResNet and ResNeXt that pad evenly on both sides and round, both as in PyTorch."""

from collections.abc import Callable

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling.backbones import resnet
from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras
from libra_tf.modeling import even_padding, resnext
from libra_tf.modeling.even_padding import SymmetricConv2D, SymmetricPaddingMixin
from libra_tf.modeling.mmdetection.norms import norm_class


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricGroupedConv2D(SymmetricPaddingMixin, resnext.GroupedConv2D):
    """A grouped convolution, evenly padded; its own `padding` must be `valid`."""


def _evenly_padded(layer: keras.layers.Conv2D) -> keras.layers.Conv2D:
    """Returns a convolution with the same arguments but even padding, not built yet."""
    is_grouped = isinstance(layer, resnext.GroupedConv2D)
    layer_class = SymmetricGroupedConv2D if is_grouped else SymmetricConv2D
    return resnext.like(layer, layer_class, padding="valid")


class _LikePyTorch:
    """Makes a Model Garden block pad its 3x3 convolution evenly and round as PyTorch does."""

    _strided: str

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._norm = norm_class(self._bn_trainable)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the layers."""
        super().build(input_shape)
        if self._strides > 1:
            setattr(self, self._strided, _evenly_padded(getattr(self, self._strided)))


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricResidualBlock(_LikePyTorch, nn_blocks.ResidualBlock):
    """Model Garden's basic block, evenly padded."""

    _strided = "_conv1"


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricBottleneckBlock(_LikePyTorch, nn_blocks.BottleneckBlock):
    """Model Garden's bottleneck block, evenly padded."""

    _strided = "_conv2"


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricResNeXtBlock(_LikePyTorch, resnext.ResNeXtBlock):
    """The ResNeXt block, evenly padded."""

    _strided = "_conv2"


class _SymmetricStem(even_padding.EvenlyPaddedStem):
    """The first layers of a ResNet, evenly padded and rounding as in PyTorch."""

    @property
    def _stem_norm(self) -> type[keras.layers.BatchNormalization]:
        return norm_class(self._bn_trainable)


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricResNet(_SymmetricStem, resnet.ResNet):
    """Model Garden's ResNet, evenly padded.

    A stage projects its input only if it changes the size or the number of channels. The first
    stage of ResNet-18 and ResNet-34 changes neither, but Model Garden projects there as well.
    """

    def _block_group(
        self,
        *args,
        strides: int,
        block_fn: Callable[..., keras.layers.Layer],
        **kwargs,
    ) -> tf.Tensor:
        def block(**block_kwargs) -> keras.layers.Layer:
            if block_fn is nn_blocks.BottleneckBlock:
                return SymmetricBottleneckBlock(**block_kwargs)
            block_kwargs["use_projection"] &= strides > 1
            return SymmetricResidualBlock(**block_kwargs)

        return super()._block_group(*args, strides=strides, block_fn=block, **kwargs)


@keras.utils.register_keras_serializable(package="libra_tf")
class SymmetricResNeXt(_SymmetricStem, resnext.ResNeXt):
    """ResNeXt, evenly padded."""

    _block_class = SymmetricResNeXtBlock


_BACKBONES = {"resnet": SymmetricResNet, "resnext": SymmetricResNeXt}


def build_backbone(
    model_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> keras.Model:
    """Builds the backbone, for images of any size.

    Args:
      model_config: config of the model, with `backbone.type` `resnet` or `resnext`.
      l2_regularizer: regularizer for all kernels.

    Returns:
      The backbone.
    """
    config = model_config.backbone.get()
    cardinality = {
        name: getattr(config, name) for name in ("groups", "base_width") if hasattr(config, name)
    }
    return _BACKBONES[model_config.backbone.type](
        input_specs=keras.layers.InputSpec(shape=[None, None, None, 3]),
        **resnext.resnet_arguments(config, model_config.norm_activation, l2_regularizer),
        **cardinality,
    )
