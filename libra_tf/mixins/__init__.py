"""The layers and losses without the Keras they run on.

Two Keras packages are in use: the one Model Garden is built on, and Keras 3. The classes here use
only `libra_tf.ops` and what both packages share, and import neither. A concrete class derives from
one of them and from the base class of a Keras, names that package in its attribute `_keras`, and
copies the mixin's docstring, which `help` would not find.
"""

from libra_tf.mixins.balanced_feature_pyramid import BalancedFeaturePyramidMixin
from libra_tf.mixins.balanced_l1_loss import BalancedL1LossMixin
from libra_tf.mixins.non_local import NonLocal2DMixin

__all__ = ["BalancedFeaturePyramidMixin", "BalancedL1LossMixin", "NonLocal2DMixin"]
