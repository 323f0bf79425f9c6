"""Converts detections to COCO's results format and measures their average precision.

https://cocodataset.org/#format-results
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from official.vision.ops import box_ops

from libra_tf.data import annotations, layouts, problems
from libra_tf.evaluation import average_precision, lvis_ap, matching, subject
from libra_tf.inference import pasting
from libra_tf.inference.answers import Answer

# The first of pycocotools' numbers.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_PREFIXES = {subject.BOXES: "", subject.MASKS: "mask_"}


def to_results(answer: Answer, image_id: int, file_name: str) -> list[dict[str, Any]]:
    """Converts the detections of an image to COCO's results format.

    Args:
      answer: the detections.
      image_id: the image's id.
      file_name: the name of its file, which COCO's tools ignore.

    Returns:
      For each detection `image_id`, `file_name`, `category_id`, `bbox` (`[x, y, width, height]` in
      pixels), `score`, and `segmentation` (run-length encoded) if there are masks.
    """
    boxes = box_ops.yxyx_to_xywh(answer.boxes.astype(float))
    results = [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": int(category_id),
            "bbox": [round(value, 3) for value in box],
            "score": round(float(score), 7),
        }
        for category_id, box, score in zip(
            answer.category_ids, boxes.tolist(), answer.scores, strict=True
        )
    ]
    if answer.masks is not None:
        masks = pasting.encode(answer.masks, answer.boxes, answer.height, answer.width)
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = mask
    return results


def renumber(
    results: Iterable[dict[str, Any]], category_ids: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Gives detections the category ids of other annotations.

    Args:
      results: detections in COCO's results format; they are not modified.
      category_ids: by the detector's id, that of the annotations; see `subject.same_classes`.

    Returns:
      The detections of these classes. Those of others are left out: their ids would be taken for
      those of other classes, and the annotations have no objects of them.
    """
    return [
        {**result, "category_id": category_ids[result["category_id"]]}
        for result in results
        if result["category_id"] in category_ids
    ]


def read_annotations(path: str) -> annotations.AnnotationFile:
    """Reads the images and ground truth of a COCO annotation file, or of a data set's folder.

    Args:
      path: the file; or a folder in any layout that training takes, for its validation split, or
        for the only one that it has.

    Raises:
      DatasetError: if the file or folder cannot be read or contains mistakes.
    """
    found = problems.FindingLog()
    if pathlib.Path(path).is_dir():
        source = layouts.recognise(pathlib.Path(path))
        annotation_file = source.read(found).get(source.splits[-1])
    else:
        annotation_file = annotations.read_annotation_file(pathlib.Path(path), found)
    found.raise_if_any(path)
    return annotation_file


def count_training_images(path: str) -> dict[int, int] | None:
    """Counts in how many training images each class is; see `lvis_ap.images_per_class`.

    Args:
      path: as for `read_annotations`, which has found no mistakes in it.

    Returns:
      The numbers; None for a file, which has no training images beside it, and for a folder whose
      only split is evaluated.
    """
    if not pathlib.Path(path).is_dir():
        return None
    source = layouts.recognise(pathlib.Path(path))
    if len(source.splits) == 1:
        return None
    training = source.read(problems.FindingLog())[source.splits[0]]
    return lvis_ap.images_per_class(training.annotations)


def evaluate(
    annotation_file: annotations.AnnotationFile,
    results: Sequence[dict[str, Any]],
    image_ids: Iterable[int],
) -> dict[str, float]:
    """Measures the average precision of boxes, and of masks if there are any, with pycocotools.

    Args:
      annotation_file: the ground truth; boxes and masks are clipped to their images, as for
        training.
      results: detections in COCO's results format.
      image_ids: the images to evaluate on.

    Returns:
      `AP`, `AP50`, `AP75`, and by size `APs`, `APm` and `APl`, in 0..1; -1 if there are no objects.
      The same with `mask_` before it, if all objects and all detections have masks.

    Raises:
      UsageError: if a detection belongs to an image or a category that is not listed.
    """
    return measure(subject.make(annotation_file, results, image_ids))


def measure(evaluated: subject.Subject) -> dict[str, float]:
    """Measures the average precision of objects and detections; see `evaluate`.

    Args:
      evaluated: the objects and detections.
    """
    return to_metrics(
        {
            kind: average_precision.measure(matching.match(evaluated, kind))["all"]
            for kind in evaluated.kinds
        }
    )


def to_metrics(measured: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Gives average precisions the names and the form that `evaluate` returns.

    Args:
      measured: by kind, `all` of `average_precision.measure`.
    """
    return {
        _PREFIXES[kind] + name: -1.0 if of_kind[name] is None else of_kind[name]
        for kind, of_kind in measured.items()
        for name in METRICS
    }
