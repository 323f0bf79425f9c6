"""The experiment for an imported detector: MMDetection's published recipe for its structure."""

from collections.abc import Mapping
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import backbones as model_garden

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.checkpoints.structure import Backbone, Detector
from libra_tf.cli.errors import UsageError
from libra_tf.configs import backbones

EXPERIMENTS = {
    "retinanet": "libra_retinanet_resnetfpn_coco",
    "fasterrcnn": "libra_fasterrcnn_resnetfpn_coco",
}
# The published anchors. Ratios are width / height here, and height / width in MMDetection.
_ANCHORS = {
    "retinanet": {"num_scales": 3, "aspect_ratios": [2.0, 1.0, 0.5], "anchor_size": 4.0},
    "fasterrcnn": {"num_scales": 1, "aspect_ratios": [2.0, 1.0, 0.5], "anchor_size": 8.0},
}

_AUGMENTATION = {"aug_rand_hflip": True, "aug_scale_min": 1.0, "aug_scale_max": 1.0}


def build(detector: Detector, changes: Mapping[str, Any], num_classes: int) -> cfg.ExperimentConfig:
    """Builds the config of an experiment with a model that computes what MMDetection's does.

    Args:
      detector: the structure of the detector.
      changes: the result of `overrides`.
      num_classes: the number of classes, including the background.
    """
    config = exp_factory.get_exp_config(EXPERIMENTS[detector.kind])
    config.override(changes, is_strict=True)
    config.task.model.num_classes = num_classes
    config.task.init_checkpoint = None
    config.task.annotation_file = None
    for data in (config.task.train_data, config.task.validation_data):
        data.input_path = ""
    config.task.validate()
    return config


def overrides(path: str, detector: Detector, model_changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that an imported detector overrides in its experiment.

    Args:
      path: path of the checkpoint, for messages.
      detector: the structure of the detector.
      model_changes: nested keys and values of `task.model` that its config sets.

    Returns:
      Nested keys and values, as in a config file. They do not include the data, nor the number of
      classes, which follows from the data.

    Raises:
      UsageError: if the detector's number of anchors differs from its config's or, if that does not
        set one, from the published detectors'.
    """
    model: dict[str, Any] = {
        "compatibility": "mmdetection",
        "input_size": [800, 1333, 3],
        "min_level": detector.min_level,
        "max_level": detector.max_level,
        "anchor": _anchor(path, detector, model_changes.get("anchor", {})),
        "backbone": backbone_config(detector.backbone).as_dict(),
        "decoder": _decoder(detector),
        "norm_activation": {"norm_epsilon": 1e-5, "norm_momentum": 0.9, "use_sync_bn": False},
        "detection_generator": {
            "pre_nms_score_threshold": 0.05,
            "nms_iou_threshold": 0.5,
            "max_num_detections": 100,
            "nms_version": "batched",
        },
    }
    task = {
        "model": model,
        # The optimizer decays the weights.
        "losses": {"l2_weight_decay": 0.0},
        "train_data": {"dtype": "float32", "parser": dict(_AUGMENTATION)},
        # Images keep their own shapes, so a batch can hold only one.
        "validation_data": {"dtype": "float32", "global_batch_size": 1},
    }
    if not detector.is_balanced:
        task["losses"]["box_loss"] = "l1"
    if detector.kind == "retinanet":
        task["losses"] |= {"focal_loss_alpha": 0.25, "focal_loss_gamma": 2.0, "box_loss_weight": 4}
        task["train_data"]["parser"] |= {"match_threshold": 0.5, "unmatched_threshold": 0.4}
        model["detection_generator"]["pre_nms_top_k"] = 1000
        model["head"] = {"num_convs": detector.num_convs, "num_filters": detector.head_channels}
        if detector.is_balanced:
            task["losses"]["balanced_l1"] = {"beta": 0.11, "form": "mmdet"}
    else:
        task["train_data"]["parser"] |= {
            "rpn_match_threshold": 0.7,
            "rpn_unmatched_threshold": 0.3,
            "rpn_batch_size_per_im": 256,
            "rpn_fg_fraction": 0.5,
        }
        _override_two_stages(detector, model)
    _merge(model, model_changes)
    return {
        "runtime": {"mixed_precision_dtype": "float32"},
        "task": task,
        "trainer": {"optimizer_config": {"optimizer": {"type": "torch_sgd"}}},
    }


def _override_two_stages(detector: Detector, model: dict[str, Any]) -> None:
    """Adds the settings of a two-stage detector to those of `task.model`."""
    model["rpn_head"] = {"num_convs": detector.num_convs, "num_filters": detector.head_channels}
    model["detection_head"] = {
        "num_convs": 0,
        "num_fcs": detector.num_fcs,
        "fc_dims": detector.fc_channels,
        "class_agnostic_bbox_pred": detector.is_class_agnostic,
    }
    model["roi_aligner"] = {"crop_size": detector.crop_size}
    model["roi_generator"] = {
        "pre_nms_top_k": 2000,
        "num_proposals": 1000,
        "nms_iou_threshold": 0.7,
        "test_pre_nms_top_k": 1000,
        "test_num_proposals": 1000,
        "test_nms_iou_threshold": 0.7,
        "use_batched_nms": True,
    }
    model["rpn_sampler"] = {"type": "random", "max_negatives_per_positive": 0}
    model["roi_sampler"] = {"type": "random"}
    if detector.is_balanced:
        model["rpn_sampler"]["max_negatives_per_positive"] = 5
        # MMDetection's sampler behaves like this from its second call on: IoU 0 is in no bin.
        balancing = {"bin_range": "all", "floor_threshold": 0.0}
        model["roi_sampler"] = {"type": "iou_balanced", **balancing}


def _anchor(path: str, detector: Detector, changes: Mapping[str, Any]) -> dict[str, Any]:
    anchor = {**_ANCHORS[detector.kind], **changes}
    count = anchor["num_scales"] * len(anchor["aspect_ratios"])
    if count != detector.num_anchors:
        expected = "its config has" if changes else "the published detectors have"
        raise UsageError(
            f"{path} has {detector.num_anchors} anchors per cell, but {expected} {count}; give the "
            "complete config that it was trained with as --config=FILE"
        )
    return anchor


def backbone_config(backbone: Backbone) -> backbones.Backbone:
    """Returns the config of a backbone with frozen batch normalisation statistics."""
    kwargs = {"depth_multiplier": backbone.width, "bn_trainable": False}
    if backbone.base_width is None:
        resnet = model_garden.ResNet(model_id=backbone.depth, **kwargs)
        return backbones.Backbone(type="resnet", resnet=resnet)
    resnext = backbones.ResNeXt(
        model_id=backbone.depth, groups=backbone.groups, base_width=backbone.base_width, **kwargs
    )
    return backbones.Backbone(type="resnext", resnext=resnext)


def _decoder(detector: Detector) -> dict[str, Any]:
    if not detector.is_balanced:
        return {"type": "fpn", "fpn": {"num_filters": detector.channels}}
    return {
        "type": "libra_fpn",
        "libra_fpn": {
            "num_filters": detector.channels,
            "refine_level": 4,
            "refine_type": detector.refine_type,
        },
    }


def _merge(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Overrides nested settings in place."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            _merge(settings.setdefault(key, {}), value)
        else:
            settings[key] = value
