"""Layers on the Keras that Model Garden uses.

The RoI sampler derives from Model Garden's and is imported on first use, so that a user of the
other layers needs nothing of Model Garden.
"""

from libra_tf.layers.balanced_feature_pyramid import BalancedFeaturePyramid
from libra_tf.layers.non_local import NonLocal2D

__all__ = ["BalancedFeaturePyramid", "IoUBalancedROISampler", "NonLocal2D"]


def __getattr__(name):
    if name == "IoUBalancedROISampler":
        from libra_tf.layers.roi_sampler import IoUBalancedROISampler

        return IoUBalancedROISampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
