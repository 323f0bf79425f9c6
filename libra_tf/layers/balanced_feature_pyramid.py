"""The balanced feature pyramid on the Keras that Model Garden uses."""

from libra_tf.compat import keras
from libra_tf.layers.non_local import NonLocal2D
from libra_tf.mixins import BalancedFeaturePyramidMixin


@keras.utils.register_keras_serializable(package="libra_tf")
class BalancedFeaturePyramid(BalancedFeaturePyramidMixin, keras.layers.Layer):  # noqa: D101
    __doc__ = BalancedFeaturePyramidMixin.__doc__

    _keras = keras
    _non_local_class = NonLocal2D
