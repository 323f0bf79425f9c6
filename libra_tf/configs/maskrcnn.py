"""Configs of Libra Faster, Mask and Cascade R-CNN."""

import dataclasses
from typing import ClassVar

from official.vision.configs import maskrcnn

from libra_tf.configs import checks, components
from libra_tf.configs.detector import LibraDetector, LibraTask

BOX_NORMALIZERS = ("positives", "sampled_rois")


@dataclasses.dataclass
class LibraMaskRCNN(LibraDetector, maskrcnn.MaskRCNN):
    """Faster, Mask or Cascade R-CNN with the balanced feature pyramid and sampling."""

    roi_sampler: components.ROISampler = dataclasses.field(default_factory=components.ROISampler)
    rpn_sampler: components.RPNSampler = dataclasses.field(default_factory=components.RPNSampler)


@dataclasses.dataclass
class Losses(maskrcnn.Losses):
    """Mask R-CNN's losses with a choice of the RoI head's box loss.

    Attributes:
      box_loss: `balanced_l1`, or `huber` for Model Garden's own.
      box_loss_normalizer: what the balanced L1 loss, summed over the positive RoIs and their
        coordinates, is divided by: `positives` (four times their number, Model Garden's way) or
        `sampled_rois` (the number of sampled RoIs, MMDetection's and the paper's way). The two
        are equal when a quarter of the RoIs are positive.
      balanced_l1: its constants.
    """

    box_loss: str = "balanced_l1"
    box_loss_normalizer: str = "sampled_rois"
    balanced_l1: components.BalancedL1 = dataclasses.field(default_factory=components.BalancedL1)


@dataclasses.dataclass
class LibraMaskRCNNTask(LibraTask, maskrcnn.MaskRCNNTask):
    """Model Garden's Mask R-CNN task with the Libra components."""

    model: LibraMaskRCNN = dataclasses.field(default_factory=LibraMaskRCNN)
    losses: Losses = dataclasses.field(default_factory=Losses)

    has_rpn: ClassVar[bool] = True

    def validate(self) -> None:
        """Checks the values.

        Raises:
          ValueError: if a value cannot be used; it names the key.
        """
        super().validate()
        cascade = self.model.roi_sampler.cascade_iou_thresholds
        if cascade and not self.model.detection_head.class_agnostic_bbox_pred:
            raise ValueError(
                "task.model.roi_sampler.cascade_iou_thresholds needs "
                "task.model.detection_head.class_agnostic_bbox_pred=true: a stage passes one box "
                "of each RoI on to the next"
            )
        self.check_samplers()
        checks.check_choice(
            "task.losses.box_loss_normalizer", self.losses.box_loss_normalizer, BOX_NORMALIZERS
        )

    def check_samplers(self) -> None:
        """Checks the samplers.

        Raises:
          ValueError: if a sampler cannot be used; it names the key.
        """
        checks.check_roi_sampler(
            self.model.roi_sampler,
            self.model.roi_generator.num_proposals,
            self.train_data.parser.max_num_instances,
            "task.model.roi_generator.num_proposals",
        )
        checks.check_rpn_sampler(self.model.rpn_sampler, self.train_data.parser)
