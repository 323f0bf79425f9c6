"""Checks the values of a config before any work starts.

Errors name the key and its valid values.
"""

import contextlib
from collections.abc import Iterator, Mapping

from official.modeling import hyperparams
from official.vision.configs import maskrcnn

from libra_tf.configs import backbones, ranges
from libra_tf.configs.components import ROISampler, RPNSampler
from libra_tf.mixins.balanced_feature_pyramid import REFINE_TYPES
from libra_tf.ops.balanced_l1 import validate_balanced_l1

# What `compatibility: mmdetection` leaves no choice of: in the parser, the losses, the backbone,
# the decoder, and the parts that choose and crop boxes.
_FIXED_PARSER = {
    "aug_rand_vflip": False,
    "aug_rand_jpeg": None,
    "aug_scale_min": 1.0,
    "aug_scale_max": 1.0,
    "aug_type": None,
    "keep_aspect_ratio": True,
    "skip_crowd_during_training": True,
}
_FIXED_LOSSES = {
    "box_loss_normalizer": "sampled_rois",
    "class_weights": None,
    "class_weighting": "none",
    "frcnn_class_use_binary_cross_entropy": False,
    "frcnn_class_loss_top_k_percent": 1.0,
    # The box loss of its RPN is L1.
    "rpn_huber_loss_delta": 1 / 9,
}
_FIXED_BACKBONE = {
    "stem_type": "v0",
    "se_ratio": 0.0,
    "stochastic_depth_drop_rate": 0.0,
    "scale_stem": True,
    "resnetd_shortcut": False,
    "replace_stem_max_pool": False,
}
_FIXED_DECODER = {"fusion_type": "sum", "use_separable_conv": False, "use_keras_layer": False}
_FIXED_PARTS = {
    "roi_generator": {
        "pre_nms_score_threshold": 0.0,
        "pre_nms_min_size_threshold": 0.0,
        "test_pre_nms_score_threshold": 0.0,
        "test_pre_nms_min_size_threshold": 0.0,
    },
    "roi_aligner": {"sample_offset": 0.5},
    "detection_generator": {
        "soft_nms_sigma": None,
        # RetinaNet learns boxes without weights, and suppresses within each class.
        "box_coder_weights": None,
        "use_class_agnostic_nms": False,
    },
}
DECODERS = ("libra_fpn", "fpn", "nasfpn", "aspp", "identity")
SAMPLERS = ("iou_balanced", "random")
# `l1` is for `compatibility: mmdetection` alone.
BOX_LOSSES = ("balanced_l1", "l1", "huber")
INIT_CHECKPOINT_MODULES = ("all", "backbone", "decoder")
COMPATIBILITIES = (None, "mmdetection")
NUM_STAGES = 4
# Backbones whose first stages can be frozen -> the smallest `frozen_stages`; 0 is the stem alone.
FIRST_FROZEN_STAGE = {"resnet": 0, "resnet_v1": 0, "resnext": 0, "efficientnet": 1, "mobilenet": 1}
# Model Garden has loss weights for three stages only.
MAX_CASCADE_THRESHOLDS = 2


