"""Backbone configs: Model Garden's, ResNeXt and ResNet v1."""

import dataclasses

from official.vision.configs import backbones
from official.vision.modeling.backbones import (
    efficientnet,
    mobiledet,
    mobilenet,
    resnet,
    spinenet,
    spinenet_mobile,
)

# A ResNeXt is built from one of Model Garden's ResNets with bottlenecks.
RESNEXT_DEPTHS = tuple(
    depth for depth, groups in resnet.RESNET_SPECS.items() if groups[0][0] == "bottleneck"
)
# Valid values of `model_id`, by backbone type. Model Garden does not check them before it builds
# the model.
MODEL_IDS = {
    "resnet": tuple(resnet.RESNET_SPECS),
    "resnext": RESNEXT_DEPTHS,
    "resnet_v1": RESNEXT_DEPTHS,
    "efficientnet": tuple(efficientnet.SCALING_MAP),
    "spinenet": tuple(spinenet.SCALING_MAP),
    "spinenet_mobile": tuple(spinenet_mobile.SCALING_MAP),
    "mobilenet": tuple(mobilenet.SUPPORTED_SPECS_MAP),
    "mobiledet": tuple(mobiledet.SUPPORTED_SPECS_MAP),
}

# Those that consist mainly of depthwise convolutions.
DEPTHWISE_BACKBONES = ("efficientnet", "mobilenet", "mobiledet", "spinenet_mobile")


@dataclasses.dataclass
class ResNeXt(backbones.ResNet):
    """ResNeXt; see `libra_tf.modeling.resnext.ResNeXt`.

    The published 101-64x4d has `model_id` 101, `groups` 64 and `base_width` 4.

    Attributes:
      groups: number of groups in the 3x3 convolutions (the cardinality).
      base_width: channels per group in the first stage.
    """

    groups: int = 32
    base_width: int = 4


@dataclasses.dataclass
class ResNetV1(backbones.ResNet):
    """ResNet v1, the one of Keras Applications; see `libra_tf.modeling.resnet_v1.ResNetV1`."""


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """Model Garden's backbones, `resnext` and `resnet_v1`."""

    type: str | None = "resnet"
    resnext: ResNeXt = dataclasses.field(default_factory=ResNeXt)
    resnet_v1: ResNetV1 = dataclasses.field(default_factory=ResNetV1)


def finest_level(backbone: Backbone) -> int:
    """Returns the finest pyramid level that a backbone has a feature map for.

    Args:
      backbone: the config; level L has a stride of 2**L.
    """
    if backbone.type == "mobiledet":
        return 1
    # SpineNets have a key for it; all others begin at a stride of 4.
    return getattr(backbone.get(), "min_level", 2)
