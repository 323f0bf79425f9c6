"""Compares every stage of an imported detector with what MMDetection has computed.

The file of MMDetection's numbers is an `.npz` with its network's input, `input` (NCHW, normalised),
and any of its stages by the names below, those of a pyramid with the index of the level behind
them: `backbone`, `fpn`, `bfp`; RetinaNet: `cls`, `reg`; Faster R-CNN: `rpn_cls`, `rpn_reg`,
`proposals`, `proposal_scores`, `roi_levels`, `roi_feats_first32`, `roi_cls`, `roi_reg`;
`det_boxes`, `det_scores` and `det_labels`. Boxes are `x1, y1, x2, y2` in pixels of the input.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from scipy import optimize

from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.modeling.mmdetection import rois
from libra_tf.modeling.mmdetection.boxes import swap_xy
from libra_tf.modeling.mmdetection.pyramid import MMDetectionFPN

# Of the largest activation, in pixels, of scores.
STAGE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-4
# Scores that float32 does not tell apart behind so many layers: their order is chance.
TIE = 2e-4
_NUM_CROPS = 32
# What belongs together row by row, the boxes first.
_ROWS = (("proposals", "proposal_scores"), ("det_boxes", "det_scores", "det_labels"))
_OF_ROIS = ("roi_levels", f"roi_feats_first{_NUM_CROPS}", "roi_cls", "roi_reg")
_HELP = "see libra_tf/checkpoints/verify.py for what such a file holds"

Numbers = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one stage deviates.

    Attributes:
      stage: its name in the file.
      deviation: the largest one.
      tolerance: the most that it may be.
      unit: what both are in.
    """

    stage: str
    deviation: float
    tolerance: float
    unit: str

    @property
    def is_within(self) -> bool:
        """Whether it deviates by no more than it may."""
        return bool(self.deviation <= self.tolerance)


