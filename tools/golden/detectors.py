"""Whole detectors of MMDetection with few channels, and the output of every stage.

`make.py` runs them. Each detector has `NAME.pth`, a checkpoint as MMDetection saves it, and
`NAME_config.txt`, its `model` config: a published Libra detector with a sixteenth of the channels
and 5 classes. `NAME_HxW` holds `input`, a normalised image, and the output of every stage under the
names that `libra_tf/checkpoints/verify.py` lists; the largest size has only the proposals, the
outputs of the second stage and the detections.
"""

import functools
import pathlib
from collections.abc import Mapping

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from torch import nn

from seeds import generator, normal

Arrays = dict[str, np.ndarray]

PUBLISHED = pathlib.Path(mmdet.__file__).parent / ".mim/configs/libra_rcnn"
DETECTORS = {
    "libra_retinanet_r50": ("libra-retinanet_r50_fpn_1x_coco.py", {}),
    "libra_faster_rcnn_r50": ("libra-faster-rcnn_r50_fpn_1x_coco.py", {}),
    "libra_faster_rcnn_x50": (
        "libra-faster-rcnn_r50_fpn_1x_coco.py",
        {"type": "ResNeXt", "groups": 4, "base_width": 2},
    ),
}
CLASSES = ("a", "b", "c", "d", "e")
BASE_CHANNELS, CHANNELS, FC_CHANNELS, NUM_PROPOSALS = 4, 16, 32, 300
# Sizes whose halves are odd. Of the largest one, the early stages are left out.
SIZES = ("96x160", "64x224", "320x416")
NAMES = tuple(f"{detector}_{size}" for detector in DETECTORS for size in SIZES)
# When an input changes by NUDGE of itself, which is about what float32's rounding adds up to, boxes
# may move by so many pixels and scores may change by so much.
NUDGE, STEADY_BOXES, STEADY_SCORES = 1e-6, 0.02, 1e-4
_NUM_TRIES = 20
# Arrays with a row for each box.
_BOXES = (("proposals", "proposal_scores"), ("det_boxes", "det_scores", "det_labels"))
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def draw(name: str, folder: pathlib.Path) -> Arrays:
    """Draws the input of a file, and the detector along with its first file.

    An input for which the boxes depend on rounding is drawn again, so that every machine finds the
    same boxes.

    Raises:
      ValueError: if it has been drawn too often.
    """
    detector, size = name.rsplit("_", 1)
    if size == SIZES[0]:
        _write_detector(detector, folder)
        _model.cache_clear()
    height, width = map(int, size.split("x"))
    rng = generator(name)
    for _ in range(_NUM_TRIES):
        inputs = {"input": _picture(rng, height, width)}
        nudged = {"input": inputs["input"] * np.float32(1 + NUDGE)}
        found, moved = (compute(name, x, folder) for x in (inputs, nudged))
        if all(_is_steady(found, moved, *names) for names in _BOXES if names[0] in found):
            return inputs
    raise ValueError(f"{name}: the boxes found in {_NUM_TRIES} inputs all depend on rounding")


def compute(name: str, inputs: Mapping[str, np.ndarray], folder: pathlib.Path) -> Arrays:
    """Returns the stages of a detector.

    Args:
      name: of the file.
      inputs: `input` and, in a comparison, all stored stages: the second stage then starts from
        the stored proposals, and boxes come in the stored order.
      folder: of the detector.
    """
    detector, size = name.rsplit("_", 1)
    model = _model(detector, folder)
    image = torch.tensor(inputs["input"])
    with torch.inference_mode():
        outputs = _first_stage(model, image)
        if "proposals" in outputs:
            proposals = torch.tensor(inputs.get("proposals", outputs["proposals"]))
            outputs |= _second_stage(model, image, proposals)
        found = model.predict(image, [_sample(image)], rescale=False)[0].pred_instances
    outputs |= {f"det_{key}": found[key].numpy() for key in ("bboxes", "scores", "labels")}
    outputs["det_boxes"] = outputs.pop("det_bboxes")
    if size == SIZES[-1]:
        late = ("proposal", "roi_levels", "roi_cls", "roi_reg", "det_")
        outputs = {key: value for key, value in outputs.items() if key.startswith(late)}
    for names in _BOXES:
        if names[0] in inputs:
            outputs |= _in_stored_order({key: outputs[key] for key in names}, inputs)
    return outputs


