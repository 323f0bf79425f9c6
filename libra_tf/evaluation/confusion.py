"""Which classes a detector takes for which: the confusion matrix.

`outcomes` has the rule by which detections take objects.
"""

import collections
from typing import Any

from libra_tf.evaluation.outcomes import Outcome, Outcomes

_NUM_EXAMPLES = 3


def measure(found: Outcomes) -> dict[str, Any]:
    """Counts which class was taken for which.

    Args:
      found: what became of objects and detections.

    Returns:
      `counts`: the entries of the matrix that are not 0, row by row: `[row, column, count]`, that
      many objects of the row's category id were taken by a detection of the column's. None, which
      is last, is the background: as a column it counts the objects that nothing has taken, as a row
      the detections that have taken nothing. `shares`: the same, divided by the sums of the rows.
      `pairs`: different classes, those mixed up most first, each with `category_id` of the object,
      `taken_for`, `count` and a few `examples`: `image_id`, `object_id`, `detection_id`, `score`
      and `iou`, the highest scores first.
    """
    counts: collections.Counter = collections.Counter()
    for detection in found.of_detections:
        category = found.subject.detections.anns[detection]["category_id"]
        counts[_taken_class(found, detection), category] += 1
    for object_id, outcome in found.of_objects.items():
        if outcome in (Outcome.MISSED, Outcome.BADLY_PLACED):
            counts[found.subject.truth.anns[object_id]["category_id"], None] += 1
    place = {id_: number for number, id_ in enumerate([*found.subject.class_names, None])}
    cells = sorted(counts.items(), key=lambda cell: [place[id_] for id_ in cell[0]])
    totals: collections.Counter = collections.Counter()
    for (row, _), count in cells:
        totals[row] += count
    return {
        "counts": [[row, column, count] for (row, column), count in cells],
        "shares": [[row, column, count / totals[row]] for (row, column), count in cells],
        "pairs": _pairs(found),
    }


def _taken_class(found: Outcomes, detection: int) -> int | None:
    """Returns the class of the object that a detection has taken; None for the background."""
    of_detection = found.of_detections[detection]
    if of_detection.outcome in (Outcome.CORRECT, Outcome.MIXED_UP):
        return found.subject.truth.anns[of_detection.object_id]["category_id"]
    return None


def _pairs(found: Outcomes) -> list[dict[str, Any]]:
    by_pair = collections.defaultdict(list)
    for detection, of_detection in found.of_detections.items():
        if of_detection.outcome is Outcome.MIXED_UP:
            entry = found.subject.detections.anns[detection]
            example = {
                "image_id": entry["image_id"],
                "object_id": of_detection.object_id,
                "detection_id": detection,
                "score": entry["score"],
                "iou": of_detection.iou,
            }
            pair = (_taken_class(found, detection), entry["category_id"])
            by_pair[pair].append(example)
    return [
        {
            "category_id": category,
            "taken_for": other,
            "count": len(examples),
            "examples": sorted(examples, key=lambda e: -e["score"])[:_NUM_EXAMPLES],
        }
        for (category, other), examples in sorted(
            by_pair.items(), key=lambda item: (-len(item[1]), item[0])
        )
    ]
