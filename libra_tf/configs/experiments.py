"""The Libra experiments, registered with Model Garden under the names of their functions.

To add an experiment, write a function here and add a line to `names`.
"""

from collections.abc import Callable

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from official.vision.configs import maskrcnn as model_garden_maskrcnn
from official.vision.configs import retinanet as model_garden_retinanet

from libra_tf.configs import backbones, components, fastrcnn, maskrcnn, names, recipes, retinanet

Factory = Callable[[], cfg.ExperimentConfig]


def experiment(factory: Factory) -> Factory:
    """Registers an experiment under the name of its function.

    Args:
      factory: returns the config of the experiment.

    Returns:
      The same function.

    Raises:
      LookupError: if `names` lacks it. Commands read the names from there, without importing Model
        Garden.
    """
    if factory.__name__ not in names.EXPERIMENTS:
        raise LookupError(f"add {factory.__name__} to libra_tf/configs/names.py")
    return exp_factory.register_config_factory(factory.__name__)(factory)


@experiment
def libra_retinanet_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra RetinaNet R-50-FPN on COCO, the published schedule: 12 epochs, 16 images a step.

    Published box AP on val2017: 37.7 (original), 37.6 (MMDetection). Model Garden's input is one
    static square, so 1024x1024 stands in for the published 1333x800.
    """
    config = exp_factory.get_exp_config("retinanet_resnetfpn_coco")
    task = config.task
    config.task = retinanet.LibraRetinaNetTask(
        init_checkpoint=task.init_checkpoint,
        init_checkpoint_modules="backbone",
        annotation_file=task.annotation_file,
        per_category_metrics=True,
        model=retinanet.LibraRetinaNet(
            num_classes=91,
            input_size=[1024, 1024, 3],
            norm_activation=task.model.norm_activation,
        ),
        losses=retinanet.Losses(
            focal_loss_gamma=2.0,
            box_loss_weight=4,
            balanced_l1=components.BalancedL1(beta=0.11),
            l2_weight_decay=1e-4,
        ),
        train_data=retinanet.TrainData(task.train_data.as_dict()),
        validation_data=task.validation_data,
    )
    parser = config.task.train_data.parser
    parser.aug_scale_min = parser.aug_scale_max = 1.0
    # As in MMDetection. Anchors with an IoU from here to `match_threshold` are ignored.
    parser.unmatched_threshold = 0.4
    config.task.validation_data.drop_remainder = False
    recipes.use_published_schedule(config, learning_rate=0.01)
    return config


@experiment
def libra_retinanet_demo() -> cfg.ExperimentConfig:
    """Libra RetinaNet that learns the built-in shapes within minutes on two CPU cores.

    Reaches AP 0.675 (AP50 0.912).
    """
    config = _small_retinanet()
    config.task.model.num_classes = 5
    recipes.use_small_scale(config, input_size=128, max_level=4)
    recipes.use_small_schedule(config, train_steps=450, learning_rate=0.003)
    return config


@experiment
def libra_retinanet_small() -> cfg.ExperimentConfig:
    """Libra RetinaNet for a folder of your own images: minutes on two CPU cores.

    Reaches AP 0.564 (AP50 0.889) on BCCD's validation images, from scratch.
    """
    config = _small_retinanet()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_small_schedule(config, train_steps=600, learning_rate=0.003)
    return config


@experiment
def libra_retinanet_lite0() -> cfg.ExperimentConfig:
    """Libra RetinaNet with an ImageNet backbone, for a folder of your own photographs.

    Reaches AP 0.583 (AP50 0.902) on BCCD's validation images, in 11 minutes on two CPU cores.
    """
    config = _small_retinanet()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_lite0(config)
    # As in the published detector.
    config.task.losses.balanced_l1.beta = 0.11
    recipes.use_small_schedule(config, train_steps=600, learning_rate=0.003)
    return config


def _small_retinanet() -> cfg.ExperimentConfig:
    return cfg.ExperimentConfig(
        task=retinanet.LibraRetinaNetTask(
            model=retinanet.LibraRetinaNet(
                anchor=model_garden_retinanet.Anchor(num_scales=2),
                head=model_garden_retinanet.RetinaNetHead(num_convs=1, num_filters=64),
            ),
            losses=retinanet.Losses(box_loss_weight=4),
        ),
    )


@experiment
def libra_fasterrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN R-50-FPN on COCO, the published schedule: 12 epochs, 16 images a step.

    Published box AP on val2017: 38.5 (paper), 38.3 (MMDetection). Model Garden's input is one
    static square, so 1024x1024 stands in for the published 1333x800.
    """
    return _two_stage_on_coco(_without_masks())