def _first_stage(model: nn.Module, image: torch.Tensor) -> Arrays:
    backbone = model.backbone(image)
    pyramid = model.neck[0](backbone)
    features = model.neck[1](pyramid)
    is_single_stage = hasattr(model, "bbox_head")
    scores, boxes = (model.bbox_head if is_single_stage else model.rpn_head)(features)
    prefix = "" if is_single_stage else "rpn_"
    stages = {"backbone": backbone, "fpn": pyramid, "bfp": features}
    stages |= {f"{prefix}cls": scores, f"{prefix}reg": boxes}
    outputs = {
        f"{name}{index}": level.numpy()
        for name, levels in stages.items()
        for index, level in enumerate(levels)
    }
    if not is_single_stage:
        found = model.rpn_head.predict(features, [_sample(image)], rescale=False)[0]
        outputs |= {"proposals": found.bboxes.numpy(), "proposal_scores": found.scores.numpy()}
    return outputs


def _second_stage(model: nn.Module, image: torch.Tensor, proposals: torch.Tensor) -> Arrays:
    head, rois = model.roi_head, bbox2roi([proposals])
    features = model.extract_feat(image)[: head.bbox_roi_extractor.num_inputs]
    crops = head.bbox_roi_extractor(features, rois)
    scores, boxes = head.bbox_head(crops)
    return {
        "roi_levels": head.bbox_roi_extractor.map_roi_levels(rois, len(features)).numpy(),
        "roi_feats_first32": crops[:32].numpy(),
        "roi_cls": scores.numpy(),
        "roi_reg": boxes.numpy(),
    }


def _sample(image: torch.Tensor) -> DetDataSample:
    shape = tuple(image.shape[2:])
    names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    return DetDataSample(metainfo={**dict.fromkeys(names, shape), "scale_factor": (1.0, 1.0)})


def _in_stored_order(rows: Arrays, stored: Mapping[str, np.ndarray]) -> Arrays:
    """Sorts rows as the stored ones are, since boxes with equal scores come in any order."""
    boxes, *others = (np.reshape(rows[name], [len(rows[name]), -1]) for name in rows)
    table = np.concatenate([boxes, *others], axis=1)
    wanted = np.concatenate([np.reshape(stored[x], [len(stored[x]), -1]) for x in rows], axis=1)
    distances = np.abs(table - wanted[:, np.newaxis]).max(axis=2)
    order = distances.argmin(axis=1)
    if len(set(order)) != len(table):
        return rows
    return {name: value[order] for name, value in rows.items()}


