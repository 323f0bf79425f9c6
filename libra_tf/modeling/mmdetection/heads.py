"""Model Garden's heads without batch norm."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.modeling import mixed_precision


class _WithoutNorms:
    """Replaces the batch norms of a Model Garden head with the identity."""

    _norms_attributes: tuple[str, ...]

    def build(self, input_shape: tf.TensorShape | Mapping[str, tf.TensorShape]) -> None:
        """Creates the layers."""
        super().build(input_shape)
        for attribute in self._norms_attributes:
            setattr(self, attribute, _without_norms(getattr(self, attribute)))


def _without_norms(norms: Any) -> Any:
    """Returns identities in place of a batch norm, or of (nested) lists of them."""
    if isinstance(norms, (list, tuple)):
        return [_without_norms(norm) for norm in norms]
    return keras.layers.Activation("linear", name=norms.name)


@keras.utils.register_keras_serializable(package="libra_tf")
class RetinaNetHead(_WithoutNorms, mixed_precision.RetinaNetHead):
    """RetinaNet's head without batch norms."""

    _norms_attributes = ("_cls_norms", "_box_norms")


@keras.utils.register_keras_serializable(package="libra_tf")
class RPNHead(_WithoutNorms, mixed_precision.RPNHead):
    """The RPN's head without batch norms."""

    _norms_attributes = ("_norms",)


@keras.utils.register_keras_serializable(package="libra_tf")
class DetectionHead(_WithoutNorms, mixed_precision.DetectionHead):
    """The second stage's head without batch norms."""

    _norms_attributes = ("_conv_norms", "_fc_norms")
