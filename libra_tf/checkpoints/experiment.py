"""The experiment of an imported detector: MMDetection's published recipe for its structure."""

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
# The published anchors. The ratios are widths over heights; theirs are heights over widths.
_ANCHORS = {
    "retinanet": {"num_scales": 3, "aspect_ratios": [2.0, 1.0, 0.5], "anchor_size": 4.0},
    "fasterrcnn": {"num_scales": 1, "aspect_ratios": [2.0, 1.0, 0.5], "anchor_size": 8.0},
}


def build(detector: Detector, changes: Mapping[str, Any], num_classes: int) -> cfg.ExperimentConfig:
    """Builds the config of an experiment whose model computes what MMDetection's does.

    Args:
      detector: its structure.
      changes: see `overrides`.
      num_classes: of the model, the background included.
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
    """What an imported detector changes in the experiment of its kind.

    Args:
      path: of the checkpoint, for messages.
      detector: its structure.
      model_changes: nested keys and values of `task.model` that its config sets.

    Returns:
      Nested keys and values, as a config file has them. The data and the number of classes, which
      follows from the data, are not among them.

    Raises:
      UsageError: if the detector has another number of anchors than its config or, where that does
        not say, than the published detectors.
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
        "losses": {"l2_weight_decay": 1e-4},
        "train_data": {"dtype": "float32"},
        # Images keep their shapes, so a batch holds one.
        "validation_data": {"dtype": "float32", "global_batch_size": 1},
    }
    if not detector.is_balanced:
        task["losses"]["box_loss"] = "huber"
    if detector.kind == "retinanet":
        model["detection_generator"]["pre_nms_top_k"] = 1000
        model["head"] = {"num_convs": detector.num_convs, "num_filters": detector.head_channels}
        if detector.is_balanced:
            task["losses"]["balanced_l1"] = {"beta": 0.11, "form": "mmdet"}
    else:
        _override_two_stages(detector, model)
    _merge(model, model_changes)
    return {"runtime": {"mixed_precision_dtype": "float32"}, "task": task}


def _override_two_stages(detector: Detector, model: dict[str, Any]) -> None:
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
    }
    model["rpn_sampler"] = {"type": "random", "max_negatives_per_positive": 5}
    model["roi_sampler"] = {"type": "random"}
    if detector.is_balanced:
        # As their sampler is from its second call on: an IoU of 0 is outside of the bins.
        balancing = {"bin_range": "all", "floor_threshold": 0.0}
        model["roi_sampler"] = {"type": "iou_balanced", **balancing}


def _anchor(path: str, detector: Detector, changes: Mapping[str, Any]) -> dict[str, Any]:
    anchor = {**_ANCHORS[detector.kind], **changes}
    count = anchor["num_scales"] * len(anchor["aspect_ratios"])
    if count != detector.num_anchors:
        whose = "its config has" if changes else "the published detectors have"
        raise UsageError(
            f"{path} has {detector.num_anchors} anchors at a cell, and {whose} {count}; name the "
            "complete config that it was trained with by --config=FILE"
        )
    return anchor


def backbone_config(backbone: Backbone) -> backbones.Backbone:
    """Returns the config of a backbone, whose batch norms keep their statistics."""
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
    for key, value in changes.items():
        if isinstance(value, Mapping):
            _merge(settings.setdefault(key, {}), value)
        else:
            settings[key] = value