def check_choice(name: str, value: str | int | None, choices: tuple[str | int | None, ...]) -> None:
    """Checks that a value is one of several.

    Args:
      name: key of the value, for the message.
      value: the value.
      choices: the valid values.

    Raises:
      ValueError: if it is not; the message names the key and the valid values.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def check_task(task: hyperparams.Config) -> None:
    """Checks the keys that all Libra tasks share.

    Args:
      task: config of a Libra task.

    Raises:
      ValueError: if a choice is unknown or a number is outside its range; the message names the
        key.
    """
    ranges.check(task, "task")
    model, losses, modules = task.model, task.losses, task.init_checkpoint_modules
    for module in modules if isinstance(modules, (list, tuple)) else [modules]:
        check_choice("task.init_checkpoint_modules", module, INIT_CHECKPOINT_MODULES)
    # `num_classes` is 0 in the small experiments until their data set is known.
    if model.num_classes < 0 or model.num_classes == 1:
        raise ValueError(
            f"task.model.num_classes is {model.num_classes}; it must be at least 2: the background "
            "and one class"
        )
    _check_input_size(model)
    for name in ("train_data", "validation_data"):
        _check_augmentation(f"task.{name}.parser", getattr(task, name).parser)
    if model.backbone.type in backbones.MODEL_IDS:
        check_choice(
            f"task.model.backbone.{model.backbone.type}.model_id",
            model.backbone.get().model_id,
            backbones.MODEL_IDS[model.backbone.type],
        )
    _check_frozen_stages(task)
    _check_levels(model)
    check_choice("task.model.decoder.type", model.decoder.type, DECODERS)
    check_choice("task.model.compatibility", model.compatibility, COMPATIBILITIES)
    if model.compatibility:
        _check_compatible(task)
    if model.decoder.type == "libra_fpn":
        libra_fpn = model.decoder.libra_fpn
        levels = tuple(range(model.min_level, model.max_level + 1))
        check_choice("task.model.decoder.libra_fpn.refine_level", libra_fpn.refine_level, levels)
        check_choice(
            "task.model.decoder.libra_fpn.refine_type", libra_fpn.refine_type, REFINE_TYPES
        )
    _check_class_balance(task)
    check_choice("task.losses.box_loss", losses.box_loss, BOX_LOSSES)
    if losses.box_loss == "l1" and not model.compatibility:
        raise ValueError(
            "task.losses.box_loss is l1, which only task.model.compatibility=mmdetection has; use "
            "balanced_l1 or huber"
        )
    with _naming("task.losses.balanced_l1"):
        validate_balanced_l1(**losses.balanced_l1.as_dict())


def _check_levels(model: hyperparams.Config) -> None:
    finest = backbones.finest_level(model.backbone)
    if not finest <= model.min_level <= model.max_level:
        raise ValueError(
            f"task.model.min_level and max_level are {model.min_level} and {model.max_level}; "
            f"min_level must be at least {finest}, the finest level of {model.backbone.type}, and "
            "at most max_level"
        )


def _check_input_size(model: hyperparams.Config) -> None:
    size, coarsest = list(model.input_size), 2**model.max_level
    if len(size) != 3 or min(size) < 1 or size[2] != 3:
        raise ValueError(f"task.model.input_size is {size}; it must be [height, width, 3]")
    # MMDetection pads the images instead.
    if not model.compatibility and any(side % coarsest for side in size[:2]):
        height, width = (-(-side // coarsest) * coarsest for side in size[:2])
        raise ValueError(
            f"task.model.input_size is {size} and task.model.max_level is {model.max_level}; "
            f"height and width must be multiples of 2**max_level = {coarsest}, such as "
            f"[{height}, {width}, 3]"
        )


def _check_augmentation(key: str, parser: hyperparams.Config) -> None:
    if parser.aug_scale_min > parser.aug_scale_max:
        raise ValueError(
            f"{key}.aug_scale_min is {parser.aug_scale_min} and aug_scale_max is "
            f"{parser.aug_scale_max}; aug_scale_min must be at most aug_scale_max"
        )
    jpeg = getattr(parser, "aug_rand_jpeg", None)
    if jpeg and jpeg.min_quality >= jpeg.max_quality:
        raise ValueError(
            f"{key}.aug_rand_jpeg.min_quality is {jpeg.min_quality} and max_quality is "
            f"{jpeg.max_quality}; min_quality must be below max_quality"
        )


def _check_frozen_stages(task: hyperparams.Config) -> None:
    frozen, backbone = task.frozen_stages, task.model.backbone.type
    if frozen is None:
        return
    if backbone not in FIRST_FROZEN_STAGE:
        raise ValueError(
            f"task.frozen_stages is {frozen} and the backbone is {backbone}, but this key is for "
            f"{', '.join(FIRST_FROZEN_STAGE)}. Set it to null; task.freeze_backbone freezes a "
            "whole backbone of any kind"
        )
    first = FIRST_FROZEN_STAGE[backbone]
    if not first <= frozen <= NUM_STAGES:
        stem = " (stem only)" if first == 0 else ""
        raise ValueError(
            f"task.frozen_stages is {frozen}; for {backbone} it must be from {first}{stem} to "
            f"{NUM_STAGES}, or null to freeze nothing"
        )


def _check_class_balance(task: hyperparams.Config) -> None:
    data, losses = task.train_data, task.losses
    # Model Garden's own configs of data, which a task takes as well, do not have it.
    repeat_threshold = data.get("repeat_threshold", 0.0)
    if repeat_threshold and data.cache:
        raise ValueError(
            f"task.train_data.repeat_threshold is {repeat_threshold}, which repeats other "
            "images in every epoch, but task.train_data.cache=true keeps those of the first; set "
            "it to false, or repeat_threshold to 0"
        )
    counting = {
        "task.train_data.repeat_threshold": repeat_threshold,
        "task.losses.class_weighting": losses.class_weighting != "none" and losses.class_weighting,
    }
    for key, value in counting.items():
        if value and (data.tfds_name or isinstance(data.input_path, hyperparams.Config)):
            raise ValueError(
                f"{key} is {value}, which needs the classes of TFRecords in one "
                "task.train_data.input_path; leave out tfds_name, and name files or a pattern"
            )
        if value and data.decoder.type != "simple_decoder":
            raise ValueError(
                f"{key} is {value}, which needs the numbers of the classes in the records, but "
                f"task.train_data.decoder.type is {data.decoder.type}; use simple_decoder"
            )
    attribute_heads = "head" in task.model and task.model.head.attribute_heads
    if attribute_heads and (losses.class_weights or losses.class_weighting != "none"):
        raise ValueError(
            "task.model.head.attribute_heads have the class loss too, but none of its "
            "task.losses.class_weights; leave out one of them"
        )


def _check_compatible(task: hyperparams.Config) -> None:
    """Checks that a task uses nothing that MMDetection's detectors lack."""
    model = task.model
    with _naming(f"with task.model.compatibility={model.compatibility}"):
        check_choice("task.model.backbone.type", model.backbone.type, ("resnet", "resnext"))
        check_choice("task.model.decoder.type", model.decoder.type, ("libra_fpn", "fpn"))
        backbone, decoder = model.backbone, model.decoder
        for name, config, fixed in (
            ("task.train_data.parser", task.train_data.parser, _FIXED_PARSER),
            ("task.losses", task.losses, _FIXED_LOSSES),
            (f"task.model.backbone.{backbone.type}", backbone.get(), _FIXED_BACKBONE),
            (f"task.model.decoder.{decoder.type}", decoder.get(), _FIXED_DECODER),
            *((f"task.model.{part}", model.get(part), x) for part, x in _FIXED_PARTS.items()),
        ):
            # Each detector has some of these.
            for key in fixed.keys() & (config.as_dict() if config else {}).keys():
                check_choice(f"{name}.{key}", getattr(config, key), (fixed[key],))
        if "head" in model:
            heads = list(model.head.attribute_heads or ())
            check_choice("task.model.head.attribute_heads", heads, ([],))
        # Batches are made by the sizes in records.
        tfds_name = task.train_data.tfds_name or None
        check_choice("task.train_data.tfds_name", tfds_name, (None,))
        # An epoch that is kept would end with a batch of both orientations.
        check_choice("task.train_data.cache", task.train_data.cache, (False,))
        # Evaluation images keep their shapes, so they cannot be batched.
        batch_size = task.validation_data.global_batch_size
        check_choice("task.validation_data.global_batch_size", batch_size, (0, 1))
        if "include_mask" in model:
            check_choice("task.model.include_mask", model.include_mask, (False,))
            # Outer boxes are for masks.
            check_choice("task.model.outer_boxes_scale", model.outer_boxes_scale, (1.0,))
            thresholds = model.roi_sampler.cascade_iou_thresholds
            check_choice("task.model.roi_sampler.cascade_iou_thresholds", thresholds, (None,))
            is_balanced = model.roi_sampler.class_balanced
            check_choice("task.model.roi_sampler.class_balanced", is_balanced, (False,))


