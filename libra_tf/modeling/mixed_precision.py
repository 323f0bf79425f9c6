"""Keeps boxes and scores in float32 while the network computes in a lower precision.

bfloat16 holds eight bits: above 512 it knows only multiples of 4 pixels, and near 1 only multiples
of 1/256. Model Garden computes with a head's outputs in the precision of the network, and Keras
casts the first argument of a layer to it, which for a sampler is the RoIs.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from official.vision.modeling import factory
from official.vision.modeling.heads import dense_prediction_heads, instance_heads
from official.vision.modeling.layers import mask_sampler, roi_generator, roi_sampler

from libra_tf import compat
from libra_tf.compat import keras

_PACKAGE = "libra_tf.mixed_precision"
_MODULES = (
    "dense_prediction_heads",
    "instance_heads",
    "roi_generator",
    "roi_sampler",
    "mask_sampler",
)


def _in_float32(outputs: Any) -> Any:
    return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)


class _DenseHead:
    """Makes the outputs of a head on the pyramid float32."""

    def call(self, features: Mapping[str, tf.Tensor]) -> tuple[dict[str, Any], ...]:
        """Predicts for every anchor; see the base class."""
        return _in_float32(super().call(features))


class _InstanceHead:
    """Makes the outputs of a head on the RoIs float32."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Predicts for every RoI; see the base class."""
        return _in_float32(super().call(inputs, training=training))


class _AsGiven:
    """Keeps Keras from casting the boxes that a layer is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, autocast=False, **kwargs)


@keras.utils.register_keras_serializable(package=_PACKAGE)
class RetinaNetHead(_DenseHead, dense_prediction_heads.RetinaNetHead):
    """Model Garden's head of RetinaNet, with float32 outputs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class RPNHead(_DenseHead, dense_prediction_heads.RPNHead):
    """Model Garden's head of the RPN, with float32 outputs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class DetectionHead(_InstanceHead, instance_heads.DetectionHead):
    """Model Garden's head of the second stage, with float32 outputs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class MaskHead(_InstanceHead, instance_heads.MaskHead):
    """Model Garden's head for masks, with float32 outputs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class MultilevelROIGenerator(_AsGiven, roi_generator.MultilevelROIGenerator):
    """Model Garden's generator of RoIs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class ROISampler(_AsGiven, roi_sampler.ROISampler):
    """Model Garden's sampler of RoIs."""


@keras.utils.register_keras_serializable(package=_PACKAGE)
class MaskSampler(_AsGiven, mask_sampler.MaskSampler):
    """Model Garden's sampler of masks."""


@contextlib.contextmanager
def float32_boxes() -> Iterator[None]:
    """Makes Model Garden build detectors with boxes in float32 while the block runs.

    From the outputs of a head to the detections, and from the ground truth to the targets, no
    coordinate and no score then leaves float32. Where the policy is float32, nothing changes.
    """
    here = sys.modules[__name__]
    with contextlib.ExitStack() as stack:
        # In Model Garden's factory, these names stand for modules with the classes above.
        for name in _MODULES:
            stack.enter_context(compat.substituted(factory, name, here))
        yield
