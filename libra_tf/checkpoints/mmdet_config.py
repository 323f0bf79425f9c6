"""Reads from MMDetection's config of a detector what its weights do not show.

A config is Python code, but it is not run: only literals and calls of `dict` are evaluated. The
complete configs that MMDetection writes into its checkpoints and beside them consist of nothing
else.
"""

import ast
import os
from collections.abc import Iterator, Mapping
from typing import Any

from libra_tf.checkpoints.structure import Detector
from libra_tf.cli.errors import UsageError

_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_HEAD_STDS, _ROI_STDS = [1.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.2, 0.2]
_INCOMPLETE = (
    "is not a complete config of MMDetection: it has no `model = dict(...)` with a backbone, or it "
    "inherits from other files by `_base_`"
)

# Key of the config -> its value, None if the config does not set it, and the supported value.
_Wanted = dict[str, tuple[Any, Any]]


def find(
    checkpoint: str, meta: Mapping[str, Any], config_file: str | None
) -> tuple[dict[str, Any], str]:
    """Finds the config of a checkpoint.

    Args:
      checkpoint: path of the checkpoint.
      meta: its metadata. MMDetection 3 stores the config there as `cfg`, MMDetection 2 as `config`.
      config_file: path of a config to use instead; None for the checkpoint's own or, without one,
        that in `NAME_config.txt` beside a checkpoint `NAME.pth`.

    Returns:
      config: the detector's config and, if there is one, `test_pipeline`; empty if none was found.
      source: where the config was found, for display.

    Raises:
      UsageError: if `config_file` cannot be read, or if the checkpoint's own config cannot be
        evaluated and there is none beside it.
    """
    if config_file:
        return _parse_file(config_file), config_file
    embedded = {key: meta[key] for key in ("cfg", "config") if meta.get(key)}
    for key, text in embedded.items():
        config = _parse(text) if isinstance(text, str) else {}
        if config:
            return config, f"the checkpoint's own ({key})"
    beside = os.path.splitext(checkpoint)[0] + "_config.txt"
    if os.path.isfile(beside):
        return _parse_file(beside), beside
    if embedded:
        raise UsageError(
            f"{checkpoint}: the config in it ({', '.join(embedded)}) {_INCOMPLETE}; give the one "
            "that it was trained with as --config=FILE"
        )
    return {}, "none found, so the published models' config is used"


def check_version(
    path: str, meta: Mapping[str, Any], config: Mapping[str, Any], detector: Detector
) -> None:
    """Checks that a detector was not trained with MMDetection 1.x.

    RetinaNets of MMDetection 1.x have the same names and shapes, but other anchors and another box
    coder. The first models published for MMDetection 2 also claim to be of 1.x. They are recognised
    by an `anchor_generator` in their config, which MMDetection 1.x does not know.

    Args:
      path: path of the checkpoint, for messages.
      meta: the checkpoint's metadata.
      config: the result of `find`.
      detector: the structure of the detector.

    Raises:
      UsageError: if it was trained with MMDetection 1.x.
    """
    version = str(meta.get("mmdet_version", ""))
    if version.startswith(("0.", "1.")) and not _get(
        config, _head_name(detector), "anchor_generator"
    ):
        raise UsageError(
            f"{path} was saved by MMDetection {version}, and the anchors and box coder of 1.x are "
            "not supported; if it was published for MMDetection 2, give its complete config of "
            "MMDetection 2 as --config=FILE"
        )


def overrides(path: str, config: Mapping[str, Any], detector: Detector) -> dict[str, Any]:
    """Translates a config into keys of `task.model`.

    Args:
      path: path of the checkpoint, for messages.
      config: the result of `find`.
      detector: the structure of the detector.

    Returns:
      Nested keys and values; only those that the config sets.

    Raises:
      UsageError: if the config asks for something that is not supported.
    """
    _check_supported(path, config, detector)
    translated = {
        "anchor": _anchor(_get(config, _head_name(detector), "anchor_generator")),
        "input_size": _input_size(config.get("test_pipeline")),
    }
    test = _get(config, "test_cfg")
    box_test = test if detector.kind == "retinanet" else _get(test, "rcnn")
    translated["detection_generator"] = {
        "pre_nms_score_threshold": box_test.get("score_thr"),
        "nms_iou_threshold": _iou_threshold(box_test),
        "max_num_detections": box_test.get("max_per_img"),
    }
    if detector.kind == "retinanet":
        translated["detection_generator"]["pre_nms_top_k"] = box_test.get("nms_pre")
    else:
        rpn = _get(test, "rpn")
        translated["roi_generator"] = {
            "test_pre_nms_top_k": rpn.get("nms_pre"),
            "test_num_proposals": rpn.get("max_per_img", rpn.get("max_num")),
            "test_nms_iou_threshold": _iou_threshold(rpn),
        }
        translated |= _training_of_two_stages(
            path, translated["roi_generator"], _get(config, "train_cfg")
        )
    return _without_none(translated)


