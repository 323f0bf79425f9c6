"""The non-local block on the Keras that Model Garden uses."""

from libra_tf.compat import keras
from libra_tf.mixins import NonLocal2DMixin


@keras.utils.register_keras_serializable(package="libra_tf")
class NonLocal2D(NonLocal2DMixin, keras.layers.Layer):  # noqa: D101
    __doc__ = NonLocal2DMixin.__doc__

    _keras = keras
