"""Layers on the Keras that Model Garden uses.

The RoI sampler derives from Model Garden's. It is imported when it is first used, so the other
layers need nothing from Model Garden.
"""

from typing import TYPE_CHECKING

from libra_tf.layers.balanced_feature_pyramid import BalancedFeaturePyramid
from libra_tf.layers.non_local import NonLocal2D

if TYPE_CHECKING:
    from libra_tf.layers.roi_sampler import IoUBalancedROISampler

__all__ = ["BalancedFeaturePyramid", "IoUBalancedROISampler", "NonLocal2D"]


def __getattr__(name: str) -> type:
    if name == "IoUBalancedROISampler":
        from libra_tf.layers.roi_sampler import IoUBalancedROISampler

        return IoUBalancedROISampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