@experiment
def libra_fasterrcnn_resnextfpn_coco() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN X-101-64x4d-FPN on COCO, the published schedule.

    Published box AP: 43.0 on test-dev (paper), 42.7 on val2017 (MMDetection). There is no
    pretrained ResNeXt for Model Garden, so set `task.init_checkpoint` to one of your own.
    """
    resnext = backbones.ResNeXt(model_id=101, groups=64, base_width=4)
    backbone = backbones.Backbone(type="resnext", resnext=resnext)
    config = _two_stage_on_coco(_without_masks(backbone=backbone))
    config.task.init_checkpoint = None
    return config


@experiment
def libra_maskrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Mask R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN, with masks.

    Neither the paper nor MMDetection publishes an AP for it.
    """
    return _two_stage_on_coco(maskrcnn.LibraMaskRCNN(detection_head=_two_fully_connected()))


@experiment
def libra_cascadercnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Cascade R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN, in three stages.

    The first stage samples RoIs evenly; the later stages refine these without sampling again. All
    stages have the balanced loss. Neither the paper nor MMDetection publishes an AP for it.
    """
    head = _two_fully_connected(class_agnostic_bbox_pred=True, cascade_class_ensemble=True)
    sampler = components.ROISampler(cascade_iou_thresholds=[0.6, 0.7])
    return _two_stage_on_coco(_without_masks(detection_head=head, roi_sampler=sampler))


def _two_fully_connected(**kwargs) -> model_garden_maskrcnn.DetectionHead:
    """Returns the published head, with two fully connected layers.

    Model Garden's default has four convolutions and one fully connected layer.
    """
    return model_garden_maskrcnn.DetectionHead(num_convs=0, num_fcs=2, fc_dims=1024, **kwargs)


def _without_masks(**kwargs) -> maskrcnn.LibraMaskRCNN:
    return maskrcnn.LibraMaskRCNN(
        **{"detection_head": _two_fully_connected(), **kwargs},
        include_mask=False,
        mask_head=None,
        mask_sampler=None,
        mask_roi_aligner=None,
    )


def _two_stage_on_coco(model: maskrcnn.LibraMaskRCNN) -> cfg.ExperimentConfig:
    """Returns an experiment that trains a two-stage model on COCO with the published recipe."""
    config = exp_factory.get_exp_config("fasterrcnn_resnetfpn_coco")
    task = config.task
    model.num_classes = 91
    model.input_size = [1024, 1024, 3]
    model.rpn_sampler.max_negatives_per_positive = 5
    config.task = maskrcnn.LibraMaskRCNNTask(
        init_checkpoint=task.init_checkpoint,
        init_checkpoint_modules="backbone",
        annotation_file=task.annotation_file,
        per_category_metrics=True,
        model=model,
        losses=maskrcnn.Losses(l2_weight_decay=1e-4),
        train_data=maskrcnn.TrainData(task.train_data.as_dict()),
        validation_data=task.validation_data,
    )
    config.task.train_data.parser.aug_scale_min = 1.0
    config.task.train_data.parser.aug_scale_max = 1.0
    recipes.use_published_schedule(config, learning_rate=0.02)
    return config


@experiment
def libra_fasterrcnn_demo() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN that learns the built-in shapes within minutes on two CPU cores.

    Reaches AP 0.702 (AP50 0.895).
    """
    config = _small_fasterrcnn()
    config.task.model.num_classes = 5
    recipes.use_small_scale(config, input_size=128, max_level=4)
    recipes.use_small_schedule(config, train_steps=450, learning_rate=0.003)
    return config


