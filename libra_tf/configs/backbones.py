"""Backbone configs: Model Garden's and ResNeXt."""

import dataclasses

from official.vision.configs import backbones


@dataclasses.dataclass
class ResNeXt(backbones.ResNet):
    """ResNeXt; see `libra_tf.modeling.resnext.ResNeXt`. The published 101-64x4d is 101, 64, 4.

    Attributes:
      groups: number of groups of the 3x3 convolutions (the cardinality).
      base_width: channels of a group in the first stage.
    """

    groups: int = 32
    base_width: int = 4


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """Model Garden's backbones and one more: `resnext`."""

    type: str | None = "resnet"
    resnext: ResNeXt = dataclasses.field(default_factory=ResNeXt)
