"""Configs of Libra Faster, Mask and Cascade R-CNN."""

import dataclasses
from typing import ClassVar

from official.vision.configs import maskrcnn

from libra_tf.configs import checks, components
from libra_tf.configs.detector import LibraDetector, LibraTask

BOX_NORMALIZERS = ("positives", "sampled_rois")
NMS_VERSIONS = ("batched", "v1", "v2")
_MASK_PARTS = ("mask_head", "mask_sampler", "mask_roi_aligner")


@dataclasses.dataclass
class LibraMaskRCNN(LibraDetector, maskrcnn.MaskRCNN):
    """Faster, Mask or Cascade R-CNN with the balanced feature pyramid and sampling."""

    roi_sampler: components.ROISampler = dataclasses.field(default_factory=components.ROISampler)
    rpn_sampler: components.RPNSampler = dataclasses.field(default_factory=components.RPNSampler)


@dataclasses.dataclass
class TrainData(components.RepeatedImages, maskrcnn.DataConfig):
    """Model Garden's config of the training data, with repeated images."""

    is_training: bool = True


@dataclasses.dataclass
class Losses(components.ClassWeights, maskrcnn.Losses):
    """Mask R-CNN's losses with a choice of box loss for the RoI head.

    Attributes:
      box_loss: `balanced_l1`, or `huber` for Model Garden's own; with `compatibility`, also `l1`.
      box_loss_normalizer: what to divide the balanced L1 loss by, after summing it over the
        positive RoIs and their coordinates: `positives` for four times the number of positive RoIs
        (as in Model Garden), or `sampled_rois` for the number of sampled RoIs (as in MMDetection
        and the paper). The two are equal when a quarter of the RoIs are positive.
      balanced_l1: constants of the balanced L1 loss.
    """

    box_loss: str = "balanced_l1"
    box_loss_normalizer: str = "sampled_rois"
    balanced_l1: components.BalancedL1 = dataclasses.field(default_factory=components.BalancedL1)


@dataclasses.dataclass
class LibraMaskRCNNTask(LibraTask, maskrcnn.MaskRCNNTask):
    """Model Garden's Mask R-CNN task with the Libra components."""

    model: LibraMaskRCNN = dataclasses.field(default_factory=LibraMaskRCNN)
    losses: Losses = dataclasses.field(default_factory=Losses)
    train_data: TrainData = dataclasses.field(default_factory=TrainData)

    has_rpn: ClassVar[bool] = True

    def validate(self) -> None:
        """Checks the values.

        Raises:
          ValueError: if a value is invalid; the message names the key.
        """
        super().validate()
        cascade = self.model.roi_sampler.cascade_iou_thresholds
        if cascade and not self.model.detection_head.class_agnostic_bbox_pred:
            raise ValueError(
                "task.model.roi_sampler.cascade_iou_thresholds needs "
                "task.model.detection_head.class_agnostic_bbox_pred=true: each stage passes a "
                "single box per RoI to the next"
            )
        self.check_samplers()
        checks.check_choice(
            "task.losses.box_loss_normalizer", self.losses.box_loss_normalizer, BOX_NORMALIZERS
        )
        checks.check_choice(
            "task.model.detection_generator.nms_version",
            self.model.detection_generator.nms_version,
            NMS_VERSIONS,
        )
        self._check_mask_parts()

    def _check_mask_parts(self) -> None:
        missing = [name for name in _MASK_PARTS if getattr(self.model, name) is None]
        if self.model.include_mask and missing:
            raise ValueError(
                f"task.model.include_mask is true, but task.model.{missing[0]} is null; use an "
                "experiment with masks, or set task.model.include_mask=false"
            )
        if self.model.include_mask:
            masks = self.model.mask_sampler.num_sampled_masks
            rois = self.model.roi_sampler.num_sampled_rois
            if masks > rois:
                raise ValueError(
                    f"task.model.mask_sampler.num_sampled_masks is {masks}, but only the {rois} of "
                    "task.model.roi_sampler.num_sampled_rois can get a mask; set it to at most that"
                )

    def check_samplers(self) -> None:
        """Checks the samplers.

        Raises:
          ValueError: if a value is invalid; the message names the key.
        """
        checks.check_roi_sampler(
            self.model.roi_sampler,
            self.model.roi_generator.num_proposals,
            self.train_data.parser.max_num_instances,
            "task.model.roi_generator.num_proposals",
        )
        checks.check_rpn_sampler(self.model.rpn_sampler, self.train_data.parser)
