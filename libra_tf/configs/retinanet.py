"""Configs of Libra RetinaNet."""

import dataclasses
from typing import ClassVar

from official.vision.configs import retinanet

from libra_tf.configs import checks, components
from libra_tf.configs.detector import LibraDetector, LibraTask


@dataclasses.dataclass
class LibraRetinaNet(LibraDetector, retinanet.RetinaNet):
    """RetinaNet whose decoder may be the balanced feature pyramid."""


@dataclasses.dataclass
class Losses(retinanet.Losses):
    """RetinaNet's losses with a choice of the box loss.

    Either box loss is the mean over the four coordinates, summed over the positive anchors and
    divided by their number plus one (over the batch), times `box_loss_weight`. MMDetection sums
    over the coordinates, so its weight of 1 is 4 here.

    Attributes:
      box_loss: `balanced_l1`, or `huber` for Model Garden's own; that needs another
        `box_loss_weight`: Model Garden's is 50, for a knee (`huber_loss_delta`) at 0.1.
      balanced_l1: its constants.
    """

    box_loss: str = "balanced_l1"
    balanced_l1: components.BalancedL1 = dataclasses.field(default_factory=components.BalancedL1)


@dataclasses.dataclass
class LibraRetinaNetTask(LibraTask, retinanet.RetinaNetTask):
    """Model Garden's RetinaNet task with the Libra components."""

    model: LibraRetinaNet = dataclasses.field(default_factory=LibraRetinaNet)
    losses: Losses = dataclasses.field(default_factory=Losses)

    is_one_stage: ClassVar[bool] = True

    def validate(self) -> None:
        """Checks the values.

        Raises:
          ValueError: if a value cannot be used; it names the key.
        """
        super().validate()
        key, parser = "task.train_data.parser", self.train_data.parser
        checks.check_thresholds(
            {
                f"{key}.unmatched_threshold": parser.unmatched_threshold,
                f"{key}.match_threshold": parser.match_threshold,
            }
        )
