"""Compares every stage of an imported detector with MMDetection's own numbers.

The numbers are in an `.npz` file with the network's input, `input` (NCHW, normalised), and any of
the stages below; a stage with a pyramid has an array per level, with the level's index appended to
the name. All detectors: `backbone`, `fpn`, `bfp` (pyramids), `det_boxes`, `det_scores` and
`det_labels`. RetinaNet: `cls`, `reg` (pyramids). Faster R-CNN: `rpn_cls`, `rpn_reg` (pyramids),
`proposals`, `proposal_scores`, `roi_levels`, `roi_feats_first32`, `roi_cls`, `roi_reg`. Boxes are
`x1, y1, x2, y2` in pixels of the input.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from scipy import optimize

from libra_tf.cli.errors import UsageError, listed
from libra_tf.compat import keras
from libra_tf.modeling.mmdetection import rois
from libra_tf.modeling.mmdetection.boxes import swap_xy
from libra_tf.modeling.mmdetection.pyramid import MMDetectionFPN

# Relative to the largest activation; in pixels; absolute.
STAGE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-4
# After so many layers, float32 cannot tell scores this close apart: their order is arbitrary.
TIE = 2e-4
_NUM_CROPS = 32
# Arrays that belong together row by row, the boxes first.
_ROWS = (("proposals", "proposal_scores"), ("det_boxes", "det_scores", "det_labels"))
_OF_ROIS = ("roi_levels", f"roi_feats_first{_NUM_CROPS}", "roi_cls", "roi_reg")
_HELP = "see libra_tf/checkpoints/verify.py for what the file must hold"

Numbers = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one stage deviates from MMDetection.

    Attributes:
      stage: the name of the stage in the file.
      deviation: its largest deviation.
      tolerance: the largest allowed deviation.
      unit: the unit of both.
    """

    stage: str
    deviation: float
    tolerance: float
    unit: str

    @property
    def is_within(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return bool(self.deviation <= self.tolerance)


def read(path: str) -> Numbers:
    """Reads a file of MMDetection's numbers.

    Args:
      path: path of the `.npz` file.

    Returns:
      Its arrays by name.

    Raises:
      UsageError: if it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            numbers = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"--verify={path}: there is no such file; {_HELP}") from None
    # An .npy file loads as an array, which is not a context manager.
    except (
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UsageError(
            f"--verify={path} is not an .npz file of arrays ({error}); {_HELP}"
        ) from error
    if "input" not in numbers or numbers["input"].ndim != 4 or numbers["input"].shape[1] != 3:
        raise UsageError(
            f"--verify={path} has no `input` of shape [batch, 3, height, width]; {_HELP}"
        )
    if len(numbers) == 1:
        raise UsageError(f"--verify={path} has only `input` and nothing to compare; {_HELP}")
    _check_companions(path, numbers)
    _check_rows(path, numbers)
    return numbers


def check(path: str, numbers: Numbers, model: keras.Model) -> None:
    """Checks that the numbers belong to stages that the detector has.

    Args:
      path: path of their file, for messages.
      numbers: the result of `read`.
      model: the detector.

    Raises:
      UsageError: if some do not, such as those of another kind of detector.
    """
    unknown = sorted(set(numbers) - _known_names(model))
    if unknown:
        kind = "RetinaNet" if _is_retinanet(model) else "Faster R-CNN"
        names = listed(unknown, 3)
        raise UsageError(f"--verify={path} has {names}, which this {kind} does not have; {_HELP}")


def compare(
    model: keras.Model, numbers: Numbers, category_ids: Sequence[int]
) -> Iterator[Comparison]:
    """Compares a detector with MMDetection's numbers for one image.

    The second stage runs on MMDetection's own proposals, so that its rows correspond. Proposals and
    detections are compared end to end, from the image on.

    Args:
      model: the detector.
      numbers: the result of `read`.
      category_ids: the category ids of MMDetection's labels, in the order of the labels.

    Yields:
      A comparison for every stage in the file.
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
        names = ("proposals", "proposal_scores")
        yield from compare_proposals(names, rois[0].numpy(), roi_scores[0].numpy(), numbers)
        yield from _compare_second_stage(model, numbers, features, category_ids)
    if "det_boxes" in numbers:
        outputs = model(images, image_shape=image_shape, training=False)
        outputs = {name: outputs[name] for name in outputs if "detection" in name}
        yield from _compare_detections(numbers, outputs, category_ids)


def table(path: str, comparisons: Sequence[Comparison]) -> str:
    """Returns the comparisons with one file as a table for display."""
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
    """Checks that every array comes with those needed to compare it."""
    needed = {name: names for names in _ROWS for name in names}
    needed.update(dict.fromkeys(_OF_ROIS, ("proposals",)))
    for name in numbers:
        for other in needed.get(name, ()):
            if other not in numbers:
                raise UsageError(
                    f"--verify={path} has {name} without {other}, which it needs; {_HELP}"
                )


def _check_rows(path: str, numbers: Numbers) -> None:
    """Checks the shapes of the arrays that belong together row by row."""
    for names in _ROWS:
        if names[0] not in numbers:
            continue
        boxes, *others = (numbers[name].shape for name in names)
        if boxes[1:] != (4,) or set(others) != {boxes[:1]}:
            shapes = ", ".join(str(list(shape)) for shape in (boxes, *others))
            raise UsageError(
                f"--verify={path} has {', '.join(names)} of shapes {shapes}; the first must be "
                "[N, 4] and the others [N]"
            )


def _known_names(model: keras.Model) -> set[str]:
    """Returns the names of all arrays that can be compared with a detector."""
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
    """Returns the levels of a pyramid, the finest first."""
    return [levels[level].numpy() for level in sorted(levels, key=int)]


def _plain_pyramid(decoder: keras.Model) -> keras.Model:
    """Returns the FPN, without the balanced feature pyramid that may follow it."""
    pyramids = [layer for layer in decoder.layers if isinstance(layer, MMDetectionFPN)]
    return pyramids[0] if pyramids else decoder


def _labels_only(
    outputs: np.ndarray, num_classes: int, category_ids: Sequence[int], size: int = 1
) -> np.ndarray:
    """Picks the checkpoint's classes from the last axis, which has `size` values for each class."""
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


def compare_proposals(
    names: tuple[str, str], boxes: np.ndarray, scores: np.ndarray, numbers: Numbers
) -> Iterator[Comparison]:
    """Compares the proposals of an image as sets, and their order.

    Args:
      names: the names of MMDetection's boxes and scores in the numbers.
      boxes: `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; those without area are padding.
      scores: `[N]`.
      numbers: the result of `read`.

    Yields:
      A comparison of the boxes, of the scores, and of the order.
    """
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    boxes, scores = swap_xy(boxes, axis=-1), scores[: len(boxes)]
    yield from _compare_rows(names, (boxes, scores), tuple(numbers[name] for name in names))


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
    # MMDetection's background is the last class.
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
    """Compares boxes and scores as sets, and then their order.

    Each row is paired with the nearest one of the same label. Paired rows may be in different
    places only if their scores are ties.

    Args:
      names: the names of boxes and scores in the file.
      found: boxes `[N, 4]` and scores `[N]` of the model.
      expected: boxes `[M, 4]` and scores `[M]` of MMDetection.
      labels: labels `[N]` and `[M]` of both; None without labels.

    Yields:
      A comparison of the boxes, the scores, the labels if there are any, and the order.
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
    # A row may be in another place only if the score expected there is its own up to rounding.
    out_of_order = np.abs(expected[1][ours] - expected_scores)
    yield Comparison(f"{names[0]} order", _largest(out_of_order), TIE, "in score")


def _largest(differences: np.ndarray) -> float:
    """Returns the largest absolute difference, 0 if there are none."""
    return float(np.abs(differences).max(initial=0.0))
