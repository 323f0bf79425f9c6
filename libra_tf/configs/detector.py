"""What the configs of all Libra detectors and their tasks share."""

import dataclasses
from typing import ClassVar

from official.modeling import hyperparams

from libra_tf.configs import backbones, checks, components


@dataclasses.dataclass
class LibraDetector(hyperparams.Config):
    """Config of a detector; it comes in front of Model Garden's own config of the detector.

    Attributes:
      backbone: Model Garden's backbones and `resnext`.
      decoder: Model Garden's decoders and `libra_fpn`, the balanced feature pyramid.
      compatibility: None, or `mmdetection` to compute what MMDetection's detector does with the
        same weights; see docs/mmdet.md. `input_size` is then [800, 1333, 3] for images that are
        resized to a shorter side of 800 pixels and a longer side of at most 1333 pixels.
    """

    backbone: backbones.Backbone = dataclasses.field(default_factory=backbones.Backbone)
    decoder: components.Decoder = dataclasses.field(default_factory=components.Decoder)
    compatibility: str | None = None


@dataclasses.dataclass
class LibraTask(hyperparams.Config):
    """Config of a task; it comes in front of Model Garden's own config of the task.

    The class attributes say what a task's detector can do; the commands that need it ask these and
    not for a certain task.

    Attributes:
      frozen_stages: how many stages of a ResNet or ResNeXt are frozen with the stem: 0 for the stem
        alone, 1 in the published recipe, None for nothing.
      analysis: what a training writes to TensorBoard about its balance.
      is_one_stage: whether the detector predicts boxes in one stage, as RetinaNet does.
      has_rpn: whether a region proposal network makes the detector's proposals.
      takes_proposals: whether every image needs a file of proposals.
    """

    frozen_stages: int | None = None
    analysis: components.Analysis = dataclasses.field(default_factory=components.Analysis)

    is_one_stage: ClassVar[bool] = False
    has_rpn: ClassVar[bool] = False
    takes_proposals: ClassVar[bool] = False

    def validate(self) -> None:
        """Checks what all tasks have.

        Raises:
          ValueError: if a value cannot be used; it names the key.
        """
        checks.check_task(self)
        super().validate()