def _is_steady(found: Arrays, moved: Arrays, boxes: str, scores: str, *labels: str) -> bool:
    """Returns whether boxes and scores are the same in spite of the nudge."""
    if len(found[boxes]) != len(moved[boxes]):
        return False
    moved = _in_stored_order({name: moved[name] for name in (boxes, scores, *labels)}, found)
    distance = np.abs(found[boxes] - moved[boxes]).max()
    difference = np.abs(found[scores] - moved[scores]).max()
    return distance < STEADY_BOXES and difference < STEADY_SCORES


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a normalised image with coarse patches, fine ones and plain areas."""
    pixels = np.zeros([height, width, 3])
    for cell, contrast in ((32, 60), (8, 40), (1, 20)):
        patches = rng.uniform(-contrast, contrast, (height // cell, width // cell, 3))
        # Half of the small patches are left out.
        patches *= rng.random((*patches.shape[:2], 1)) < (1 if cell > 8 else 0.5)
        pixels += np.kron(patches, np.ones([cell, cell, 1]))
    pixels = np.round(np.clip(pixels + 128, 0, 255)).astype(np.float32)
    normalised = (pixels - np.float32(MEAN)) / np.float32(STD)
    # MMCV's RoIAlign reads memory in the order NCHW, whatever the strides are.
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[np.newaxis])


@functools.cache
def _model(detector: str, folder: pathlib.Path) -> nn.Module:
    text = (folder / f"{detector}_config.txt").read_text()
    model = MODELS.build(Config.fromstring(f"model = {text}", ".py").model)
    saved = torch.load(folder / f"{detector}.pth", map_location="cpu")
    model.load_state_dict(saved["state_dict"], strict=True)
    return model.eval()


def _write_detector(detector: str, folder: pathlib.Path) -> None:
    config = _config(detector)
    text = Config({"model": config}).pretty_text.removeprefix("model = ")
    (folder / f"{detector}_config.txt").write_text(text)
    model = MODELS.build(config)
    _draw_weights(model, generator(detector))
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / f"{detector}.pth")


def _config(detector: str) -> Config:
    """Returns the published config with few channels."""
    published, backbone = DETECTORS[detector]
    config = Config.fromfile(PUBLISHED / published).model
    config.backbone.update(init_cfg=None, base_channels=BASE_CHANNELS, **backbone)
    pyramid, balance = config.neck
    pyramid.in_channels = [4 * BASE_CHANNELS * 2**stage for stage in range(4)]
    pyramid.out_channels = balance.in_channels = CHANNELS
    if "bbox_head" in config:
        config.bbox_head.update(num_classes=len(CLASSES), in_channels=CHANNELS)
        config.bbox_head.feat_channels = CHANNELS
        return config
    config.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    config.roi_head.bbox_roi_extractor.out_channels = CHANNELS
    config.roi_head.bbox_head.update(
        num_classes=len(CLASSES), in_channels=CHANNELS, fc_out_channels=FC_CHANNELS
    )
    config.test_cfg.rpn.update(nms_pre=NUM_PROPOSALS, max_per_img=NUM_PROPOSALS)
    return config


def _draw_weights(model: nn.Module, rng: np.random.Generator) -> None:
    """Draws weights that keep the outputs of every layer in the range of a trained detector's."""
    for name, weight in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            weight.fill_(1)
        elif weight.ndim > 1:
            weight.copy_(torch.tensor(normal(rng, *weight.shape)))
        elif name.endswith(("bias", "running_mean")):
            weight.copy_(0.1 * torch.tensor(normal(rng, *weight.shape)))
        else:
            # Small ones at the end of a residual branch, or fifty layers would magnify rounding.
            largest = 0.5 if name.endswith("bn3.weight") else 1.5
            weight.copy_(torch.tensor(rng.uniform(largest / 3, largest, weight.shape)))
    hooks = [
        module.register_forward_hook(functools.partial(_calibrate, name, set()))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    image = torch.tensor(_picture(rng, 320, 416))
    with torch.inference_mode():
        model.eval().predict(image, [_sample(image)], rescale=False)
    for hook in hooks:
        hook.remove()


def _calibrate(
    name: str, done: set[str], layer: nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor
) -> torch.Tensor | None:
    """Scales a layer, the first time it is called, to give its outputs the wanted range."""
    if name in done:
        return None
    done.add(name)
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean.copy_(inputs[0].mean([0, 2, 3]))
        layer.running_var.copy_(inputs[0].var([0, 2, 3]) + 1e-3)
        return layer(*inputs)
    largest, middle = next(
        (values for end, values in _RANGES.items() if name.endswith(end)), (4.0, 0.0)
    )
    if layer.bias is None:
        layer.weight.div_(outputs.std())
        return layer(*inputs)
    # Channel by channel, so that detections depend on the image and not on the biases.
    channels = outputs.movedim(1, 0).flatten(1)
    mean = channels.mean(dim=1, keepdim=True)
    scale = largest / (channels - mean).abs().amax(dim=1)
    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    drawn = layer.bias.clone()
    layer.bias.copy_(middle + largest * drawn / 4 + scale * (drawn - mean[:, 0]))
    return layer(*inputs)


# Largest deviation from the mean, and the mean, of the outputs of some layers: most anchors are
# background.
_RANGES = {
    "retina_cls": (5.0, -4.0),
    "retina_reg": (1.0, 0.0),
    "rpn_cls": (6.0, -2.0),
    "rpn_reg": (1.0, 0.0),
    "fc_cls": (4.0, 0.0),
    "fc_reg": (2.0, 0.0),
    "refine.conv_out.conv": (1.5, 0.0),
    "refine.theta.conv": (2.0, 0.0),
    "refine.phi.conv": (2.0, 0.0),
}
