"""ResNeXt (Xie et al., CVPR 2017): Model Garden's ResNet with grouped 3x3 convolutions."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling.backbones import factory, resnet
from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras
from libra_tf.configs.backbones import RESNEXT_DEPTHS


@keras.utils.register_keras_serializable(package="libra_tf")
class GroupedConv2D(keras.layers.Conv2D):
    """Keras' `Conv2D` that computes groups with TensorFlow's own convolution.

    Keras compiles a grouped convolution with XLA, which on a CPU takes hundreds of times longer
    than TensorFlow's operation. TensorFlow's has a gradient on GPU and TPU, and on a CPU only with
    oneDNN; without oneDNN, the groups are convolved one by one.
    """

    def _jit_compiled_convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if _has_grouped_gradient():
            return self.convolution_op(inputs, kernel)
        convolved = [
            self.convolution_op(*group)
            for group in zip(
                tf.split(inputs, self.groups, axis=-1),
                tf.split(kernel, self.groups, axis=-1),
                strict=True,
            )
        ]
        return tf.concat(convolved, axis=-1)


@functools.cache
def _has_grouped_gradient() -> bool:
    """Returns whether the training device can differentiate a grouped convolution."""
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return True
    with tf.init_scope():
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=[1, 1, 1, 2],
                filter=tf.zeros([1, 1, 1, 2]),
                out_backprop=tf.zeros([1, 1, 1, 2]),
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


@keras.utils.register_keras_serializable(package="libra_tf")
class ResNeXtBlock(nn_blocks.BottleneckBlock):
    """Model Garden's bottleneck block with a different inner width and a grouped 3x3 convolution.

    Args:
      filters: as in `BottleneckBlock`: a quarter of the block's output channels.
      strides: as in `BottleneckBlock`.
      groups: number of groups in the 3x3 convolution.
      base_width: channels per group when `filters` is 64; they grow in proportion to `filters`.
      **kwargs: arguments of `BottleneckBlock`.
    """

    def __init__(self, filters: int, strides: int, groups: int, base_width: int, **kwargs):
        super().__init__(filters, strides, **kwargs)
        self._groups = groups
        self._base_width = base_width

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the layers."""
        super().build(input_shape)
        width = int(self._filters * self._base_width / 64) * self._groups
        self._conv1 = like(self._conv1, keras.layers.Conv2D, filters=width)
        self._conv2 = like(self._conv2, GroupedConv2D, filters=width, groups=self._groups)

    def get_config(self) -> Mapping[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "groups": self._groups, "base_width": self._base_width}


def like(
    layer: keras.layers.Layer, layer_class: type[keras.layers.Layer], **changes
) -> keras.layers.Layer:
    """Returns a new layer with the arguments of another one.

    Args:
      layer: the layer to take the arguments from.
      layer_class: class of the new layer.
      **changes: arguments that differ.

    Returns:
      The new layer, not built yet.
    """
    return layer_class.from_config({**layer.get_config(), **changes})


@keras.utils.register_keras_serializable(package="libra_tf")
class ResNeXt(resnet.ResNet):
    """ResNeXt of any depth, groups and width, with the options of Model Garden's ResNet.

    Args:
      model_id: depth, such as 50 or 101: that of any ResNet with bottlenecks in Model Garden.
      groups: number of groups in the 3x3 convolutions; 32 or 64 in the published models.
      base_width: channels per group in the first stage; 4 in the published models.
      **kwargs: arguments of Model Garden's `ResNet`.

    Raises:
      ValueError: if there is no ResNet with bottlenecks of this depth, or if `groups` or
        `base_width` is not positive.
    """

    _block_class: type[ResNeXtBlock] = ResNeXtBlock

    def __init__(self, model_id: int, groups: int = 32, base_width: int = 4, **kwargs):
        if model_id not in RESNEXT_DEPTHS:
            raise ValueError(
                f"`model_id` of ResNeXt must be one of {list(RESNEXT_DEPTHS)}, got {model_id}."
            )
        if groups < 1 or base_width < 1:
            raise ValueError(
                "`groups` and `base_width` of ResNeXt must be positive, got "
                f"{groups} and {base_width}."
            )
        self._groups = groups
        self._base_width = base_width
        super().__init__(model_id, **kwargs)

    def _block_group(self, *args, block_fn: type[keras.layers.Layer], **kwargs) -> tf.Tensor:
        del block_fn
        block_fn = functools.partial(
            self._block_class, groups=self._groups, base_width=self._base_width
        )
        return super()._block_group(*args, block_fn=block_fn, **kwargs)

    def get_config(self) -> Mapping[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "groups": self._groups, "base_width": self._base_width}


def resnet_arguments(
    config: hyperparams.Config,
    norm: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None,
) -> dict[str, Any]:
    """Returns the arguments of Model Garden's `ResNet`, all but `input_specs`.

    Args:
      config: of the backbone, as in Model Garden's `ResNet` config.
      norm: `norm_activation` of the model.
      l2_regularizer: regularizer for all kernels.
    """
    return {
        "model_id": config.model_id,
        "depth_multiplier": config.depth_multiplier,
        "stem_type": config.stem_type,
        "resnetd_shortcut": config.resnetd_shortcut,
        "replace_stem_max_pool": config.replace_stem_max_pool,
        "se_ratio": config.se_ratio,
        "init_stochastic_depth_rate": config.stochastic_depth_drop_rate,
        "scale_stem": config.scale_stem,
        "activation": norm.activation,
        "use_sync_bn": norm.use_sync_bn,
        "norm_momentum": norm.norm_momentum,
        "norm_epsilon": norm.norm_epsilon,
        "kernel_regularizer": l2_regularizer,
        "bn_trainable": config.bn_trainable,
    }


@factory.register_backbone_builder("resnext")
def build_resnext(
    input_specs: keras.layers.InputSpec,
    backbone_config: hyperparams.Config,
    norm_activation_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> ResNeXt:
    """Builds the backbone from a config with `type` `resnext`."""
    config = backbone_config.get()
    return ResNeXt(
        groups=config.groups,
        base_width=config.base_width,
        input_specs=input_specs,
        **resnet_arguments(config, norm_activation_config, l2_regularizer),
    )