def check_optimization(task: hyperparams.Config, optimization: hyperparams.Config) -> None:
    """Checks that an MMDetection detector is not trained in a way that MMDetection lacks.

    It has no averages of the weights, no momentum with the learning rate in it, and no second decay
    of the weights. Optimizers other than SGD are not checked.

    Args:
      task: config of a Libra task.
      optimization: `trainer.optimizer_config`.

    Raises:
      ValueError: if it is not; the message names the key.
    """
    if not task.model.compatibility:
        return
    mode = f"task.model.compatibility={task.model.compatibility}"
    if optimization.ema is not None:
        raise ValueError(
            f"trainer.optimizer_config.ema is set, but {mode} trains without averages of the "
            "weights; set it to null"
        )
    kind = optimization.optimizer.type
    if kind in ("swa", "moving_average"):
        raise ValueError(
            f"trainer.optimizer_config.optimizer.type is {kind!r}, but {mode} trains without "
            "averages of the weights; use torch_sgd"
        )
    if kind == "sgd":
        raise ValueError(
            f"trainer.optimizer_config.optimizer.type is {kind!r}, whose momentum has the learning "
            f"rate in it, but {mode} trains as PyTorch does; use torch_sgd"
        )
    if kind == "torch_sgd" and task.losses.l2_weight_decay:
        raise ValueError(
            f"task.losses.l2_weight_decay is {task.losses.l2_weight_decay}, and torch_sgd decays "
            "the weights as well; set it to 0"
        )