def _training_of_two_stages(
    path: str, roi_generator: Mapping[str, Any], train: Mapping[str, Any]
) -> dict[str, Any]:
    """Translates how many proposals a training takes, and how many anchors and RoIs it samples."""
    proposals, sampler = _get(train, "rpn_proposal"), _get(train, "rcnn", "sampler")
    return {
        "roi_generator": {
            **roi_generator,
            "pre_nms_top_k": proposals.get("nms_pre"),
            "num_proposals": proposals.get("max_per_img", proposals.get("max_num")),
            "nms_iou_threshold": _iou_threshold(proposals),
        },
        "roi_sampler": {
            "num_sampled_rois": sampler.get("num"),
            "foreground_fraction": sampler.get("pos_fraction"),
        },
        "rpn_sampler": {
            "max_negatives_per_positive": _max_negatives(path, _get(train, "rpn", "sampler")),
        },
    }


def _max_negatives(path: str, sampler: Mapping[str, Any]) -> int | None:
    """Translates the limit of an anchor sampler; below 0 is none there, and 0 is none here."""
    if not sampler:
        return None
    limit = sampler.get("neg_pos_ub", -1)
    if not isinstance(limit, int) or limit == 0:
        raise UsageError(
            f"{path}: its config has {limit!r} for train_cfg.rpn.sampler.neg_pos_ub; only whole "
            "numbers of at least 1, and -1, are supported"
        )
    return max(limit, 0)


def _parse_file(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read as a config of MMDetection ({error}); name another file"
        ) from error
    config = _parse(text)
    if not config:
        raise UsageError(
            f"{path} {_INCOMPLETE}; give the one that MMDetection wrote beside the checkpoint"
        )
    return config


def _parse(text: str) -> dict[str, Any]:
    """Returns the model's config and the test pipeline in a text, empty without a config."""
    try:
        values = _values(ast.parse(text))
    # The text is not Python, or is nested too deeply for the parser.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    model = values.get("model")
    # A config with `_base_` inherits settings from other files.
    if not isinstance(model, dict) or "backbone" not in model or "_base_" in values:
        return {}
    # Up to MMDetection 2.7 the settings of training and test, too, are beside the model.
    beside = ("test_pipeline", "img_norm_cfg", "train_cfg", "test_cfg")
    return {**{name: values[name] for name in beside if name in values}, **model}


