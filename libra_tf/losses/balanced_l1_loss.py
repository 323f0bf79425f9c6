"""The balanced L1 loss on the Keras that Model Garden uses."""

from libra_tf.compat import keras
from libra_tf.mixins import BalancedL1LossMixin


@keras.utils.register_keras_serializable(package="libra_tf")
class BalancedL1Loss(BalancedL1LossMixin, keras.losses.Loss):  # noqa: D101
    __doc__ = BalancedL1LossMixin.__doc__
