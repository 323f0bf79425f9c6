"""The ground truth and the detections of a run's evaluation, as COCO has them."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from libra_tf.cli.errors import UsageError
from libra_tf.data import annotations
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import FindingLog
from libra_tf.inference import coco_results
from libra_tf.inference.answers import Answer
from libra_tf.tasks.coco_metric import Detections


def to_results(
    detections: Mapping[int, Detections], truth: AnnotationFile
) -> Iterator[dict[str, Any]]:
    """Yields the detections in all images.

    Args:
      detections: by image id.
      truth: the annotations of these images.

    Yields:
      What `coco_results.to_results` returns, also for classes that the annotations do not list.

    Raises:
      UsageError: if an image is not listed.
    """
    images = {image["id"]: image for image in truth.images}
    for image_id, found in detections.items():
        if image_id not in images:
            raise UsageError(f"{truth.path} does not list image {image_id}, which was evaluated")
        # The others fill the arrays up to the most detections of an image.
        is_real = found.scores > 0
        answer = Answer(
            height=images[image_id]["height"],
            width=images[image_id]["width"],
            boxes=found.boxes[is_real],
            scores=found.scores[is_real],
            category_ids=found.classes[is_real],
            names=found.classes[is_real],
            masks=None if found.masks is None else found.masks[is_real],
        )
        yield from coco_results.to_results(answer, image_id, images[image_id]["file_name"])


def read_truth(path: str) -> AnnotationFile:
    """Reads the annotation file of a run, local or remote.

    Args:
      path: of the file.

    Raises:
      DatasetError: if it cannot be read or contains mistakes.
    """
    found = FindingLog()
    # Its name alone would not do for a remote file.
    truth = annotations.read_annotation_file(
        pathlib.Path(path), found, lambda _, mode: tf.io.gfile.GFile(path, mode)
    )
    found.raise_if_any(path)
    return truth
