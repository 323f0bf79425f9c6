"""Training steps of the small detectors of `detectors.py`, and a short training of one of them.

`make.py` runs them. The arrays of a file are those that `libra_tf/checkpoints/verify_training.py`
lists, with published settings, except that `_every` has samplers that take every box. Anchors that
are invalid, which MMDetection leaves out before it assigns and samples, count in all indices, and
have `gt_inds` -1 and `max_ious` 0.

MMDetection's samplers draw at random, so the samples are fed in again when a file is checked, and
so are the proposals, since those with equal scores come in any order.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.task_modules.samplers import PseudoSampler, SamplingResult
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from detectors import CLASSES
from seeds import generator

Arrays = dict[str, np.ndarray]

# By file: the detector, and whether its samplers take every box.
FILES = {
    "train_libra_retinanet_r50": ("libra_retinanet_r50", False),
    "train_libra_faster_rcnn_r50_sampled": ("libra_faster_rcnn_r50", False),
    "train_libra_faster_rcnn_r50_every": ("libra_faster_rcnn_r50", True),
}
NAMES = tuple(FILES)
# Height and width of the images of a batch. The padding of the second one is not that of the batch,
# so that it has invalid anchors.
SIZES = ((128, 160), (90, 100))
# The same of the batches that take turns in the training.
TRAINED = {"train_libra_retinanet_r50": (SIZES, ((100, 150), (120, 90)))}
NUM_OBJECTS, SMALLEST_OBJECT = (6, 4), 14
NUM_STEPS, LEARNING_RATE, WARMUP_STEPS, CLIP_NORM = 4, 0.002, 10, 35
# The weights at the end of the training that are stored: from the backbone, pyramid and head.
FINAL = (
    "backbone.layer2.0.conv1.weight",
    "backbone.layer4.2.bn3.weight",
    "neck.0.lateral_convs.0.conv.weight",
    "neck.1.refine.g.conv.weight",
    "bbox_head.retina_reg.bias",
)
# Gradients are rounded to multiples of a power of two, to at most 1/2^13 of their tensor's largest
# element. That halves the files, and comparisons allow eight times as much.
GRADIENT_BITS = 13
# When an input changes by about NUDGE of itself, no number may change by more than STEADY of the
# largest of its array. A gradient that is zero but for rounding counts as ROUNDING of the largest.
NUDGE, STEADY, ROUNDING = 1e-6, 1e-3, 1e-4
_NUM_NUDGES, _NUM_TRIES = 4, 200
_EVERY = {"type": "RandomSampler", "num": 10**6, "pos_fraction": 1.0, "neg_pos_ub": -1}


def draw(name: str, folder: pathlib.Path) -> Arrays:
    """Draws the images and objects of a file.

    They are drawn again if an assignment or a gradient depends on rounding: a ReLU that flips for
    it would change gradients by more than comparisons allow.

    Args:
      name: of the file.
      folder: of the file; that of the detectors is beside it.

    Raises:
      ValueError: if they have been drawn too often.
    """
    rng = generator(name)
    batches = {("input", ""): SIZES}
    for turn, sizes in enumerate(TRAINED.get(name, ())):
        batches[f"traj_input{turn}", f"traj{turn}_"] = sizes
    is_clear = False
    for _ in range(_NUM_TRIES):
        # Other images are enough if only gradients depend on rounding.
        if not is_clear:
            objects = {prefix: _draw_objects(rng, sizes) for (_, prefix), sizes in batches.items()}
        inputs = {"traj_lr": np.array(LEARNING_RATE)} if name in TRAINED else {}
        for (images, prefix), sizes in batches.items():
            arrays = _draw_images(name, rng, folder, sizes, objects[prefix])
            inputs |= {images: arrays.pop("input")}
            inputs |= {f"{prefix}{key}": x for key, x in {**objects[prefix], **arrays}.items()}
        is_clear = _step(name, inputs, folder)[1]
        if is_clear and _is_steady(name, inputs, folder, rng):
            return inputs
    raise ValueError(f"{name}: what {_NUM_TRIES} inputs give all depends on rounding")


def compute(name: str, inputs: Mapping[str, np.ndarray], folder: pathlib.Path) -> Arrays:
    """Returns what a training step computes, and a training if there are batches for it.

    Args:
      name: of the file.
      inputs: the batches and, in a comparison, all stored arrays: samples and proposals are then
        the stored ones.
      folder: see `draw`.
    """
    outputs = _step(name, inputs, folder)[0]
    if name in TRAINED:
        outputs |= _train(name, inputs, folder)
    return outputs


def _step(name: str, inputs: Mapping[str, np.ndarray], folder: pathlib.Path) -> tuple[Arrays, bool]:
    """Returns what a step computes, and whether its assignments are the same in float64."""
    model, recorder = _model(name, folder), _Recorder(inputs)
    recorder.watch(model)
    # For the samplers, which use both.
    torch.manual_seed(0)
    np.random.seed(0)
    losses = model.loss(*_batch(inputs, "input", ""))
    total = model.parse_losses(losses)[0]
    total.backward()
    outputs = recorder.arrays
    for key, value in losses.items():
        levels = value if isinstance(value, list) else [value]
        outputs[f"loss:{key}"] = np.array([float(level) for level in levels])
    outputs["loss:total"] = np.array(float(total))
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            outputs[f"grad:{key}"] = _rounded(parameter.grad.numpy())
        else:
            outputs[f"frozen:{key}"] = np.zeros(0, np.float32)
    return outputs, recorder.is_clear


def _train(name: str, inputs: Mapping[str, np.ndarray], folder: pathlib.Path) -> Arrays:
    """Returns the losses and norms of a short training, and weights at its end."""
    model = _model(name, folder)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4)
    num_turns = len(TRAINED[name])
    rows, norms = [], []
    for step in range(NUM_STEPS):
        share = min(1 / 3 + 2 / 3 * step / WARMUP_STEPS, 1)
        optimizer.param_groups[0]["lr"] = float(inputs["traj_lr"]) * share
        turn = step % num_turns
        losses = model.loss(*_batch(inputs, f"traj_input{turn}", f"traj{turn}_"))
        total, row = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, CLIP_NORM)))
        optimizer.step()
        rows.append({key: float(value) for key, value in row.items()})
    names = sorted(rows[0])
    weights = model.state_dict()
    return {
        "traj_names": np.array(names),
        "traj": np.array([[row[key] for key in names] for row in rows]),
        "traj_norms": np.array(norms),
        **{f"final:{key}": weights[key].numpy() for key in FINAL},
    }


class _Recorder:
    """Keeps what a step assigns, samples and proposes, and feeds in what is stored of it.

    Attributes:
      arrays: what it has kept, by the names in the file.
      is_clear: whether float64 gives the same assignments.
    """

    def __init__(self, stored: Mapping[str, np.ndarray]):
        self.arrays: Arrays = {}
        self.is_clear = True
        self._stored = stored
        self._numbers = itertools.count()
        self._is_valid: np.ndarray | None = None

    def watch(self, model: nn.Module) -> None:
        """Puts itself between a detector's heads and their samplers."""
        is_single_stage = hasattr(model, "bbox_head")
        head = model.bbox_head if is_single_stage else model.rpn_head
        head._get_targets_single = functools.partial(self._label, head._get_targets_single)
        self._watch_sampler(head.assigner, head.sampler)
        if not is_single_stage:
            head.loss_and_predict = functools.partial(self._propose, head.loss_and_predict)
            self._watch_sampler(model.roi_head.bbox_assigner, model.roi_head.bbox_sampler)

    def _watch_sampler(self, assigner: Any, sampler: Any) -> None:
        sampler.sample = functools.partial(self._sample, assigner, sampler, sampler.sample)

    def _label(
        self, label: Callable, anchors: torch.Tensor, is_valid: torch.Tensor, *args: Any, **kw: Any
    ) -> tuple:
        """Labels the anchors of an image."""
        self._is_valid = is_valid.numpy()
        return label(anchors, is_valid, *args, **kw)

    def _propose(self, propose: Callable, *args: Any, **kwargs: Any) -> tuple[dict, list]:
        """Returns the losses of the RPN and the stored proposals, or those that it finds."""
        losses, found = propose(*args, **kwargs)
        # What comes next are RoIs.
        self._is_valid = None
        proposals = []
        for image, rows in enumerate(found):
            names = [f"proposals{image}_{key}" for key in ("boxes", "scores")]
            values = (rows.bboxes.numpy(), rows.scores.numpy())
            if names[0] in self._stored:
                stored = [self._stored[key] for key in names]
                values = _in_stored_order(values, stored)
                boxes, scores = map(torch.tensor, stored)
                rows = InstanceData(bboxes=boxes, scores=scores)
            self.arrays |= dict(zip(names, values, strict=True))
            proposals.append(rows)
        return losses, proposals

    def _sample(
        self,
        assigner: Any,
        sampler: Any,
        sample: Callable,
        assigned: Any,
        boxes: InstanceData,
        objects: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        """Samples the boxes of an image, after the assigner has been there."""
        number = next(self._numbers)
        is_valid = self._is_valid
        if is_valid is None:
            is_valid = np.ones(len(boxes.priors), bool)
        gt_inds = np.full(len(is_valid), -1)
        gt_inds[is_valid] = assigned.gt_inds.numpy()
        max_ious = np.zeros(len(is_valid), np.float32)
        max_ious[is_valid] = assigned.max_overlaps.numpy()
        self.arrays |= {f"assign{number}_gt_inds": gt_inds, f"assign{number}_max_ious": max_ious}
        again = assigner.assign(
            InstanceData(priors=boxes.priors.double()),
            InstanceData(bboxes=objects.bboxes.double(), labels=objects.labels),
        )
        self.is_clear &= torch.equal(again.gt_inds, assigned.gt_inds)
        if isinstance(sampler, PseudoSampler):
            return sample(assigned, boxes, objects, **kwargs)
        # RoIs have the objects in front, and all of them are valid.
        places = np.arange(len(boxes.priors) + len(objects))
        if self._is_valid is not None:
            places = np.flatnonzero(is_valid)
        names = (f"sample{number}_pos", f"sample{number}_neg")
        if names[0] in self._stored:
            fed = _Fed(*(np.searchsorted(places, self._stored[key]) for key in names))
            sampler.pos_sampler = sampler.neg_sampler = fed
        drawn = sample(assigned, boxes, objects, **kwargs)
        for key, indices in zip(names, (drawn.pos_inds, drawn.neg_inds), strict=True):
            self.arrays[key] = places[indices.numpy()]
        self.arrays[f"sample{number}_boxes"] = drawn.priors.numpy()
        return drawn


class _Fed:
    """Draws given positives and negatives, in the place of a sampler's own two samplers."""

    def __init__(self, positives: np.ndarray, negatives: np.ndarray):
        self._positives, self._negatives = map(torch.tensor, (positives, negatives))

    def _sample_pos(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._positives

    def _sample_neg(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._negatives


def _model(name: str, folder: pathlib.Path) -> nn.Module:
    """Returns a detector in train mode, a new one since samplers change in their first call."""
    detector, takes_every_box = FILES[name]
    config = _config(detector, folder)
    if takes_every_box:
        config.train_cfg.rpn.sampler = {**_EVERY, "add_gt_as_proposals": False}
        config.train_cfg.rcnn.sampler = {**_EVERY, "add_gt_as_proposals": True}
    model = MODELS.build(config)
    saved = torch.load(_models(folder) / f"{detector}.pth", map_location="cpu")
    model.load_state_dict(saved["state_dict"], strict=True)
    return model.train()


def _config(detector: str, folder: pathlib.Path) -> Config:
    text = (_models(folder) / f"{detector}_config.txt").read_text()
    return Config.fromstring(f"model = {text}", ".py").model


def _models(folder: pathlib.Path) -> pathlib.Path:
    return folder.parent / "models"


def _batch(
    inputs: Mapping[str, np.ndarray], images: str, prefix: str
) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Returns the images and the objects of a batch for MMDetection."""
    batch = torch.tensor(inputs[images])
    samples = []
    for image in range(len(batch)):
        of_image = {
            key: inputs[f"{prefix}{key}{image}"]
            for key in ("gt_boxes", "gt_labels", "img_shape", "pad_shape")
        }
        shapes = {key: tuple(of_image[key].tolist()) for key in ("img_shape", "pad_shape")}
        sample = DetDataSample(metainfo={**shapes, "batch_input_shape": tuple(batch.shape[2:])})
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(of_image["gt_boxes"]), labels=torch.tensor(of_image["gt_labels"])
        )
        samples.append(sample)
    return batch, samples


def _draw_objects(rng: np.random.Generator, sizes: Sequence[tuple[int, int]]) -> Arrays:
    """Draws the objects of a batch."""
    arrays = {}
    for image, (size, number) in enumerate(zip(sizes, NUM_OBJECTS, strict=True)):
        arrays[f"gt_boxes{image}"] = _draw_boxes(rng, size, number)
        arrays[f"gt_labels{image}"] = rng.integers(len(CLASSES), size=number)
    return arrays


def _draw_images(
    name: str,
    rng: np.random.Generator,
    folder: pathlib.Path,
    sizes: Sequence[tuple[int, int]],
    objects: Mapping[str, np.ndarray],
) -> Arrays:
    """Draws the images of a batch, which MMDetection normalises and pads, and their shapes."""
    data: dict[str, list] = {"inputs": [], "data_samples": []}
    for image, size in enumerate(sizes):
        picture = _draw_picture(rng, size, objects[f"gt_boxes{image}"])
        data["inputs"].append(torch.tensor(picture))
        data["data_samples"].append(DetDataSample(metainfo={"img_shape": size}))
    preprocessor = MODELS.build(_config(FILES[name][0], folder).data_preprocessor)
    prepared = preprocessor(data, training=True)
    arrays = {"input": prepared["inputs"].numpy()}
    for image, sample in enumerate(prepared["data_samples"]):
        arrays[f"img_shape{image}"] = np.array(sample.img_shape)
        arrays[f"pad_shape{image}"] = np.array(sample.pad_shape)
    return arrays


def _draw_boxes(rng: np.random.Generator, size: tuple[int, int], number: int) -> np.ndarray:
    """Draws objects of all sizes, and long ones, within an image."""
    height, width = size
    limits = np.array([width, height])
    smallest, largest = np.log(SMALLEST_OBJECT), np.log(0.9 * limits)
    sides = np.exp(rng.uniform(smallest, largest, (number, 2)))
    corners = rng.uniform(0, limits - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _draw_picture(rng: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """Draws an image of patches with coloured objects, uint8 `[3, height, width]`."""
    height, width = size
    pixels = np.full([3, height, width], 128.0)
    for cell, contrast in ((32, 60), (8, 40), (2, 20)):
        patches = rng.uniform(-contrast, contrast, (3, -(-height // cell), -(-width // cell)))
        # Few of the smallest patches, for the sake of the files' size.
        patches *= rng.random(patches.shape[1:]) < (0.1 if cell == 2 else 0.7)
        pixels += np.kron(patches, np.ones([1, cell, cell]))[:, :height, :width]
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        pixels[:, y1:y2, x1:x2] += rng.uniform(-80, 80, (3, 1, 1))
    return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)


def _is_steady(name: str, inputs: Arrays, folder: pathlib.Path, rng: np.random.Generator) -> bool:
    """Returns whether nothing that a file would hold changes with a nudge."""
    found = compute(name, inputs, folder)
    fed = {key: x for key, x in found.items() if key.startswith(("sample", "proposals"))}
    for _ in range(_NUM_NUDGES):
        nudged = {
            key: x * (1 + NUDGE * rng.standard_normal(x.shape)).astype(np.float32)
            for key, x in inputs.items()
            if key.startswith(("input", "traj_input"))
        }
        moved = compute(name, {**inputs, **fed, **nudged}, folder)
        if not all(_is_near(found, moved, key) for key in found):
            return False
    return True


def _is_near(found: Arrays, moved: Arrays, name: str) -> bool:
    """Returns whether an array is the same in spite of a nudge."""
    value, other = found[name], moved[name]
    if value.shape != other.shape or value.dtype.kind != "f":
        return np.array_equal(value, other)
    largest = np.abs(value).max(initial=0)
    if name.startswith("grad:"):
        gradients = (np.abs(x).max() for key, x in found.items() if key.startswith("grad:"))
        largest = max(largest, ROUNDING * max(gradients))
    return bool(np.abs(value - other).max(initial=0) <= STEADY * largest)


def _in_stored_order(
    rows: Sequence[np.ndarray], stored: Sequence[np.ndarray]
) -> Sequence[np.ndarray]:
    """Sorts boxes and their scores as the stored ones are; those with equal scores may differ."""
    table, wanted = (
        np.concatenate([boxes, x[:, np.newaxis]], axis=1) for boxes, x in (rows, stored)
    )
    distances = np.abs(table - wanted[:, np.newaxis]).max(axis=2)
    order = distances.argmin(axis=1)
    return [x[order] for x in rows] if len(set(order)) == len(table) else rows


def _rounded(gradient: np.ndarray) -> np.ndarray:
    """Rounds a gradient, see `GRADIENT_BITS`."""
    exponent = np.frexp(np.abs(gradient).max())[1] - GRADIENT_BITS
    return np.ldexp(np.round(np.ldexp(gradient, -exponent)), exponent)
