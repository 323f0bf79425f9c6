"""Model Garden's heads without batch norm, and with MMDetection's initial weights."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.modeling import mixed_precision


class _MMDetectionHead:
    """Replaces the batch norms of a Model Garden head with the identity, and initial weights.

    MMDetection draws those of a dense head's last layers as it does those before, Model Garden a
    thousand times smaller.
    """

    _norms_attributes: tuple[str, ...]
    # Attributes with layers -> what their kernels start from, where Model Garden differs.
    _initializers: Mapping[str, Callable[[], keras.initializers.Initializer]]

    def build(self, input_shape: tf.TensorShape | Mapping[str, tf.TensorShape]) -> None:
        """Creates the layers."""
        super().build(input_shape)
        for attribute in self._norms_attributes:
            setattr(self, attribute, _without_norms(getattr(self, attribute)))
        for attribute, initializer in self._initializers.items():
            # The layers have no weights before their first call.
            for layer in tf.nest.flatten(getattr(self, attribute)):
                layer.kernel_initializer = initializer()


def _small_normal() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.01)


_OF_LAST_LAYERS = {"_classifier": _small_normal, "_box_regressor": _small_normal}
_OF_HIDDEN_LAYERS = {"_fcs": keras.initializers.GlorotUniform}


def _without_norms(norms: Any) -> Any:
    """Returns identities in place of a batch norm, or of (nested) lists of them."""
    if isinstance(norms, (list, tuple)):
        return [_without_norms(norm) for norm in norms]
    return keras.layers.Activation("linear", name=norms.name)


@keras.utils.register_keras_serializable(package="libra_tf")
class RetinaNetHead(_MMDetectionHead, mixed_precision.RetinaNetHead):
    """RetinaNet's head without batch norms."""

    _norms_attributes = ("_cls_norms", "_box_norms")
    _initializers = _OF_LAST_LAYERS


@keras.utils.register_keras_serializable(package="libra_tf")
class RPNHead(_MMDetectionHead, mixed_precision.RPNHead):
    """The RPN's head without batch norms."""

    _norms_attributes = ("_norms",)
    _initializers = _OF_LAST_LAYERS


@keras.utils.register_keras_serializable(package="libra_tf")
class DetectionHead(_MMDetectionHead, mixed_precision.DetectionHead):
    """The second stage's head without batch norms."""

    _norms_attributes = ("_conv_norms", "_fc_norms")
    _initializers = _OF_HIDDEN_LAYERS