@experiment
def libra_fasterrcnn_small() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN for a folder of your own images: 15 minutes on two CPU cores.

    Reaches AP 0.573 (AP50 0.873) on BCCD's validation images, from scratch.
    """
    config = _small_fasterrcnn()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_small_schedule(config, train_steps=1000, learning_rate=0.003)
    return config


@experiment
def libra_fasterrcnn_lite0() -> cfg.ExperimentConfig:
    """Libra Faster R-CNN with an ImageNet backbone, for a folder of your own photographs.

    We have not trained it to its end yet.
    """
    config = _small_fasterrcnn()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_lite0(config)
    recipes.use_small_schedule(config, train_steps=600, learning_rate=0.003)
    return config


@experiment
def libra_maskrcnn_demo() -> cfg.ExperimentConfig:
    """Libra Mask R-CNN that learns the built-in shapes within minutes on two CPU cores.

    Reaches AP 0.732 (AP50 0.927) and mask AP 0.669.
    """
    config = _small_maskrcnn()
    config.task.model.num_classes = 5
    recipes.use_small_scale(config, input_size=128, max_level=4)
    recipes.use_small_schedule(config, train_steps=450, learning_rate=0.003)
    return config


@experiment
def libra_maskrcnn_small() -> cfg.ExperimentConfig:
    """Libra Mask R-CNN for a folder of your own images with masks."""
    config = _small_maskrcnn()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_small_schedule(config, train_steps=1000, learning_rate=0.003)
    return config


def _small_fasterrcnn() -> cfg.ExperimentConfig:
    return cfg.ExperimentConfig(
        task=maskrcnn.LibraMaskRCNNTask(model=_without_masks(**_small_heads()))
    )


def _small_maskrcnn() -> cfg.ExperimentConfig:
    model = maskrcnn.LibraMaskRCNN(
        **_small_heads(),
        mask_head=model_garden_maskrcnn.MaskHead(num_convs=2, num_filters=64),
        # A quarter of the sampled RoIs are positive, and only those have masks.
        mask_sampler=model_garden_maskrcnn.MaskSampler(num_sampled_masks=16),
    )
    config = cfg.ExperimentConfig(task=maskrcnn.LibraMaskRCNNTask(model=model))
    # Still finer than the 28x28 cells of the predicted masks.
    config.task.train_data.parser.mask_crop_size = 56
    return config


def _small_heads() -> dict[str, hyperparams.Config]:
    """Returns everything of a small two-stage detector but its masks."""
    return {
        "rpn_head": model_garden_maskrcnn.RPNHead(num_filters=64),
        "detection_head": model_garden_maskrcnn.DetectionHead(
            num_convs=0, num_filters=64, num_fcs=1, fc_dims=256
        ),
        "roi_generator": model_garden_maskrcnn.ROIGenerator(
            pre_nms_top_k=500,
            num_proposals=200,
            test_pre_nms_top_k=300,
            test_num_proposals=100,
            use_batched_nms=True,
        ),
        "roi_sampler": components.ROISampler(num_sampled_rois=64),
    }


@experiment
def libra_fastrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Fast R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN on given proposals.

    It uses 2000 proposals per image, so set `task.train_data.proposals` and
    `task.validation_data.proposals`. Published box AP on val2017: 38.5 (original repository, with
    the proposals of an RPN R-50-FPN).
    """
    config = libra_fasterrcnn_resnetfpn_coco()
    config.task = fastrcnn.LibraFastRCNNTask(config.task.as_dict())
    return config


if _missing := [name for name in names.EXPERIMENTS if name not in globals()]:
    raise LookupError(f"libra_tf/configs/names.py lists {', '.join(_missing)}, not defined here")
