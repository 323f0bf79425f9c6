"""Average precision as PASCAL VOC defines it, at an IoU of 0.5.

The challenge's rules: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV
2010, section 4.2, and its development kit. They differ from COCO's:

* A detection belongs to the object that it overlaps most, even if another detection has it already.
* Objects that are marked as difficult need not be found, and nothing that belongs to them counts.
* All detections of an image count, however many there are.
* From 2010 on, AP is the exact area below the curve of precision over recall; in 2007 it was a mean
  at 11 recalls.

The development kit counts pixels from 1 and includes the last one. Its overlaps are those of the
edges of the boxes, which this project has.
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask

from libra_tf.evaluation.subject import Subject

_OVERLAP = 0.5
# As in the Python programs that others publish their numbers with: 3 of 10 objects are a little
# less than the fourth.
_RECALLS = np.arange(0, 1.1, 0.1)


def evaluate(subject: Subject) -> dict[str, float]:
    """Measures AP of boxes as PASCAL VOC does.

    What the annotations mark as `iscrowd` is taken for difficult. When a folder in VOC's format is
    read, its difficult objects become that.

    Args:
      subject: objects and detections. Those with equal scores are ranked by the ids of their
        images.

    Returns:
      `AP`, the mean over all classes with objects that are not difficult, of the area below the
      curve; `AP_11_points`, the same with VOC 2007's 11 recalls; and the area for each of these
      classes as `AP/NAME`. In 0..1; -1 if there are no such classes.
    """
    objects, detections = (_by_class(c.anns.values()) for c in (subject.truth, subject.detections))
    class_names = subject.class_names
    areas, of_11_points = {}, []
    for category_id in class_names:
        own, found = objects[category_id], detections[category_id]
        count = sum(not entry["iscrowd"] for of_image in own.values() for entry in of_image)
        if not count:
            continue
        judged = [_judge(own.get(image_id, []), found[image_id]) for image_id in sorted(found)]
        recall, precision = _curve(judged, count)
        areas[category_id] = _area(recall, precision)
        of_11_points.append(_mean_at_11_recalls(recall, precision))
    return {
        "AP": float(np.mean(list(areas.values()))) if areas else -1.0,
        "AP_11_points": float(np.mean(of_11_points)) if areas else -1.0,
        **{f"AP/{class_names[id_]}": area for id_, area in areas.items()},
    }


def _by_class(
    entries: Iterable[dict[str, Any]],
) -> Mapping[int, Mapping[int, list[dict[str, Any]]]]:
    """Sorts entries by category id, and then by image id."""
    classes = collections.defaultdict(lambda: collections.defaultdict(list))
    for entry in entries:
        classes[entry["category_id"]][entry["image_id"]].append(entry)
    return classes


def _judge(
    objects: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Judges the detections of a class in an image.

    Returns:
      `[N]` scores and `[N]` whether the detection is right, both without those that do not count.
    """
    scores = np.array([detection["score"] for detection in detections])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    if not objects:
        return scores, np.zeros(len(scores), bool)
    boxes = np.array([detections[index]["bbox"] for index in order], float)
    of_objects = np.array([entry["bbox"] for entry in objects], float)
    # Zeros because a difficult object is no crowd, which may hold several detections.
    overlaps = mask.iou(boxes, of_objects, [0] * len(objects))
    nearest = overlaps.argmax(axis=1)
    is_hit = overlaps.max(axis=1) >= _OVERLAP
    is_difficult = np.array([bool(entry["iscrowd"]) for entry in objects])[nearest]
    first_of_each = np.unique(np.where(is_hit, nearest, -1), return_index=True)[1]
    is_first = np.isin(np.arange(len(scores)), first_of_each)
    counts = ~(is_hit & is_difficult)
    return scores[counts], (is_hit & is_first)[counts]


def _curve(
    judged: list[tuple[np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision after each detection, best first; `count` objects are there."""
    scores = np.concatenate([scores for scores, _ in judged]) if judged else np.zeros(0)
    is_right = np.concatenate([right for _, right in judged]) if judged else np.zeros(0, bool)
    right = np.cumsum(is_right[np.argsort(-scores, kind="stable")])
    return right / count, right / np.arange(1, len(right) + 1)


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Returns the area below the curve, after precision has been made to fall with recall."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * best_from_here))


def _mean_at_11_recalls(recall: np.ndarray, precision: np.ndarray) -> float:
    return float(np.mean([precision[recall >= least].max(initial=0) for least in _RECALLS]))
