"""Infers the structure of an MMDetection detector from the names and shapes of its weights."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from official.vision.modeling.backbones import resnet

from libra_tf.cli.errors import UsageError

Weights = Mapping[str, np.ndarray]

# Name pattern that only one architecture has -> that architecture. The first match wins.
_OTHERS = (
    (r"(roi_head\.)?mask_head\.", "a detector with masks"),
    (r"roi_head\.bbox_head\.\d+\.", "Cascade R-CNN"),
    (r"bbox_head\.fc_cls\.", "Faster R-CNN of MMDetection 1.x or the original Libra R-CNN code"),
    (r"(bbox_head\.)?conv_centerness\.|bbox_head\.atss_", "FCOS or ATSS"),
    (r"bbox_head\.(multi_level_)?conv_(cls|reg|obj)|backbone\.stage", "YOLOX"),
    (r"bbox_head\.convs_(pred|bridge)", "YOLOv3"),
    (r"bbox_head\.gfl_", "GFL"),
    (r"bbox_head\.(cls|reg)_convs\.\d+\.\d+\.", "a head that no RetinaNet has, such as SSD"),
    (r"(encoder|decoder)\.layers\.|transformer\.", "a transformer such as DETR"),
    (r"backbone\.(patch_embed|stages)", "a detector with a Swin or ConvNeXt backbone"),
    (r"backbone\.bottom_up\.|proposal_generator\.", "a detector of Detectron2"),
    (r"backbone\.body\.|rpn\.head\.", "a detector of torchvision"),
    (r"(backbone\.)?stem\.", "a ResNet with a deep stem (V1d)"),
    (r"decode_head\.", "a segmentation model"),
)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A ResNet or ResNeXt.

    Attributes:
      depth: the number of layers, such as 50.
      width: channels of the stem divided by 64.
      groups: groups of the 3x3 convolutions.
      base_width: channels of a group in the first stage, for a network of width 1; None for ResNet.
    """

    depth: int
    width: float
    groups: int = 1
    base_width: int | None = None

    def __str__(self) -> str:
        if self.base_width is None:
            return f"ResNet-{self.depth}"
        return f"ResNeXt-{self.depth}-{self.groups}x{self.base_width}d"


@dataclasses.dataclass(frozen=True)
class Detector:
    """RetinaNet or Faster R-CNN with a feature pyramid.

    Attributes:
      kind: `retinanet` or `fasterrcnn`.
      backbone: its backbone.
      min_level: finest level of the pyramid.
      max_level: coarsest level of the pyramid.
      channels: channels of the pyramid.
      is_balanced: whether a balanced feature pyramid follows.
      refine_type: `non_local`, `conv` or None; see `libra_tf.layers.BalancedFeaturePyramid`.
      num_labels: number of classes, without the background.
      num_anchors: anchors per cell.
      num_convs: number of convolutions in each branch of RetinaNet's head, or in the RPN.
      head_channels: channels of these convolutions.
      num_fcs: number of fully connected layers in the second stage; None for RetinaNet.
      fc_channels: channels of these layers; None for RetinaNet.
      crop_size: height and width of the RoI crops; None for RetinaNet.
      is_class_agnostic: whether one box is predicted for all classes.
    """

    kind: str
    backbone: Backbone
    min_level: int
    max_level: int
    channels: int
    is_balanced: bool
    refine_type: str | None
    num_labels: int
    num_anchors: int
    num_convs: int
    head_channels: int
    num_fcs: int | None = None
    fc_channels: int | None = None
    crop_size: int | None = None
    is_class_agnostic: bool = False

    def __str__(self) -> str:
        name = {"retinanet": "RetinaNet", "fasterrcnn": "Faster R-CNN"}[self.kind]
        libra = "Libra " if self.is_balanced else ""
        return f"{libra}{name} {self.backbone}-FPN, {self.num_labels} classes"


def normalize_names(weights: Weights) -> dict[str, np.ndarray]:
    """Renames the weights as MMDetection 3 does for a detector with two necks."""
    renamed = {}
    for name, value in weights.items():
        name = re.sub(r"^neck\.(lateral_convs|fpn_convs)\.", r"neck.0.\1.", name)
        name = re.sub(r"^rpn_head\.rpn_conv\.(\d+)\.conv\.", r"rpn_head.rpn_conv.\1.", name)
        name = re.sub(r"^rpn_head\.rpn_conv\.(weight|bias)$", r"rpn_head.rpn_conv.0.\1", name)
        if not name.endswith(".num_batches_tracked"):
            renamed[name] = value
    return renamed


