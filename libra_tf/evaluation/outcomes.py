"""What becomes of each object and each detection at one score threshold.

Detections take objects as in COCO's evaluation without categories (`useCats = 0` in pycocotools):
best score first, each takes the free object that it overlaps most, if the IoU is at least 0.5,
whatever the classes. So a detection of the right place with the wrong class is told from one of
nothing. A detection that fits nothing but a crowd does not count, nor does the crowd.
"""

import contextlib
import dataclasses
import enum
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import coco, cocoeval, mask

from libra_tf.cli.progress import Progress
from libra_tf.evaluation import checks, matching
from libra_tf.evaluation.subject import BOXES, Subject

IOU_THRESHOLD = 0.5
# With less overlap a detection is not about the object: TIDE's background threshold.
SMALLEST_IOU = 0.1

_ALL_SIZES = [0, 1e10]
_IMAGES_AT_A_TIME = 50


class Outcome(enum.Enum):
    """What became of an object or a detection; the value is its name in the numbers."""

    CORRECT = "correct"
    MIXED_UP = "mixed_up"
    BADLY_PLACED = "badly_placed"
    DUPLICATE = "duplicate"
    FALSE = "false"
    MISSED = "missed"


ERRORS = tuple(outcome for outcome in Outcome if outcome is not Outcome.CORRECT)


@dataclasses.dataclass(frozen=True)
class OfDetection:
    """What became of a detection.

    Attributes:
      outcome: `CORRECT`: it has taken an object of its class; `MIXED_UP`: one of another class;
        `DUPLICATE`: another detection has taken the object that it overlaps by 0.5 or more;
        `BADLY_PLACED`: it overlaps an object of its class by 0.1 or more, but by less than 0.5;
        `FALSE`: none of these.
      object_id: the object in question; None for `FALSE`.
      iou: with that object; 0 for `FALSE`.
    """

    outcome: Outcome
    object_id: int | None
    iou: float


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What became of all objects and detections.

    Attributes:
      subject: what they are of.
      kind: whether the overlap is that of boxes or of masks; see `subject`.
      score_threshold: detections with a lower score are left out.
      of_detections: by id of the detection, in the order of the images and then of the scores.
      of_objects: by id of the object, crowds left out: `CORRECT` or `MIXED_UP` if a detection has
        taken it, `BADLY_PLACED` if one of its class is near it, else `MISSED`.
    """

    subject: Subject
    kind: str
    score_threshold: float
    of_detections: dict[int, OfDetection]
    of_objects: dict[int, Outcome]


def find(
    subject: Subject, kind: str, score_threshold: float, progress: Progress | None = None
) -> Outcomes:
    """Finds out what became of each object and each detection.

    Args:
      subject: the objects and detections.
      kind: `BOXES` or `MASKS`.
      score_threshold: in [0, 1].
      progress: shows how far it is.

    Raises:
      UsageError: if the threshold does not lie in [0, 1].
    """
    checks.check_threshold("score_threshold", score_threshold)
    of_detections: dict[int, OfDetection] = {}
    of_objects: dict[int, Outcome] = {}
    for image in _match(subject, kind, score_threshold, progress or matching.silent()):
        found = _of_detections(subject, kind, image)
        of_detections |= found
        of_objects |= _of_objects(image, found)
    return Outcomes(subject, kind, score_threshold, of_detections, of_objects)


def _match(
    subject: Subject, kind: str, score_threshold: float, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Yields pycocotools' matches in each image that has objects or detections."""
    detections = coco.COCO()
    kept = [d for d in subject.detections.anns.values() if d["score"] >= score_threshold]
    detections.dataset = {**subject.detections.dataset, "annotations": kept}
    with contextlib.redirect_stdout(io.StringIO()):
        detections.createIndex()
        evaluation = cocoeval.COCOeval(subject.truth, detections, kind)
    params = evaluation.params
    params.useCats = 0
    params.iouThrs = np.array([IOU_THRESHOLD])
    params.areaRng, params.areaRngLbl = [_ALL_SIZES], ["all"]
    params.maxDets = [max(len(kept), 1)]
    image_ids = subject.image_ids
    progress.start("finding errors", len(image_ids), unit="image")
    for done in range(0, len(image_ids), _IMAGES_AT_A_TIME):
        params.imgIds = image_ids[done : done + _IMAGES_AT_A_TIME]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        yield from (image for image in evaluation.evalImgs if image is not None)
        progress.advance(done + len(params.imgIds))
    progress.stop()


