"""The `libra_fpn` decoder: Model Garden's FPN followed by the balanced feature pyramid."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling.decoders import factory, fpn

from libra_tf.compat import keras
from libra_tf.layers import BalancedFeaturePyramid


class FunctionalDecoder(keras.Model):
    """The interface Model Garden expects of a decoder.

    The constructor of a subclass sets `_output_specs` and `_init_args`.
    """

    _output_specs: Mapping[str, tf.TensorShape]
    _init_args: Mapping[str, Any]

    @property
    def output_specs(self) -> Mapping[str, tf.TensorShape]:
        """Output shapes by level, `[B, height, width, filters]`."""
        return self._output_specs

    def get_config(self) -> Mapping[str, Any]:
        """Returns the constructor's arguments."""
        return {**self._init_args, "name": self.name}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "FunctionalDecoder":
        """Builds the decoder from what `get_config` returned."""
        del custom_objects
        return cls(**config)


@keras.utils.register_keras_serializable(package="libra_tf")
class LibraFPN(FunctionalDecoder):
    """An FPN with balanced output levels (Libra R-CNN, section 3.2).

    Args:
      input_specs: backbone output shapes by level, `[B, height, width, channels]`.
      refine_level: level at which the maps are gathered and refined; within
        `[min_level, max_level]`.
      refine_type: `non_local`, `conv` or None; see `libra_tf.layers.BalancedFeaturePyramid`.
      kernel_regularizer: regularizer for all convolution kernels.
      name: name of the Keras model.
      **fpn_kwargs: arguments of Model Garden's `FPN`.

    Raises:
      ValueError: if `refine_level` is not a level of the pyramid.
    """

    _pyramid_class: type[keras.Model] = fpn.FPN

    def __init__(
        self,
        input_specs: Mapping[str, tf.TensorShape],
        refine_level: int = 4,
        refine_type: str | None = "non_local",
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        name: str | None = None,
        **fpn_kwargs,
    ):
        pyramid = self._pyramid_class(
            input_specs, kernel_regularizer=kernel_regularizer, **fpn_kwargs
        )
        levels = pyramid.output_specs
        if str(refine_level) not in levels:
            raise ValueError(
                f"refine_level is {refine_level}, but the pyramid has levels "
                f"{', '.join(sorted(levels, key=int))}; set "
                "task.model.decoder.libra_fpn.refine_level to one of them"
            )
        inputs = {level: keras.Input(spec[1:]) for level, spec in input_specs.items()}
        balanced = BalancedFeaturePyramid(
            refine_level=str(refine_level),
            refine_type=refine_type,
            kernel_regularizer=kernel_regularizer,
            name="balanced_feature_pyramid",
        )(pyramid(inputs))
        super().__init__(inputs=inputs, outputs=balanced, name=name)
        self._output_specs = levels
        self._init_args = {
            "input_specs": input_specs,
            "refine_level": refine_level,
            "refine_type": refine_type,
            "kernel_regularizer": kernel_regularizer,
            **fpn_kwargs,
        }


@factory.register_decoder_builder("libra_fpn")
def build_libra_fpn(
    input_specs: Mapping[str, tf.TensorShape],
    model_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> LibraFPN:
    """Builds the decoder from a model config with `decoder.type` `libra_fpn`."""
    decoder = model_config.decoder.get()
    norm = model_config.norm_activation
    return LibraFPN(
        input_specs=input_specs,
        refine_level=decoder.refine_level,
        refine_type=decoder.refine_type,
        min_level=model_config.min_level,
        max_level=model_config.max_level,
        num_filters=decoder.num_filters,
        fusion_type=decoder.fusion_type,
        use_separable_conv=decoder.use_separable_conv,
        use_keras_layer=decoder.use_keras_layer,
        activation=norm.activation,
        use_sync_bn=norm.use_sync_bn,
        norm_momentum=norm.norm_momentum,
        norm_epsilon=norm.norm_epsilon,
        kernel_regularizer=l2_regularizer,
    )
