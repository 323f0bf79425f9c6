"""The non-local block on the Keras that Model Garden uses."""

from libra_tf.compat import keras
from libra_tf.mixins import NonLocal2DMixin


@keras.utils.register_keras_serializable(package="libra_tf")
class NonLocal2D(NonLocal2DMixin, keras.layers.Layer):
    """Non-local block over a feature map: see `libra_tf.mixins.NonLocal2DMixin`."""

    _keras = keras