def is_backbone(weights: Weights) -> bool:
    """Returns whether these are the weights of a backbone alone, named as in torchvision."""
    return "layer1.0.conv1.weight" in weights


def infer_backbone(path: str, weights: Weights) -> Backbone:
    """Infers the structure of a backbone.

    Args:
      path: path of the file, for messages.
      weights: weights by name, without the prefix `backbone.`.

    Raises:
      UsageError: if it is neither a ResNet nor a ResNeXt.
    """
    _check_names(path, weights, {"conv1.weight": 4, "layer4.0.conv1.weight": 4})
    has_bottlenecks = "layer1.0.conv3.weight" in weights
    repeats = [_count(weights, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    kind = "bottleneck" if has_bottlenecks else "residual"
    depths = [
        depth
        for depth, specs in resnet.RESNET_SPECS.items()
        if [spec[2] for spec in specs] == repeats and specs[0][0] == kind
    ]
    if not depths:
        raise UsageError(
            f"{path}: the backbone has {', '.join(map(str, repeats))} {kind} blocks in its stages; "
            f"supported are ResNets of {', '.join(map(str, resnet.RESNET_SPECS))} layers"
        )
    filters = weights["conv1.weight"].shape[0]
    if not has_bottlenecks:
        return Backbone(depths[0], filters / 64)
    outputs, inputs, *_ = weights["layer1.0.conv2.weight"].shape
    groups = outputs // inputs
    if (groups, inputs) == (1, filters):
        return Backbone(depths[0], filters / 64)
    base_width, rest = divmod(inputs * 64, filters)
    if rest:
        raise UsageError(
            f"{path}: the backbone's groups have {inputs} channels and its stem {filters}; in a "
            f"supported ResNeXt, {inputs} * 64 is divisible by the stem's channels"
        )
    return Backbone(depths[0], filters / 64, groups, base_width)


def infer_detector(path: str, weights: Weights) -> Detector:
    """Infers the structure of a detector.

    Args:
      path: path of the file, for messages.
      weights: weights by name.

    Raises:
      UsageError: if it has another architecture; the message says which was recognised.
    """
    # With a single neck (FPN), weight names carry no neck number.
    has_two_necks = any(name.startswith("neck.0.") for name in weights)
    weights = normalize_names(weights)
    _refuse_others(path, weights)
    backbone = infer_backbone(path, without_prefix(weights, "backbone."))
    pyramid = _infer_pyramid(path, weights, has_two_necks)
    if "bbox_head.retina_cls.weight" in weights:
        return _infer_retinanet(path, weights, backbone, pyramid)
    return _infer_fasterrcnn(path, weights, backbone, pyramid)


def without_prefix(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    """Returns the weights that have a prefix, with the prefix removed from their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _infer_pyramid(path: str, weights: Weights, has_two_necks: bool) -> dict[str, Any]:
    """Returns the fields of `Detector` that describe the pyramid."""
    _check_names(path, weights, {"neck.0.lateral_convs.0.conv.weight": 4})
    refinement = without_prefix(weights, "neck.1.refine.")
    channels = weights["neck.0.lateral_convs.0.conv.weight"].shape[0]
    num_laterals = _count(weights, r"neck\.0\.lateral_convs\.(\d+)\.")
    extra = _count(weights, r"neck\.0\.fpn_convs\.(\d+)\.") - num_laterals
    if extra:
        name = f"neck.0.fpn_convs.{num_laterals}.conv.weight"
        inputs = weights[name].shape[1]
        expected = weights[f"neck.0.lateral_convs.{num_laterals - 1}.conv.weight"].shape[1]
        if inputs != expected:
            raise UsageError(
                f"{path}: {name} takes {inputs} channels; supported are only pyramids that compute "
                f"their coarser levels from the backbone's last one ({expected} channels)"
            )
    refine_type = None
    if refinement:
        refine_type = "conv" if "conv.weight" in refinement else "non_local"
    if refine_type == "non_local":
        _check_non_local(path, refinement, channels)
    return {
        "min_level": 6 - num_laterals,
        "max_level": 5 + extra,
        "channels": channels,
        "is_balanced": has_two_necks,
        "refine_type": refine_type,
    }


def _check_non_local(path: str, refinement: Weights, channels: int) -> None:
    parts = sorted({name.split(".")[0] for name in refinement})
    if parts != ["conv_out", "g", "phi", "theta"]:
        raise UsageError(
            f"{path}: the pyramid's non-local block has {', '.join(parts)}; only the embedded "
            "Gaussian one, with g, theta, phi and conv_out, is supported"
        )
    inner = refinement["theta.conv.weight"].shape[0]
    if inner != channels:
        raise UsageError(
            f"{path}: the pyramid's non-local block reduces {channels} channels to {inner}; "
            "only a reduction of 1 is supported"
        )


def _infer_retinanet(
    path: str, weights: Weights, backbone: Backbone, pyramid: Mapping[str, Any]
) -> Detector:
    _check_names(
        path, weights, {"bbox_head.retina_reg.weight": 4, "bbox_head.cls_convs.0.conv.weight": 4}
    )
    num_anchors = weights["bbox_head.retina_reg.weight"].shape[0] // 4
    num_logits = weights["bbox_head.retina_cls.weight"].shape[0]
    if not 0 < num_anchors <= num_logits:
        raise _other(path, f"{num_logits} logits for {num_anchors} anchors per cell")
    return Detector(
        kind="retinanet",
        backbone=backbone,
        **pyramid,
        num_labels=num_logits // num_anchors,
        num_anchors=num_anchors,
        num_convs=_count(weights, r"bbox_head\.cls_convs\.(\d+)\."),
        head_channels=weights["bbox_head.cls_convs.0.conv.weight"].shape[0],
    )


def _infer_fasterrcnn(
    path: str, weights: Weights, backbone: Backbone, pyramid: Mapping[str, Any]
) -> Detector:
    head = "roi_head.bbox_head."
    expected = {f"{head}{name}.weight": 2 for name in ("fc_cls", "fc_reg", "shared_fcs.0")}
    _check_names(
        path, weights, {**expected, "rpn_head.rpn_cls.weight": 4, "rpn_head.rpn_conv.0.weight": 4}
    )
    fc_channels, inputs = weights[f"{head}shared_fcs.0.weight"].shape
    num_labels = weights[f"{head}fc_cls.weight"].shape[0] - 1
    if not num_labels:
        raise _other(path, f"a weight {head}fc_cls.weight with no class but the background")
    num_boxes = weights[f"{head}fc_reg.weight"].shape[0] // 4
    return Detector(
        kind="fasterrcnn",
        backbone=backbone,
        **{**pyramid, "max_level": 6},
        num_labels=num_labels,
        num_anchors=weights["rpn_head.rpn_cls.weight"].shape[0],
        num_convs=_count(weights, r"rpn_head\.rpn_conv\.(\d+)\."),
        head_channels=weights["rpn_head.rpn_conv.0.weight"].shape[0],
        num_fcs=_count(weights, r"roi_head\.bbox_head\.shared_fcs\.(\d+)\."),
        fc_channels=fc_channels,
        crop_size=round((inputs / pyramid["channels"]) ** 0.5),
        is_class_agnostic=num_boxes == 1 and num_labels > 1,
    )


def _refuse_others(path: str, weights: Weights) -> None:
    """Refuses other architectures by the names of their weights."""
    for pattern, architecture in _OTHERS:
        for name in weights:
            if re.match(pattern, name):
                raise _other(path, f"{architecture} (it has {name})")
    is_supported = "bbox_head.retina_cls.weight" in weights or "rpn_head.rpn_cls.weight" in weights
    if not is_supported:
        parts = sorted({name.split(".")[0] for name in weights})
        raise _other(path, f"something with the parts {', '.join(parts[:8])}")


def _other(path: str, what: str) -> UsageError:
    return UsageError(
        f"{path} holds {what}. Supported are RetinaNet and Faster R-CNN of MMDetection 2 and 3, "
        "Libra or not, with FPN and a ResNet or ResNeXt, and such a backbone on its own"
    )


def _check_names(path: str, weights: Weights, ranks: Mapping[str, int]) -> None:
    """Checks that weights exist, with the given ranks, and are not empty."""
    for name, rank in ranks.items():
        if name not in weights:
            raise _other(path, f"no weight {name}, which such a detector needs")
        if weights[name].ndim != rank or 0 in weights[name].shape:
            raise _other(path, f"a weight {name} of shape {list(weights[name].shape)}")


def _count(weights: Weights, pattern: str) -> int:
    """Counts the distinct numbers that a pattern captures at the start of the names."""
    return len({match.group(1) for name in weights if (match := re.match(pattern, name))})
