"""MMDetection's feature pyramid: no batch norms, and different levels above the backbone's."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
from official.modeling import hyperparams

from libra_tf import ops
from libra_tf.compat import keras
from libra_tf.modeling import libra_fpn
from libra_tf.modeling.mmdetection.backbones import SymmetricConv2D

EXTRA_LEVELS = ("subsampled", "convolved")


@keras.utils.register_keras_serializable(package="libra_tf")
class _AddUpsampled(keras.layers.Layer):
    """Resizes the second map to the size of the first and adds it."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        return ops.add_nearest2d(*inputs)


@keras.utils.register_keras_serializable(package="libra_tf")
class _EverySecondPixel(keras.layers.Layer):
    """Halves the size of a map by dropping every second row and column."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs[:, ::2, ::2]


@keras.utils.register_keras_serializable(package="libra_tf")
class MMDetectionFPN(libra_fpn.FunctionalDecoder):
    """MMDetection's FPN. Its layers have the same names as those of Model Garden's FPN.

    Args:
      input_specs: backbone output shapes by level, `[B, height, width, channels]`.
      min_level: finest level.
      max_level: coarsest level.
      num_filters: number of channels on all levels.
      extra_levels: how to compute levels coarser than the backbone's: `subsampled` for every
        second pixel of the level before (Faster R-CNN), or `convolved` for 3x3 convolutions with
        stride 2, starting from the backbone's coarsest map (RetinaNet).
      kernel_regularizer: regularizer for all kernels.
      **kwargs: arguments of the Keras model, such as `name`.

    Raises:
      ValueError: if `extra_levels` is neither of the two.
    """

    def __init__(
        self,
        input_specs: Mapping[str, tf.TensorShape],
        min_level: int,
        max_level: int,
        num_filters: int,
        extra_levels: str,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs,
    ):
        if extra_levels not in EXTRA_LEVELS:
            raise ValueError(f"`extra_levels` must be one of {EXTRA_LEVELS}, got {extra_levels!r}.")

        def convolution(
            name: str,
            layer_class: type[keras.layers.Conv2D] = keras.layers.Conv2D,
            **conv_kwargs,
        ) -> keras.layers.Conv2D:
            return layer_class(
                num_filters, name=name, kernel_regularizer=kernel_regularizer, **conv_kwargs
            )

        inputs = {level: keras.Input(spec[1:]) for level, spec in input_specs.items()}
        top = min(max(map(int, inputs)), max_level)
        levels = {
            level: convolution(f"lateral_{level}", kernel_size=1)(inputs[str(level)])
            for level in range(min_level, top + 1)
        }
        for level in range(top - 1, min_level - 1, -1):
            levels[level] = _AddUpsampled()([levels[level], levels[level + 1]])
        outputs = {
            level: convolution(f"post_hoc_{level}", kernel_size=3, padding="same")(feature)
            for level, feature in levels.items()
        }
        previous = inputs[str(top)]
        for level in range(top + 1, max_level + 1):
            if extra_levels == "subsampled":
                outputs[level] = _EverySecondPixel()(outputs[level - 1])
            else:
                previous = convolution(
                    f"coarser_{level}", SymmetricConv2D, kernel_size=3, strides=2
                )(previous)
                outputs[level] = previous
        outputs = {str(level): outputs[level] for level in sorted(outputs)}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._output_specs = {level: output.shape for level, output in outputs.items()}
        self._init_args = {
            "input_specs": input_specs,
            "min_level": min_level,
            "max_level": max_level,
            "num_filters": num_filters,
            "extra_levels": extra_levels,
            "kernel_regularizer": kernel_regularizer,
        }


@keras.utils.register_keras_serializable(package="libra_tf")
class LibraMMDetectionFPN(libra_fpn.LibraFPN):
    """MMDetection's FPN followed by the balanced feature pyramid."""

    _pyramid_class = MMDetectionFPN


def build_decoder(
    input_specs: Mapping[str, tf.TensorShape],
    model_config: hyperparams.Config,
    extra_levels: str,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> keras.Model:
    """Builds the decoder.

    Args:
      input_specs: backbone output shapes by level, `[B, height, width, channels]`.
      model_config: config of the model, with `decoder.type` `fpn` or `libra_fpn`.
      extra_levels: one of `EXTRA_LEVELS`; see `MMDetectionFPN`.
      l2_regularizer: regularizer for all kernels.

    Returns:
      The decoder.
    """
    decoder = model_config.decoder.get()
    kwargs = {
        "input_specs": input_specs,
        "min_level": model_config.min_level,
        "max_level": model_config.max_level,
        "num_filters": decoder.num_filters,
        "extra_levels": extra_levels,
        "kernel_regularizer": l2_regularizer,
    }
    if model_config.decoder.type == "fpn":
        return MMDetectionFPN(**kwargs)
    return LibraMMDetectionFPN(
        refine_level=decoder.refine_level, refine_type=decoder.refine_type, **kwargs
    )