def read(path: str) -> Numbers:
    """Reads a file of MMDetection's numbers.

    Raises:
      UsageError: if it is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            numbers = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"--verify={path}: there is no such file") from None
    # An .npy file is one array, which cannot be entered.
    except (
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UsageError(f"--verify={path} is not an .npz file of arrays ({error})") from error
    if "input" not in numbers or numbers["input"].ndim != 4 or numbers["input"].shape[1] != 3:
        raise UsageError(
            f"--verify={path} has no `input` of shape [batch, 3, height, width]; {_HELP}"
        )
    if len(numbers) == 1:
        raise UsageError(f"--verify={path} has nothing but `input` to compare; {_HELP}")
    _check_companions(path, numbers)
    _check_rows(path, numbers)
    return numbers


def check(path: str, numbers: Numbers, model: keras.Model) -> None:
    """Checks that all numbers are of stages that a detector has.

    Args:
      path: of their file, for messages.
      numbers: see `read`.
      model: the detector.

    Raises:
      UsageError: if some are not, as those of another kind of detector.
    """
    unknown = sorted(set(numbers) - _known_names(model))
    if unknown:
        kind = "RetinaNet" if _is_retinanet(model) else "Faster R-CNN"
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        names = ", ".join(unknown[:3]) + more
        raise UsageError(f"--verify={path} has {names}, which this {kind} has not; {_HELP}")


def compare(
    model: keras.Model, numbers: Numbers, category_ids: Sequence[int]
) -> Iterator[Comparison]:
    """Compares a detector with MMDetection's numbers for one image.

    The second stage is given MMDetection's own proposals, so that its rows belong together; the
    proposals and the detections are those of the whole detector, from the image on.

    Args:
      model: the detector.
      numbers: see `read`.
      category_ids: the category ids of MMDetection's labels, in their order.

    Yields:
      A comparison for every stage that the file holds.
    """
    images = tf.constant(numbers["input"].transpose(0, 2, 3, 1))
    image_shape = tf.cast([images.shape[1:3]], tf.float32)
    backbone = model.backbone(images)
    features = model.decoder(backbone)
    stages = {
        "backbone": _levels(backbone),
        "fpn": _levels(_plain_pyramid(model.decoder)(backbone)),
        "bfp": _levels(features),
    }
    is_retinanet = _is_retinanet(model)
    scores, boxes, *_ = (model.head if is_retinanet else model.rpn_head)(features)
    prefix = "" if is_retinanet else "rpn_"
    stages[f"{prefix}reg"] = [swap_xy(level, axis=-1) for level in _levels(boxes)]
    stages[f"{prefix}cls"] = _levels(scores)
    if is_retinanet:
        num_classes = max(category_ids) + 1
        stages["cls"] = [_labels_only(x, num_classes, category_ids) for x in stages["cls"]]
    for name, levels in stages.items():
        for index, level in enumerate(levels):
            yield from _compare_stage(numbers, f"{name}{index}", level.transpose(0, 3, 1, 2))
    if "proposals" in numbers:
        anchors = model.make_anchors(images)
        rois, roi_scores = model.roi_generator(boxes, scores, anchors, image_shape, training=False)
        yield from _compare_proposals(numbers, rois[0].numpy(), roi_scores[0].numpy())
        yield from _compare_second_stage(model, numbers, features, category_ids)
    if "det_boxes" in numbers:
        outputs = model(images, image_shape=image_shape, training=False)
        outputs = {name: outputs[name] for name in outputs if "detection" in name}
        yield from _compare_detections(numbers, outputs, category_ids)


def table(path: str, comparisons: Sequence[Comparison]) -> str:
    """Returns the comparisons with one file as a table for people."""
    width = max(len(comparison.stage) for comparison in comparisons)
    lines = [path]
    for comparison in comparisons:
        verdict = "ok" if comparison.is_within else "OUT OF TOLERANCE"
        lines.append(
            f"  {comparison.stage:{width}}  {comparison.deviation:<8.2g} of at most "
            f"{comparison.tolerance:<6g} {comparison.unit:15}{verdict}"
        )
    return "\n".join(lines)


def _check_companions(path: str, numbers: Numbers) -> None:
    """Checks that what cannot be compared alone is not alone."""
    needed = {name: names for names in _ROWS for name in names}
    needed.update(dict.fromkeys(_OF_ROIS, ("proposals",)))
    for name in numbers:
        for other in needed.get(name, ()):
            if other not in numbers:
                raise UsageError(
                    f"--verify={path} has {name} without {other}, which belongs to it; {_HELP}"
                )


def _check_rows(path: str, numbers: Numbers) -> None:
    for names in _ROWS:
        if names[0] not in numbers:
            continue
        boxes, *others = (numbers[name].shape for name in names)
        if boxes[1:] != (4,) or set(others) != {boxes[:1]}:
            shapes = ", ".join(str(list(shape)) for shape in (boxes, *others))
            raise UsageError(
                f"--verify={path} has {', '.join(names)} of the shapes {shapes}; supported are "
                "[N, 4] for the boxes and [N] for what belongs to them"
            )


def _known_names(model: keras.Model) -> set[str]:
    """Names of all that can be compared with a detector."""
    pyramid, single = ["fpn", "bfp", "rpn_cls", "rpn_reg"], ["input", *_ROWS[1]]
    if _is_retinanet(model):
        pyramid[2:] = ["cls", "reg"]
    else:
        single += [*_ROWS[0], *_OF_ROIS]
    levels = dict.fromkeys(pyramid, model.decoder.output_specs)
    levels["backbone"] = model.backbone.output_specs
    return {*single, *(f"{name}{index}" for name in levels for index in range(len(levels[name])))}


def _is_retinanet(model: keras.Model) -> bool:
    return "head" in model.checkpoint_items


def _levels(levels: Mapping[str, tf.Tensor]) -> list[np.ndarray]:
    return [levels[level].numpy() for level in sorted(levels, key=int)]


def _plain_pyramid(decoder: keras.Model) -> keras.Model:
    """The FPN, without the balanced pyramid that may follow it."""
    pyramids = [layer for layer in decoder.layers if isinstance(layer, MMDetectionFPN)]
    return pyramids[0] if pyramids else decoder


def _labels_only(
    outputs: np.ndarray, num_classes: int, category_ids: Sequence[int], size: int = 1
) -> np.ndarray:
    """Picks the classes of the checkpoint on the last axis, `size` values each."""
    groups = outputs.reshape(*outputs.shape[:-1], -1, num_classes, size)
    return groups[..., category_ids, :].reshape(*outputs.shape[:-1], -1)


def _compare_stage(numbers: Numbers, name: str, value: np.ndarray) -> Iterator[Comparison]:
    if name not in numbers:
        return
    expected = numbers[name]
    deviation = np.inf
    if value.shape == expected.shape:
        largest = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
        deviation = float(np.abs(value - expected).max()) / largest
    yield Comparison(name, deviation, STAGE_TOLERANCE, "x the largest")


def _compare_proposals(
    numbers: Numbers, boxes: np.ndarray, scores: np.ndarray
) -> Iterator[Comparison]:
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    boxes, scores = swap_xy(boxes, axis=-1), scores[: len(boxes)]
    expected = numbers["proposals"], numbers["proposal_scores"]
    yield from _compare_rows(("proposals", "proposal_scores"), (boxes, scores), expected)


def _compare_second_stage(
    model: keras.Model,
    numbers: Numbers,
    features: Mapping[str, tf.Tensor],
    category_ids: Sequence[int],
) -> Iterator[Comparison]:
    boxes = tf.constant(swap_xy(numbers["proposals"], axis=-1)[np.newaxis])
    if "roi_levels" in numbers:
        levels = rois.assign_levels(boxes)[0].numpy() - rois.MIN_LEVEL
        wrong = float(np.sum(levels != numbers["roi_levels"]))
        yield Comparison("roi_levels", wrong, 0, "wrong")
    crops = model.roi_aligner(features, boxes)
    first = crops[0].numpy()[:_NUM_CROPS].transpose(0, 3, 1, 2)
    yield from _compare_stage(numbers, f"roi_feats_first{_NUM_CROPS}", first)
    scores, deltas = (output[0].numpy() for output in model.detection_head[0](crops))
    num_classes = scores.shape[-1]
    # Their background is the class behind all others.
    scores = _labels_only(scores, num_classes, [*category_ids, 0])
    yield from _compare_stage(numbers, "roi_cls", scores)
    if deltas.shape[-1] > 4:
        deltas = _labels_only(deltas, num_classes, category_ids, size=4)
    yield from _compare_stage(numbers, "roi_reg", swap_xy(deltas, axis=-1))


def _compare_detections(
    numbers: Numbers, outputs: Mapping[str, tf.Tensor], category_ids: Sequence[int]
) -> Iterator[Comparison]:
    count = int(outputs["num_detections"][0])
    boxes, scores, classes = (
        outputs[f"detection_{name}"][0].numpy()[:count] for name in ("boxes", "scores", "classes")
    )
    labels = np.searchsorted(category_ids, classes)
    yield from _compare_rows(
        ("det_boxes", "det_scores"),
        (swap_xy(boxes, axis=-1), scores),
        (numbers["det_boxes"], numbers["det_scores"]),
        (labels, numbers["det_labels"]),
    )


def _compare_rows(
    names: tuple[str, str],
    found: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> Iterator[Comparison]:
    """Compares boxes and scores as sets, then their order.

    Each row is paired with the nearest one of the same label. A pair's places differ only if the
    scores between them are ties.
    """
    (boxes, scores), (expected_boxes, expected_scores) = found, expected
    if labels is None:
        labels = (np.zeros(len(boxes), int), np.zeros(len(expected_boxes), int))
    if len(boxes) != len(expected_boxes):
        for name in names:
            yield Comparison(f"{name} ({len(boxes)}, not {len(expected_boxes)})", np.inf, 0, "")
        return
    cost = np.abs(boxes[:, np.newaxis] - expected_boxes).max(axis=-1)
    cost += 1e6 * (labels[0][:, np.newaxis] != labels[1])
    ours, theirs = optimize.linear_sum_assignment(np.minimum(cost, 1e6))
    boxes, scores = boxes[ours], scores[ours]
    expected_boxes, expected_scores = expected_boxes[theirs], expected_scores[theirs]
    yield Comparison(names[0], _largest(boxes - expected_boxes), BOX_TOLERANCE, "pixels")
    yield Comparison(names[1], _largest(scores - expected_scores), SCORE_TOLERANCE, "")
    wrong = float(np.sum(labels[0][ours] != labels[1][theirs]))
    if labels[0].any() or labels[1].any():
        yield Comparison(names[0].replace("boxes", "labels"), wrong, 0, "wrong")
    # A row may stand elsewhere only among scores that are its own up to rounding.
    out_of_order = np.abs(expected[1][ours] - expected_scores)
    yield Comparison(f"{names[0]} order", _largest(out_of_order), TIE, "in score")


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max(initial=0.0))
