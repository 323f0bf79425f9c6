"""Folders of proposals: one file per image, for a detector without an RPN.

A folder contains `<source_id>.npy` for every image: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in
pixels of the original image, best first; N is 0 for an image without proposals.

    python -m libra_tf.data.proposals RESULTS.json FOLDER --annotations=instances_train.json

makes one from proposals in COCO's results format (https://cocodataset.org/#format-results): a list
of {"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}.
"""

import argparse
import collections
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from libra_tf import atomic
from libra_tf.cli import program
from libra_tf.data import json_files, progress
from libra_tf.data.annotations import read_image_ids
from libra_tf.data.boxes import complaint_about_box
from libra_tf.data.folders import new_folder
from libra_tf.data.problems import DatasetError, FindingLog

SUFFIX = ".npy"

_KEYS = ("image_id", "bbox", "score")

# `(x, y, width, height, score)`, pixels.
_ScoredBox = tuple[float, float, float, float, float]


def convert_results(
    results_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    annotation_path: str | os.PathLike[str],
    report: Callable[[str], None] = print,
) -> None:
    """Makes a folder of proposals from a file in COCO's results format.

    Args:
      results_path: the JSON file with the proposals.
      folder: the folder to make; its parents are made too.
      annotation_path: the COCO annotation file that lists the images.
      report: receives each line about the progress.

    Raises:
      DatasetError: if a file is not what it should be (the message lists every kind of mistake with
        its first places), or the folder already exists or cannot be written. Nothing is left
        behind in that case.
    """
    results_path, annotation_path = pathlib.Path(results_path), pathlib.Path(annotation_path)
    require_free(folder)
    image_ids = read_image_ids(annotation_path)
    report(f"reading {results_path}")
    by_image = _read_results(results_path, set(image_ids), annotation_path)
    number = sum(map(len, by_image.values()))
    report(f"{number} proposals for {len(by_image)} of {len(image_ids)} images")
    boxes = ((image_id, _best_first(by_image.pop(image_id, []))) for image_id in image_ids)
    write_folder(folder, boxes, len(image_ids), report)


def write_folder(
    folder: str | os.PathLike[str],
    proposals: Iterable[tuple[Any, np.ndarray]],
    total: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Makes a folder of proposals, completely or not at all.

    Args:
      folder: the folder to make; its parents are made too.
      proposals: pairs of an image's source id and its boxes, float `[N, 4]`,
        `[ymin, xmin, ymax, xmax]` in pixels of the original image, best first.
      total: number of images; `None` if it is not known.
      report: receives each line about the progress.

    Raises:
      DatasetError: if the folder already exists or cannot be written.
    """
    folder = pathlib.Path(folder).absolute()
    require_free(folder)
    with new_folder(folder, "the proposals") as unfinished:
        for source_id, boxes in progress.announced(proposals, total, "wrote", report):
            np.save(unfinished / f"{source_id}{SUFFIX}", np.ascontiguousarray(boxes, np.float32))
    report(f"the proposals are in {folder}")


def require_free(folder: str | os.PathLike[str]) -> None:
    """Checks that a folder of proposals can be made.

    Args:
      folder: the folder to make.

    Raises:
      DatasetError: if there is already something other than an empty folder.
    """
    if atomic.is_occupied(pathlib.Path(folder)):
        raise DatasetError(f"{folder} already exists: choose another folder, or remove this one")


def _read_results(
    path: pathlib.Path, image_ids: Collection[int], annotation_path: pathlib.Path
) -> dict[int, list[_ScoredBox]]:
    """Reads and checks a results file; returns the proposals of each image that has any."""
    entries = json_files.read_json(path)
    if not isinstance(entries, list) or not entries:
        raise DatasetError(
            f"{path} does not contain a list of proposals: it must look like "
            '[{"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}, ...]'
        )

    def complaint_about(entry: dict[str, Any]) -> str | None:
        image_id = entry["image_id"]
        if isinstance(image_id, (list, dict)) or image_id not in image_ids:
            return f"image_id is not listed in {annotation_path}"
        return _complaint_about_proposal(entry["bbox"], entry["score"])

    problems = FindingLog()
    valid = json_files.checked_entries(entries, _KEYS, complaint_about, path.name, problems)
    problems.raise_if_any(path)
    by_image = collections.defaultdict(list)
    for entry in valid:
        by_image[entry["image_id"]].append((*entry["bbox"], entry["score"]))
    return by_image


def _complaint_about_proposal(box: Any, score: Any) -> str | None:
    if complaint := complaint_about_box(box):
        return complaint
    if box[2] <= 0 or box[3] <= 0:
        return "bbox must have a positive width and height"
    if not json_files.is_finite(score):
        return "score must be a finite number"
    return None


def _best_first(proposals: Sequence[_ScoredBox]) -> np.ndarray:
    """Returns float64 `[N, 4]`, `[ymin, xmin, ymax, xmax]`, sorted by falling score."""
    x, y, width, height, scores = np.reshape(np.array(proposals, np.float64), (-1, 5)).T
    boxes = np.stack([y, x, y + height, x + width], axis=-1)
    return boxes[np.argsort(-scores, kind="stable")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: `None` means those of the command line.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m libra_tf.data.proposals", description=convert_results.__doc__.split("\n")[0]
    )
    parser.add_argument("results", help="proposals in COCO's results format (JSON)")
    parser.add_argument("folder", help="the folder to make")
    parser.add_argument(
        "--annotations", required=True, help="the COCO annotation file that lists the images"
    )
    parsed = parser.parse_args(arguments)
    return program.exit_status(
        lambda: convert_results(parsed.results, parsed.folder, parsed.annotations)
    )


if __name__ == "__main__":
    sys.exit(main())
