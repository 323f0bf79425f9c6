"""What MMDetection's config of a detector says that its weights do not.

A config is Python. It is not run: of its text only literals and calls of `dict` are understood,
which is all that the complete configs consist of that MMDetection writes into its checkpoints and
beside them.
"""

import ast
import os
from collections.abc import Iterator, Mapping
from typing import Any

from libra_tf.checkpoints.structure import Detector
from libra_tf.runner.errors import UsageError

_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_ROI_STDS = [0.1, 0.1, 0.2, 0.2]


def find(checkpoint: str, meta: Mapping[str, Any], config_file: str | None) -> dict[str, Any]:
    """Finds the config of a checkpoint.

    Args:
      checkpoint: path of the checkpoint.
      meta: what it says about itself; MMDetection 3 has the config there as `cfg`, 2 as `config`.
      config_file: path of a config that is to count instead; None for the checkpoint's own, or else
        for that in `NAME_config.txt` beside a checkpoint `NAME.pth`.

    Returns:
      The detector's config and, if there is one, `test_pipeline`; empty without a config.

    Raises:
      UsageError: if `config_file` cannot be read.
    """
    if config_file:
        return _parse_file(config_file)
    for key in ("cfg", "config"):
        if isinstance(meta.get(key), str):
            return _parse(meta[key])
    beside = os.path.splitext(checkpoint)[0] + "_config.txt"
    return _parse_file(beside) if os.path.isfile(beside) else {}


def overrides(path: str, config: Mapping[str, Any], detector: Detector) -> dict[str, Any]:
    """Translates a config into keys of `task.model`.

    Args:
      path: of the checkpoint, for messages.
      config: see `find`.
      detector: the structure of the detector.

    Returns:
      Nested keys and values; none for what the config does not say.

    Raises:
      UsageError: if the detector computes something that is not supported.
    """
    _check_supported(path, config, detector)
    head = "bbox_head" if detector.kind == "retinanet" else "rpn_head"
    translated = {
        "anchor": _anchor(_get(config, head, "anchor_generator")),
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
    return _without_none(translated)


def _parse_file(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a config of MMDetection ({error})") from error
    config = _parse(text)
    if not config:
        raise UsageError(
            f"{path} is not a complete config of MMDetection: it has no `model = dict(...)`. Name "
            "the one that MMDetection has written beside the checkpoint"
        )
    return config


def _parse(text: str) -> dict[str, Any]:
    """Returns the model's config and the test pipeline of a text, empty if it has none."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        values = {"model": _evaluate(tree.body[0].value)}
    else:
        values = {
            node.targets[0].id: _evaluate(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
    model = values.get("model")
    if not isinstance(model, dict) or "backbone" not in model:
        return {}
    rest = {name: values[name] for name in ("test_pipeline", "img_norm_cfg") if name in values}
    return {**model, **rest}


def _evaluate(node: ast.expr) -> Any:
    """The value of a literal or a call of `dict`; None for anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict" and not node.args:
        return {item.arg: _evaluate(item.value) for item in node.keywords if item.arg}
    if isinstance(node, ast.Dict):
        return {
            _evaluate(k): _evaluate(v) for k, v in zip(node.keys, node.values, strict=True) if k
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _check_supported(path: str, config: Mapping[str, Any], detector: Detector) -> None:
    preprocessor = _get(config, "data_preprocessor") or _get(config, "img_norm_cfg")
    takes_rgb = preprocessor.get("bgr_to_rgb", preprocessor.get("to_rgb"))
    head = _get(config, "bbox_head" if detector.kind == "retinanet" else "rpn_head")
    roi_coder = _get(config, "roi_head", "bbox_head", "bbox_coder")
    refine_level = next((neck.get("refine_level") for neck in _necks(config, "BFP")), None)
    strides = _get(head, "anchor_generator").get("strides")
    wanted = {
        "backbone.style": (_get(config, "backbone").get("style"), "pytorch"),
        "backbone.deep_stem": (_get(config, "backbone").get("deep_stem"), False),
        "backbone.dcn": (_get(config, "backbone").get("dcn"), None),
        "data_preprocessor.mean": (preprocessor.get("mean"), _MEAN),
        "data_preprocessor.std": (preprocessor.get("std"), _STD),
        "data_preprocessor.bgr_to_rgb": (takes_rgb, True),
        "neck refine_level": (refine_level, 4 - detector.min_level),
        "the first anchor stride": ((strides or [None])[0], 2**detector.min_level),
        "roi_head.bbox_head.bbox_coder.target_stds": (roi_coder.get("target_stds"), _ROI_STDS),
        "the type of suppression": (_suppression(config), "nms"),
    }
    for key, (value, supported) in wanted.items():
        if value is not None and value != supported:
            raise UsageError(
                f"{path}: its config has {value!r} for {key}; supported is {supported!r}"
            )


def _necks(config: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    necks = config.get("neck")
    for neck in necks if isinstance(necks, list) else [necks]:
        if isinstance(neck, Mapping) and neck.get("type") == kind:
            yield neck


def _suppression(config: Mapping[str, Any]) -> str | None:
    test = _get(config, "test_cfg")
    return _get(test, "nms").get("type") or _get(test, "rcnn", "nms").get("type")


def _iou_threshold(test: Mapping[str, Any]) -> float | None:
    nms = _get(test, "nms")
    return nms.get("iou_threshold", nms.get("iou_thr", test.get("nms_thr")))


def _anchor(generator: Mapping[str, Any]) -> dict[str, Any]:
    anchor = {}
    if generator.get("ratios"):
        anchor["aspect_ratios"] = [1 / ratio for ratio in generator["ratios"]]
    if generator.get("octave_base_scale"):
        anchor["anchor_size"] = float(generator["octave_base_scale"])
        anchor["num_scales"] = generator.get("scales_per_octave")
    elif len(generator.get("scales") or []) == 1:
        anchor["anchor_size"] = float(generator["scales"][0])
        anchor["num_scales"] = 1
    return anchor


def _input_size(pipeline: Any) -> list[int] | None:
    """The sides that images are resized to, found wherever the pipeline has its resizing."""
    items = pipeline if isinstance(pipeline, list) else []
    for item in items:
        if not isinstance(item, Mapping):
            continue
        scale = item.get("scale") or item.get("img_scale")
        if isinstance(scale, list) and len(scale) == 2 and all(isinstance(x, int) for x in scale):
            return [min(scale), max(scale), 3]
        size = _input_size(item.get("transforms"))
        if size:
            return size
    return None


def _get(config: Any, *keys: str) -> Mapping[str, Any]:
    """The dictionary at a path, empty if there is none."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_none(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in kept.items() if item != {}}
