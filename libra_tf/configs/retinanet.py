"""Configs of Libra RetinaNet."""

import dataclasses
from typing import ClassVar

from official.vision.configs import retinanet

from libra_tf.configs import checks, components
from libra_tf.configs.detector import LibraDetector, LibraTask

# `tflite` is for the converted graph alone: in training it would detect nothing.
NMS_VERSIONS = ("batched", "v1", "v2", "v3")


@dataclasses.dataclass
class LibraRetinaNet(LibraDetector, retinanet.RetinaNet):
    """RetinaNet with the balanced feature pyramid."""


@dataclasses.dataclass
class TrainData(components.RepeatedImages, retinanet.DataConfig):
    """Model Garden's config of the training data, with repeated images."""

    is_training: bool = True


@dataclasses.dataclass
class Losses(components.ClassWeights, retinanet.Losses):
    """RetinaNet's losses with a choice of box loss.

    Both box losses are averaged over the four coordinates, summed over the positive anchors of the
    batch, divided by the number of positive anchors plus one, and multiplied by `box_loss_weight`.
    MMDetection sums over the coordinates, so its weight of 1 corresponds to 4 here. In the focal
    loss, the weight of its class multiplies all terms of an anchor.

    Attributes:
      box_loss: `balanced_l1`, or `huber` for Model Garden's own; with `compatibility`, also `l1`.
        Huber needs a different `box_loss_weight`: Model Garden uses 50, with `huber_loss_delta`
        0.1.
      balanced_l1: constants of the balanced L1 loss.
    """

    box_loss: str = "balanced_l1"
    balanced_l1: components.BalancedL1 = dataclasses.field(default_factory=components.BalancedL1)


@dataclasses.dataclass
class LibraRetinaNetTask(LibraTask, retinanet.RetinaNetTask):
    """Model Garden's RetinaNet task with the Libra components."""

    model: LibraRetinaNet = dataclasses.field(default_factory=LibraRetinaNet)
    losses: Losses = dataclasses.field(default_factory=Losses)
    train_data: TrainData = dataclasses.field(default_factory=TrainData)

    converts_to_tflite: ClassVar[bool] = True

    def validate(self) -> None:
        """Checks the values.

        Raises:
          ValueError: if a value is invalid; the message names the key.
        """
        super().validate()
        key, parser = "task.train_data.parser", self.train_data.parser
        checks.check_thresholds(
            {
                f"{key}.unmatched_threshold": parser.unmatched_threshold,
                f"{key}.match_threshold": parser.match_threshold,
            }
        )
        key, generator = "task.model.detection_generator", self.model.detection_generator
        checks.check_choice(f"{key}.nms_version", generator.nms_version, NMS_VERSIONS)
        if generator.use_class_agnostic_nms and generator.nms_version != "v2":
            raise ValueError(
                f"{key}.use_class_agnostic_nms is true, which needs {key}.nms_version=v2; it is "
                f"{generator.nms_version}"
            )
