"""What becomes of each object and each detection at one score threshold.

Detections take objects as in COCO's evaluation without categories (`useCats = 0` in pycocotools):
best score first, each takes the free object that it overlaps most, if the IoU is at least 0.5,
whatever the classes. So a detection of the right place with the wrong class is told from one of
nothing. A detection that fits nothing but a crowd does not count, nor does the crowd.
"""

import dataclasses
import enum

import numpy as np

from libra_tf.evaluation import checks
from libra_tf.evaluation.matching import Matches
from libra_tf.evaluation.overlaps import ImageOverlaps
from libra_tf.evaluation.subject import Subject

IOU_THRESHOLD = 0.5
# With less overlap a detection is not about the object: TIDE's background threshold.
SMALLEST_IOU = 0.1


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


def find(subject: Subject, matches: Matches, score_threshold: float) -> Outcomes:
    """Finds out what became of each object and each detection.

    Args:
      subject: the objects and detections.
      matches: of them; see `matching.match`.
      score_threshold: in [0, 1].

    Raises:
      UsageError: if the threshold does not lie in [0, 1].
    """
    checks.check_threshold("score_threshold", score_threshold)
    of_detections: dict[int, OfDetection] = {}
    of_objects: dict[int, Outcome] = {}
    for image in matches.images:
        found = _of_detections(image, score_threshold)
        of_detections |= found
        of_objects |= _of_objects(image.object_ids[~image.crowds].tolist(), found)
    return Outcomes(subject, matches.kind, score_threshold, of_detections, of_objects)


def _of_detections(image: ImageOverlaps, score_threshold: float) -> dict[int, OfDetection]:
    shown, objects = np.flatnonzero(image.scores >= score_threshold), np.flatnonzero(~image.crowds)
    # Of equally good ones, pycocotools has those of the lower category first.
    shown = shown[np.lexsort([image.classes[shown], -image.scores[shown]])]
    objects = objects[np.argsort(image.object_classes[objects], kind="stable")]
    ious = image.ious[np.ix_(shown, objects)]
    is_own = image.classes[shown][:, None] == image.object_classes[objects]
    in_crowd = (image.covered[shown][:, image.crowds] >= IOU_THRESHOLD).any(axis=1)
    object_ids = image.object_ids[objects].tolist()
    found = {}
    for row, (id_, taken) in enumerate(zip(image.ids[shown].tolist(), _take(ious), strict=True)):
        if taken is not None:
            index = taken
            outcome = Outcome.CORRECT if is_own[row, taken] else Outcome.MIXED_UP
        elif in_crowd[row]:
            continue
        else:
            index, outcome = _of_unmatched(ious[row], is_own[row])
        if index is None:
            found[id_] = OfDetection(outcome, None, 0.0)
        else:
            found[id_] = OfDetection(outcome, object_ids[index], float(ious[row, index]))
    return found


def _take(ious: np.ndarray) -> list[int | None]:
    """Returns which object each detection takes.

    Args:
      ious: `[N, M]`, of the detections, best score first, with the objects.
    """
    taken: list[int | None] = [None] * len(ious)
    left = ious.copy()
    for row in np.flatnonzero(ious.max(axis=1, initial=0) >= IOU_THRESHOLD):
        # Of equally good ones it takes the last.
        column = left.shape[1] - 1 - int(np.argmax(left[row, ::-1]))
        if left[row, column] >= IOU_THRESHOLD:
            taken[row] = column
            left[:, column] = 0
    return taken


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


def _of_objects(object_ids: list[int], found: dict[int, OfDetection]) -> dict[int, Outcome]:
    result = dict.fromkeys(object_ids, Outcome.MISSED)
    near = (Outcome.BADLY_PLACED,)
    # What has taken an object decides over what is only near it.
    for outcomes in (near, (Outcome.CORRECT, Outcome.MIXED_UP)):
        for of_detection in found.values():
            if of_detection.outcome in outcomes:
                result[of_detection.object_id] = of_detection.outcome
    return result
