"""Folders of proposals: one file per image, for a detector without an RPN.

A folder holds `<source_id>.npy` for every image: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in
pixels of the original image, best first; N is 0 where there are none.

    python -m libra_tf.data.proposals RESULTS.json FOLDER --annotations=instances_train.json

makes one from proposals in COCO's results format (https://cocodataset.org/#format-results): a list
of {"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np

from libra_tf import atomic
from libra_tf.data import progress
from libra_tf.data.annotations import is_finite, read_image_ids, read_json, shown
from libra_tf.data.problems import DatasetError, FindingLog

SUFFIX = ".npy"

_KEYS = ("image_id", "bbox", "score")


def convert_results(results_path, folder, annotation_path, report=print):
    """Makes a folder of proposals from a file in COCO's results format.

    Args:
      results_path: path of the JSON file with the proposals.
      folder: path of the folder to make; its parents are made too.
      annotation_path: path of the COCO annotation file that lists the images.
      report: callable that is given lines (`str`) about the progress.

    Raises:
      DatasetError: if a file is not what it should be (the message lists every kind of mistake with
        its first places), or the folder is there already or cannot be written. Nothing is left
        behind then.
    """
    results_path, annotation_path = pathlib.Path(results_path), pathlib.Path(annotation_path)
    require_free(folder)
    image_ids = dict.fromkeys(read_image_ids(annotation_path))
    report(f"reading {results_path}")
    by_image = _group(read_json(results_path), image_ids, results_path, annotation_path)
    number = sum(map(len, by_image.values()))
    report(f"{number} proposals for {len(by_image)} of {len(image_ids)} images")
    boxes = ((image_id, _best_first(by_image.pop(image_id, []))) for image_id in image_ids)
    write_folder(folder, boxes, len(image_ids), report)


def write_folder(folder, proposals, total=None, report=print):
    """Makes a folder of proposals, completely or not at all.

    Args:
      folder: path of the folder to make; its parents are made too.
      proposals: iterable of pairs: an image's source id and its boxes, `[N, 4]` float,
        `[ymin, xmin, ymax, xmax]` in pixels of the original image, best first.
      total: `int`, how many images there are; `None` where that is not known.
      report: callable that is given lines (`str`) about the progress.

    Raises:
      DatasetError: if the folder is there already or cannot be written.
    """
    folder = pathlib.Path(folder).absolute()
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.unfinished_folder(folder.parent) as target:
            for source_id, boxes in progress.announced(proposals, total, "written", report):
                np.save(target / f"{source_id}{SUFFIX}", np.ascontiguousarray(boxes, np.float32))
            atomic.publish_folder(target, folder)
    except OSError as error:
        raise DatasetError(
            f"the proposals cannot be written to {folder} ({error.strerror}): choose another folder"
        ) from error
    report(f"the proposals are in {folder}")


def require_free(folder):
    """Checks that a folder of proposals can be made.

    Args:
      folder: path of the folder.

    Raises:
      DatasetError: if there is something already.
    """
    if atomic.is_occupied(pathlib.Path(folder)):
        raise DatasetError(f"{folder} is there already: choose another folder, or remove this one")


def _group(entries, image_ids, path, annotation_path):
    """Returns image id -> list of `(x, y, width, height, score)`."""
    if not isinstance(entries, list) or not entries:
        raise DatasetError(
            f"{path} holds no list of proposals: it must be like "
            '[{"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}, ...]'
        )
    problems = FindingLog()
    by_image = collections.defaultdict(list)
    for index, entry in enumerate(entries):
        complaint = _complaint(entry, image_ids, annotation_path)
        if complaint:
            problems.add(complaint, f"entry {index}: {shown(entry)}")
        else:
            by_image[entry["image_id"]].append((*entry["bbox"], entry["score"]))
    problems.raise_if_any(path)
    return by_image


def _complaint(entry, image_ids, annotation_path):
    """What is wrong with an entry; `None` if nothing."""
    if not isinstance(entry, dict):
        return "entry is not a JSON object"
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        return f"entry lacks {', '.join(missing)}"
    if isinstance(entry["image_id"], (list, dict)) or entry["image_id"] not in image_ids:
        return f"image_id is none of the images in {annotation_path}"
    box = entry["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
        return "bbox must be four finite numbers [x, y, width, height] in pixels"
    if box[2] <= 0 or box[3] <= 0:
        return "bbox must have a positive width and height"
    if not is_finite(entry["score"]):
        return "score must be a finite number"
    return None


def _best_first(proposals):
    """Returns `[N, 4]`, `[ymin, xmin, ymax, xmax]`, of `(x, y, width, height, score)`."""
    x, y, width, height, scores = np.reshape(np.array(proposals, np.float64), (-1, 5)).T
    boxes = np.stack([y, x, y + height, x + width], axis=-1)
    return boxes[np.argsort(-scores, kind="stable")]


def main(arguments=None):
    """Runs the program.

    Args:
      arguments: list of `str`; `None` means those of the command line.

    Returns:
      `int`, the exit status.
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
    try:
        convert_results(parsed.results, parsed.folder, parsed.annotations)
    except DatasetError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