def check_roi_sampler(
    sampler: ROISampler, num_proposals: int, max_num_instances: int, proposals_key: str
) -> None:
    """Checks the config of a RoI sampler.

    Args:
      sampler: the config.
      num_proposals: number of proposals per training image.
      max_num_instances: maximum number of ground-truth boxes per training image.
      proposals_key: the key that sets `num_proposals`, for the message.

    Raises:
      ValueError: if a choice is unknown or a number is outside its range; the message names the
        key.
    """
    key = "task.model.roi_sampler"
    _check_sampler(key, sampler, sampler.background_iou_high_threshold)
    check_thresholds(
        {
            f"{key}.background_iou_low_threshold": sampler.background_iou_low_threshold,
            f"{key}.background_iou_high_threshold": sampler.background_iou_high_threshold,
            f"{key}.foreground_iou_threshold": sampler.foreground_iou_threshold,
        }
    )
    if sampler.class_balanced and sampler.type != "iou_balanced":
        raise ValueError(
            f"{key}.class_balanced is true, but {key}.type is {sampler.type}, which draws all RoIs "
            "at random; set it to iou_balanced"
        )
    cascade = list(sampler.cascade_iou_thresholds or ())
    if len(cascade) > MAX_CASCADE_THRESHOLDS or not all(0 < t <= 1 for t in cascade):
        raise ValueError(
            f"{key}.cascade_iou_thresholds is {cascade}; it must be a list of at most "
            f"{MAX_CASCADE_THRESHOLDS} IoUs, one for each stage after the first"
        )
    num_boxes = num_proposals + (max_num_instances if sampler.mix_gt_boxes else 0)
    if not 1 <= sampler.num_sampled_rois <= num_boxes:
        raise ValueError(
            f"{key}.num_sampled_rois is {sampler.num_sampled_rois}; it must be from 1 to "
            f"{num_boxes}, the number of boxes to sample from (see {proposals_key} and "
            "task.train_data.parser.max_num_instances)"
        )


def check_rpn_sampler(sampler: RPNSampler, parser: maskrcnn.Parser) -> None:
    """Checks the config of an anchor sampler.

    Args:
      sampler: the config.
      parser: Model Garden's config of how anchors are labelled and how many are sampled.

    Raises:
      ValueError: if a choice is unknown or a number is outside its range; the message names the
        key.
    """
    _check_sampler("task.model.rpn_sampler", sampler, parser.rpn_unmatched_threshold)
    parser_key = "task.train_data.parser"
    check_thresholds(
        {
            f"{parser_key}.rpn_unmatched_threshold": parser.rpn_unmatched_threshold,
            f"{parser_key}.rpn_match_threshold": parser.rpn_match_threshold,
        }
    )


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """Checks that IoU thresholds are in ascending order.

    Args:
      thresholds: the thresholds by config key, lowest first.

    Raises:
      ValueError: if one is outside [0, 1] or below the one before; the message names the keys.
    """
    values = list(thresholds.values())
    if values != sorted(values) or not all(0 <= value <= 1 for value in values):
        listed = ", ".join(f"{key} is {value}" for key, value in thresholds.items())
        raise ValueError(f"{listed}; they must be IoUs from 0 to 1, in ascending order")


def _check_sampler(key: str, sampler: ROISampler | RPNSampler, negative_iou: float) -> None:
    check_choice(f"{key}.type", sampler.type, SAMPLERS)
    with _naming(key):
        sampler.bins(negative_iou)  # Building the bins checks them.
    if sampler.floor_fraction and sampler.floor_threshold < 0:
        raise ValueError(
            f"{key}.floor_fraction is {sampler.floor_fraction} without a floor to draw from; also "
            f"set {key}.floor_threshold to 0 or above"
        )


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Prefixes ValueErrors of the block with a key of the config."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
