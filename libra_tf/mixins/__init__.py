"""What the layers and losses do, apart from the Keras that they are made for.

Two Keras packages are in use: the one Model Garden is built on, and Keras 3. Each class here uses
only what both share and `libra_tf.ops`, and imports neither. It is made concrete by deriving from
it and the Keras base class, and by naming the package in the class attribute `_keras`.
"""

from libra_tf.mixins.balanced_feature_pyramid import BalancedFeaturePyramidMixin
from libra_tf.mixins.balanced_l1_loss import BalancedL1LossMixin
from libra_tf.mixins.non_local import NonLocal2DMixin

__all__ = ["BalancedFeaturePyramidMixin", "BalancedL1LossMixin", "NonLocal2DMixin"]
