"""The keys that the configs of all Libra detectors and tasks share."""

import dataclasses
from typing import ClassVar

from official.modeling import hyperparams

from libra_tf.configs import backbones, checks, components


@dataclasses.dataclass
class LibraDetector(hyperparams.Config):
    """Config of a detector; list it before Model Garden's config among the base classes.

    Attributes:
      backbone: Model Garden's backbones, and `resnext`.
      decoder: Model Garden's decoders, and `libra_fpn`, the balanced feature pyramid.
      compatibility: None, or `mmdetection` to compute the same as MMDetection's detector with the
        same weights; see docs/mmdet.md. An `input_size` of [800, 1333, 3] then means that images
        are resized to a shorter side of 800 pixels and a longer side of at most 1333 pixels.
    """

    backbone: backbones.Backbone = dataclasses.field(default_factory=backbones.Backbone)
    decoder: components.Decoder = dataclasses.field(default_factory=components.Decoder)
    compatibility: str | None = None


@dataclasses.dataclass
class LibraTask(hyperparams.Config):
    """Config of a task; list it before Model Garden's config among the base classes.

    The class attributes describe the task's detector, so that commands can check for an ability
    rather than for a certain task.

    Attributes:
      frozen_stages: number of stages of the backbone to freeze together with the stem: 0 for the
        stem alone (of a ResNet or ResNeXt; others start at 1), 1 in the published recipe, None to
        freeze nothing.
      analysis: histograms that training writes to TensorBoard.
      converts_to_tflite: whether it is a detector of one stage with RetinaNet's heads and anchors.
      has_rpn: whether the detector has a region proposal network.
      takes_proposals: whether every image needs a file of proposals.
    """

    frozen_stages: int | None = None
    analysis: components.Analysis = dataclasses.field(default_factory=components.Analysis)

    converts_to_tflite: ClassVar[bool] = False
    has_rpn: ClassVar[bool] = False
    takes_proposals: ClassVar[bool] = False

    def validate(self) -> None:
        """Checks the keys that all tasks share.

        Raises:
          ValueError: if a value is invalid; the message names the key.
        """
        checks.check_task(self)
        super().validate()
