"""Libra Faster, Mask and Cascade R-CNN: config and experiments."""

import dataclasses

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import maskrcnn

from libra_tf.configs import backbones, components, recipes

BOX_NORMALIZERS = ("positives", "sampled_rois")


@dataclasses.dataclass
class LibraMaskRCNN(maskrcnn.MaskRCNN):
    """Faster, Mask or Cascade R-CNN with the balanced feature pyramid and sampling.

    Attributes:
      compatibility: None, or `mmdetection` to compute what MMDetection's detector does with the
        same weights; see docs/mmdet.md. `input_size` is then [800, 1333, 3] for images that are
        resized to a shorter side of 800 pixels, but at most 1333 pixels of the longer one.
    """

    backbone: backbones.Backbone = dataclasses.field(default_factory=backbones.Backbone)
    decoder: components.Decoder = dataclasses.field(default_factory=components.Decoder)
    roi_sampler: components.ROISampler = dataclasses.field(default_factory=components.ROISampler)
    rpn_sampler: components.RPNSampler = dataclasses.field(default_factory=components.RPNSampler)
    compatibility: str | None = None


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
class LibraMaskRCNNTask(maskrcnn.MaskRCNNTask):
    """Model Garden's Mask R-CNN task with the Libra components.

    Attributes:
      frozen_stages: how many stages of a ResNet or ResNeXt stay as they are, with the stem: 0 for
        the stem alone, 1 in the published recipe, None for none.
      analysis: what a training writes to TensorBoard about its balance.
    """

    model: LibraMaskRCNN = dataclasses.field(default_factory=LibraMaskRCNN)
    losses: Losses = dataclasses.field(default_factory=Losses)
    frozen_stages: int | None = None
    analysis: components.Analysis = dataclasses.field(default_factory=components.Analysis)

    def validate(self):
        """Raises a ValueError that names the key if a choice is unknown."""
        components.check_task(self)
        super().validate()
        cascade = self.model.roi_sampler.cascade_iou_thresholds
        if cascade and not self.model.detection_head.class_agnostic_bbox_pred:
            raise ValueError(
                "task.model.roi_sampler.cascade_iou_thresholds needs "
                "task.model.detection_head.class_agnostic_bbox_pred=true: a stage passes one box "
                "of each RoI on to the next"
            )
        self.check_samplers()
        components.check_choice(
            "task.losses.box_loss_normalizer", self.losses.box_loss_normalizer, BOX_NORMALIZERS
        )

    def check_samplers(self):
        """Raises a ValueError that names the key if a sampler cannot be used."""
        components.check_roi_sampler(
            self.model.roi_sampler,
            self.model.roi_generator.num_proposals,
            self.train_data.parser.max_num_instances,
            "task.model.roi_generator.num_proposals",
        )
        components.check_rpn_sampler(self.model.rpn_sampler, self.train_data.parser)


@exp_factory.register_config_factory("libra_fasterrcnn_resnetfpn_coco")
def libra_fasterrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN R-50-FPN on COCO, the published schedule: 12 epochs, 16 images a step.

    Published box AP on val2017: 38.5 (paper), 38.3 (MMDetection). Model Garden's input is one
    static square, so 1024x1024 stands in for the published 1333x800.
    """
    return _coco(_without_masks())


@exp_factory.register_config_factory("libra_fasterrcnn_resnextfpn_coco")
def libra_fasterrcnn_resnextfpn_coco() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN X-101-64x4d-FPN on COCO, the published schedule.

    Published box AP: 43.0 on test-dev (paper), 42.7 on val2017 (MMDetection). There is no
    pretrained ResNeXt for Model Garden: name one as `task.init_checkpoint`.
    """
    resnext = backbones.ResNeXt(model_id=101, groups=64, base_width=4)
    config = _coco(_without_masks(backbone=backbones.Backbone(type="resnext", resnext=resnext)))
    config.task.init_checkpoint = None
    return config


@exp_factory.register_config_factory("libra_maskrcnn_resnetfpn_coco")
def libra_maskrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Mask R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN, with masks.

    Neither the paper nor MMDetection has a figure for it.
    """
    return _coco(LibraMaskRCNN(detection_head=_two_fully_connected()))


@exp_factory.register_config_factory("libra_cascadercnn_resnetfpn_coco")
def libra_cascadercnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Cascade R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN, three stages.

    The first stage samples evenly; the others take its RoIs as they are. All have the balanced
    loss. Neither the paper nor MMDetection has a figure for it.
    """
    head = _two_fully_connected(class_agnostic_bbox_pred=True, cascade_class_ensemble=True)
    sampler = components.ROISampler(cascade_iou_thresholds=[0.6, 0.7])
    return _coco(_without_masks(detection_head=head, roi_sampler=sampler))


def _two_fully_connected(**kwargs) -> maskrcnn.DetectionHead:
    """The published head; Model Garden's default has four convolutions and one of them."""
    return maskrcnn.DetectionHead(num_convs=0, num_fcs=2, fc_dims=1024, **kwargs)


def _without_masks(**kwargs) -> LibraMaskRCNN:
    return LibraMaskRCNN(
        **{"detection_head": _two_fully_connected(), **kwargs},
        include_mask=False,
        mask_head=None,
        mask_sampler=None,
        mask_roi_aligner=None,
    )


def _coco(model: LibraMaskRCNN) -> cfg.ExperimentConfig:
    """The published recipe on COCO, for one of the two-stage models."""
    config = exp_factory.get_exp_config("fasterrcnn_resnetfpn_coco")
    task = config.task
    model.num_classes = 91
    model.input_size = [1024, 1024, 3]
    model.rpn_sampler.max_negatives_per_positive = 5
    config.task = LibraMaskRCNNTask(
        init_checkpoint=task.init_checkpoint,
        init_checkpoint_modules="backbone",
        annotation_file=task.annotation_file,
        per_category_metrics=True,
        model=model,
        losses=Losses(l2_weight_decay=1e-4),
        train_data=task.train_data,
        validation_data=task.validation_data,
    )
    config.task.train_data.parser.aug_scale_min = 1.0
    config.task.train_data.parser.aug_scale_max = 1.0
    recipes.use_published_schedule(config, learning_rate=0.02)
    return config


@exp_factory.register_config_factory("libra_fasterrcnn_demo")
def libra_fasterrcnn_demo() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN that learns the built-in shapes within minutes on two CPU cores."""
    config = _small_fasterrcnn()
    config.task.model.num_classes = 5
    recipes.use_small_scale(config, input_size=128, max_level=4)
    recipes.use_small_schedule(config, train_steps=450, learning_rate=0.003)
    return config


@exp_factory.register_config_factory("libra_fasterrcnn_small")
def libra_fasterrcnn_small() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN for a folder of one's own: a quarter of an hour on two CPU cores."""
    config = _small_fasterrcnn()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_small_schedule(config, train_steps=1000, learning_rate=0.003)
    return config


def _small_fasterrcnn() -> cfg.ExperimentConfig:
    return cfg.ExperimentConfig(
        task=LibraMaskRCNNTask(
            model=_without_masks(
                rpn_head=maskrcnn.RPNHead(num_filters=64),
                detection_head=maskrcnn.DetectionHead(
                    num_convs=0, num_filters=64, num_fcs=1, fc_dims=256
                ),
                roi_generator=maskrcnn.ROIGenerator(
                    pre_nms_top_k=500,
                    num_proposals=200,
                    test_pre_nms_top_k=300,
                    test_num_proposals=100,
                    use_batched_nms=True,
                ),
                roi_sampler=components.ROISampler(num_sampled_rois=64),
            ),
        ),
    )