def _of_detections(subject: Subject, kind: str, image: dict[str, Any]) -> dict[int, OfDetection]:
    objects = [
        id_ for id_, ignored in zip(image["gtIds"], image["gtIgnore"], strict=True) if not ignored
    ]
    detections = [
        id_
        for id_, ignored in zip(image["dtIds"], image["dtIgnore"][0], strict=True)
        if not ignored
    ]
    # Not `dtMatches`: an object whose id is 0 would look like none.
    taken_by = dict(zip(image["gtIds"], image["gtMatches"][0].astype(int).tolist(), strict=True))
    taken = {taken_by[id_]: id_ for id_ in objects if taken_by[id_]}
    ious = overlaps(subject, kind, detections, objects)
    classes = np.array([subject.truth.anns[id_]["category_id"] for id_ in objects], int)
    found = {}
    for detection, row in zip(detections, ious, strict=True):
        is_own = classes == subject.detections.anns[detection]["category_id"]
        if detection in taken:
            index = objects.index(taken[detection])
            outcome = Outcome.CORRECT if is_own[index] else Outcome.MIXED_UP
        else:
            index, outcome = _of_unmatched(row, is_own)
        if index is None:
            found[detection] = OfDetection(outcome, None, 0.0)
        else:
            found[detection] = OfDetection(outcome, objects[index], float(row[index]))
    return found


def _of_unmatched(ious: np.ndarray, is_own: np.ndarray) -> tuple[int | None, Outcome]:
    """Returns which object a detection without one is about, and what became of the detection.

    Args:
      ious: `[M]`, its overlap with each object.
      is_own: `[M]`, whether the object has its class.
    """
    if ious.size and ious.max() >= IOU_THRESHOLD:
        return int(ious.argmax()), Outcome.DUPLICATE
    of_own = np.where(is_own, ious, 0)
    if of_own.size and of_own.max() >= SMALLEST_IOU:
        return int(of_own.argmax()), Outcome.BADLY_PLACED
    return None, Outcome.FALSE


def _of_objects(image: dict[str, Any], found: dict[int, OfDetection]) -> dict[int, Outcome]:
    counted = zip(image["gtIds"], image["gtIgnore"], strict=True)
    result = {id_: Outcome.MISSED for id_, ignored in counted if not ignored}
    near = (Outcome.BADLY_PLACED,)
    # What has taken an object decides over what is only near it.
    for outcomes in (near, (Outcome.CORRECT, Outcome.MIXED_UP)):
        for of_detection in found.values():
            if of_detection.outcome in outcomes:
                result[of_detection.object_id] = of_detection.outcome
    return result


def overlaps(
    subject: Subject, kind: str, detection_ids: Sequence[int], object_ids: Sequence[int]
) -> np.ndarray:
    """Measures the IoU of detections and objects of one image.

    Args:
      subject: what they belong to.
      kind: `BOXES` or `MASKS`.
      detection_ids: `N` detections.
      object_ids: `M` objects, none of them a crowd.

    Returns:
      `[N, M]`, float64.
    """
    if not detection_ids or not object_ids:
        return np.zeros((len(detection_ids), len(object_ids)))
    regions = [
        [
            # In float64, as pycocotools itself hands them on.
            entries.anns[id_]["bbox"] if kind == BOXES else entries.annToRLE(entries.anns[id_])
            for id_ in ids
        ]
        for entries, ids in ((subject.detections, detection_ids), (subject.truth, object_ids))
    ]
    return mask.iou(*regions, [0] * len(object_ids))
