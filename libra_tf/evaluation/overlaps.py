"""How much detections and objects overlap, computed once for every number of an evaluation."""

import dataclasses
from typing import Any

import numpy as np
from pycocotools import coco, mask

from libra_tf.evaluation.subject import MASKS, Subject, detected_area


@dataclasses.dataclass(frozen=True)
class ImageOverlaps:
    """How much the D detections and the G objects of an image overlap.

    Attributes:
      ids: `[D]` int64, id of each detection.
      scores: `[D]` float64, in descending order; equal ones in the order of the results.
      classes: `[D]` int64, index of each detection's category among the sorted category ids.
      areas: `[D]` float64, area of the box or mask of each detection, in square pixels.
      object_ids: `[G]` int64, id of each object.
      object_classes: `[G]` int64, index of each object's category.
      object_areas: `[G]` float64, in square pixels.
      crowds: `[G]` bool, which objects are crowds.
      ious: `[D, G]` float64, intersection over union.
      covered: `[D, G]` float64, the share of the detection that lies in the object. By this
        pycocotools compares detections with crowds.
    """

    ids: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    object_ids: np.ndarray
    object_classes: np.ndarray
    object_areas: np.ndarray
    crowds: np.ndarray
    ious: np.ndarray
    covered: np.ndarray


# What is joined begins with it, since there may be no images.
EMPTY = ImageOverlaps(
    ids=np.zeros(0, np.int64),
    scores=np.zeros(0),
    classes=np.zeros(0, np.int64),
    areas=np.zeros(0),
    object_ids=np.zeros(0, np.int64),
    object_classes=np.zeros(0, np.int64),
    object_areas=np.zeros(0),
    crowds=np.zeros(0, bool),
    ious=np.zeros([0, 0]),
    covered=np.zeros([0, 0]),
)


def measure(subject: Subject, kind: str) -> tuple[ImageOverlaps, ...]:
    """Compares all detections with all objects of the same image.

    Args:
      subject: the objects and detections.
      kind: `subject.BOXES` or `subject.MASKS`, one of `subject.kinds`.

    Returns:
      The overlaps in each image, in ascending order of the image ids.
    """
    index = {id_: position for position, id_ in enumerate(subject.class_names)}
    return tuple(_in_image(subject, kind, image_id, index) for image_id in subject.image_ids)


def _in_image(subject: Subject, kind: str, image_id: int, index: dict[int, int]) -> ImageOverlaps:
    objects = subject.truth.imgToAnns.get(image_id, [])
    found = subject.detections.imgToAnns.get(image_id, [])
    found = sorted(found, key=lambda entry: -entry["score"])
    regions = _regions(subject.detections, found, kind)
    object_regions = _regions(subject.truth, objects, kind)
    ious, covered = (
        np.reshape(
            mask.iou(regions, object_regions, [as_crowds] * len(objects)),
            [len(found), len(objects)],
        )
        for as_crowds in (False, True)
    )
    return ImageOverlaps(
        ids=np.array([entry["id"] for entry in found], np.int64),
        scores=np.array([entry["score"] for entry in found], np.float64),
        classes=np.array([index[entry["category_id"]] for entry in found], np.int64),
        areas=np.array([detected_area(entry, kind) for entry in found], np.float64),
        object_ids=np.array([entry["id"] for entry in objects], np.int64),
        object_classes=np.array([index[entry["category_id"]] for entry in objects], np.int64),
        object_areas=np.array([entry["area"] for entry in objects], np.float64),
        crowds=np.array([entry["iscrowd"] for entry in objects], bool),
        ious=ious,
        covered=covered,
    )


def _regions(source: coco.COCO, entries: list[dict[str, Any]], kind: str) -> list[Any]:
    """Returns boxes, or run-length encoded masks."""
    if kind == MASKS:
        return [source.annToRLE(entry) for entry in entries]
    return [entry["bbox"] for entry in entries]
