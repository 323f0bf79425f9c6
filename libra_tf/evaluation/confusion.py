"""Which classes a detector takes for which: the confusion matrix.

`outcomes` has the rule by which detections take objects.
"""

import collections
from typing import Any

import numpy as np

from libra_tf.evaluation.outcomes import Outcome, Outcomes

_NUM_EXAMPLES = 3


def measure(found: Outcomes) -> dict[str, Any]:
    """Counts which class was taken for which.

    Args:
      found: what became of objects and detections.

    Returns:
      `classes`, the category ids of rows and columns, with None, the background, at the end;
      `counts`, `[K + 1][K + 1]`: objects of the row's class that a detection of the column's class
      has taken. The last column counts the objects that nothing has taken, the last row the
      detections that have taken nothing. `shares`: each row divided by its sum, None in an empty
      row. `pairs`: different classes, those mixed up most first, each with `category_id` of the
      object, `taken_for`, `count` and a few `examples`: `image_id`, `object_id`, `detection_id`,
      `score` and `iou`, the highest scores first.
    """
    classes = list(found.subject.class_names)
    index = {category: i for i, category in enumerate([*classes, None])}
    counts = np.zeros((len(index), len(index)), int)
    for detection in found.of_detections:
        category = found.subject.detections.anns[detection]["category_id"]
        counts[index[_taken_class(found, detection)], index[category]] += 1
    for object_id, outcome in found.of_objects.items():
        if outcome in (Outcome.MISSED, Outcome.BADLY_PLACED):
            counts[index[found.subject.truth.anns[object_id]["category_id"]], index[None]] += 1
    return {
        "classes": [*classes, None],
        "counts": counts.tolist(),
        "shares": [(row / row.sum()).tolist() if row.any() else None for row in counts],
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
