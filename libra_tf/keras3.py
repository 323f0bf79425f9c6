"""The layers and the loss for Keras 3 on its TensorFlow backend.

They share their source with `libra_tf.layers` and `libra_tf.losses`, which are built on the Keras
that Model Garden uses, and give the same numbers for the same weights. This module imports neither
that Keras nor Model Garden.
"""

import keras

from libra_tf.mixins import BalancedFeaturePyramidMixin, BalancedL1LossMixin, NonLocal2DMixin

__all__ = ["BalancedFeaturePyramid", "BalancedL1Loss", "NonLocal2D"]

if int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(
        f"libra_tf.keras3 needs Keras 3, and Keras {keras.__version__} is installed: use "
        "libra_tf.layers and libra_tf.losses, which are built on it."
    )
if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "libra_tf.keras3 needs Keras on its TensorFlow backend, and the backend is "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow "
        "before keras is imported."
    )


@keras.saving.register_keras_serializable(package="libra_tf")
class NonLocal2D(NonLocal2DMixin, keras.layers.Layer):  # noqa: D101
    __doc__ = NonLocal2DMixin.__doc__

    _keras = keras


@keras.saving.register_keras_serializable(package="libra_tf")
class BalancedFeaturePyramid(BalancedFeaturePyramidMixin, keras.layers.Layer):  # noqa: D101
    __doc__ = BalancedFeaturePyramidMixin.__doc__

    _keras = keras
    _non_local_class = NonLocal2D


@keras.saving.register_keras_serializable(package="libra_tf")
class BalancedL1Loss(BalancedL1LossMixin, keras.losses.Loss):  # noqa: D101
    __doc__ = BalancedL1LossMixin.__doc__