def _values(tree: ast.Module) -> dict[str, Any]:
    """Returns the assigned values by name; a single expression is taken as the model."""
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        return {"model": _evaluate(tree.body[0].value)}
    return {
        node.targets[0].id: _evaluate(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _evaluate(node: ast.expr) -> Any:
    """Evaluates a literal or a call of `dict`; returns None for anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict" and not node.args:
        return {item.arg: _evaluate(item.value) for item in node.keywords if item.arg}
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return {
            key.value: _evaluate(value) for key, value in items if isinstance(key, ast.Constant)
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _check_supported(path: str, config: Mapping[str, Any], detector: Detector) -> None:
    wanted = {
        **_wanted_of_images(config),
        **_wanted_of_features(config, detector),
        **_wanted_of_boxes(config, detector),
        **_wanted_of_suppression(config, detector),
    }
    for key, (value, supported) in wanted.items():
        if value is not None and value != supported:
            raise UsageError(
                f"{path}: its config has {value!r} for {key}; only {supported!r} is supported"
            )


def _wanted_of_images(config: Mapping[str, Any]) -> _Wanted:
    preprocessor = _get(config, "data_preprocessor") or _get(config, "img_norm_cfg")
    takes_rgb = preprocessor.get("bgr_to_rgb", preprocessor.get("to_rgb"))
    # The default is True in MMDetection 2, and False in 3, which has the preprocessor.
    default = "data_preprocessor" not in config
    keeps_ratio = all(
        step.get("keep_ratio", default)
        for step in _steps(config.get("test_pipeline"))
        if str(step.get("type")).endswith("Resize")
    )
    return {
        "data_preprocessor.mean": (preprocessor.get("mean"), _MEAN),
        "data_preprocessor.std": (preprocessor.get("std"), _STD),
        "data_preprocessor.bgr_to_rgb": (takes_rgb, True),
        "keep_ratio of Resize in test_pipeline": (keeps_ratio, True),
    }


def _wanted_of_features(config: Mapping[str, Any], detector: Detector) -> _Wanted:
    backbone = _get(config, "backbone")
    fpn, bfp = (next(_necks(config, kind), {}) for kind in ("FPN", "BFP"))
    return {
        "backbone.style": (backbone.get("style"), "pytorch"),
        "backbone.deep_stem": (backbone.get("deep_stem"), False),
        "backbone.dcn": (backbone.get("dcn"), None),
        "neck relu_before_extra_convs": (fpn.get("relu_before_extra_convs"), False),
        "neck refine_level": (bfp.get("refine_level"), 4 - detector.min_level),
    }


def _wanted_of_boxes(config: Mapping[str, Any], detector: Detector) -> _Wanted:
    head = _head_name(detector)
    generator = _get(config, head, "anchor_generator")
    scales = generator.get("scales")
    strides = [2**level for level in range(detector.min_level, detector.max_level + 1)]
    wanted = {
        f"{head}.anchor_generator.type": (generator.get("type"), "AnchorGenerator"),
        # Scales that divide an octave evenly have another key in MMDetection.
        f"{head}.anchor_generator.scales": (scales, scales and scales[:1]),
        f"{head}.anchor_generator.strides": (generator.get("strides"), strides),
        f"{head}.anchor_generator.center_offset": (generator.get("center_offset"), 0),
    }
    for keys, stds in (((head,), _HEAD_STDS), (("roi_head", "bbox_head"), _ROI_STDS)):
        coder, name = _get(config, *keys, "bbox_coder"), ".".join((*keys, "bbox_coder"))
        wanted[f"{name}.type"] = (coder.get("type"), "DeltaXYWHBBoxCoder")
        wanted[f"{name}.target_stds"] = (coder.get("target_stds"), stds)
    return wanted


def _wanted_of_suppression(config: Mapping[str, Any], detector: Detector) -> _Wanted:
    keys = [("test_cfg",)]
    if detector.kind == "fasterrcnn":
        keys = [("test_cfg", "rpn"), ("test_cfg", "rcnn")]
    wanted = {}
    for stage in keys:
        test, name = _get(config, *stage), ".".join(stage)
        nms = _get(test, "nms")
        wanted[f"{name}.nms.type"] = (nms.get("type"), "nms")
        wanted[f"{name}.nms.class_agnostic"] = (nms.get("class_agnostic"), False)
        wanted[f"{name}.nms_across_levels"] = (test.get("nms_across_levels"), False)
        wanted[f"{name}.min_bbox_size"] = (test.get("min_bbox_size"), 0)
    return wanted


def _head_name(detector: Detector) -> str:
    """Returns the key of the config that holds the anchors."""
    return "bbox_head" if detector.kind == "retinanet" else "rpn_head"


def _necks(config: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """Yields the necks of a type."""
    necks = config.get("neck")
    for neck in necks if isinstance(necks, list) else [necks]:
        if isinstance(neck, Mapping) and neck.get("type") == kind:
            yield neck


def _iou_threshold(test: Mapping[str, Any]) -> float | None:
    nms = _get(test, "nms")
    return nms.get("iou_threshold", nms.get("iou_thr", test.get("nms_thr")))


def _anchor(generator: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the settings of an anchor generator."""
    anchor = {}
    if generator.get("ratios"):
        anchor["aspect_ratios"] = [1 / ratio for ratio in generator["ratios"]]
    if generator.get("octave_base_scale"):
        anchor["anchor_size"] = float(generator["octave_base_scale"])
        anchor["num_scales"] = generator.get("scales_per_octave")
    elif generator.get("scales"):
        anchor["anchor_size"] = float(generator["scales"][0])
        anchor["num_scales"] = 1
    return anchor


def _input_size(pipeline: Any) -> list[int] | None:
    """Returns the size that images are resized to, from whichever step of the pipeline sets it."""
    for step in _steps(pipeline):
        scale = step.get("scale") or step.get("img_scale")
        if isinstance(scale, list) and len(scale) == 2 and all(isinstance(x, int) for x in scale):
            return [min(scale), max(scale), 3]
    return None


def _steps(pipeline: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the steps of a pipeline, each before those nested in it."""
    for step in pipeline if isinstance(pipeline, list) else []:
        if isinstance(step, Mapping):
            yield step
            yield from _steps(step.get("transforms"))


def _get(config: Any, *keys: str) -> Mapping[str, Any]:
    """Returns the dictionary under nested keys, empty if there is none."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_none(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in kept.items() if item != {}}
