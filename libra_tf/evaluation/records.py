"""An evaluation as its page keeps it: the files, and what a later one needs to compare with."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from libra_tf import atomic
from libra_tf.cli.errors import UsageError
from libra_tf.data import annotations, boxes, json_files, problems

PAGE, NUMBERS, RESULTS = "evaluation.html", "evaluation.json", "detections.json"
FORMAT = 1
_PARAMS = "params.yaml"


@dataclasses.dataclass(frozen=True)
class Record:
    """An evaluation that has a page.

    Attributes:
      folder: where its files are.
      name: what its page calls it.
      model: where its detector is from, such as a checkpoint.
      truth_digest: see `digest_of_truth`.
      image_ids: the images that it evaluated on.
      class_names: name of each category id; see `annotations.distinct`.
      results: its detections, in COCO's results format.
    """

    folder: str
    name: str
    model: str
    truth_digest: str
    image_ids: Sequence[int]
    class_names: Mapping[int, str]
    results: list[dict[str, Any]]


def read(folder: str) -> Record:
    """Reads an evaluation.

    Args:
      folder: of a run, or of `libra-tf predict --annotations`, local or remote.

    Raises:
      UsageError: if it has no page, or its files are damaged or do not belong together.
    """
    check_is_there(folder)
    content = _read(folder, NUMBERS)
    encoded = _read(folder, RESULTS)
    record, expected = None, None
    try:
        numbers, results = json.loads(content), json.loads(encoded)
        if numbers["format"] == FORMAT:
            record = Record(
                folder,
                numbers["name"],
                numbers["model"],
                numbers["truth_digest"],
                numbers["image_ids"],
                {int(id_): name for id_, name in numbers["classes"].items()},
                results,
            )
            expected = numbers["detections_digest"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"--compare={folder}: {NUMBERS} or {RESULTS} is damaged; {_how_to_make(folder)}"
        ) from error
    if record is None:
        raise UsageError(
            f"--compare={folder}: {NUMBERS} is of another version; {_how_to_make(folder)}"
        )
    if hashlib.sha256(encoded).hexdigest() != expected:
        raise UsageError(
            f"--compare={folder}: {RESULTS} was written after {NUMBERS}, by something else; "
            f"{_how_to_make(folder)}"
        )
    return record


def read_training_objects(folder: str, class_names: Mapping[int, str]) -> dict[int, int] | None:
    """Returns how many objects of each class a run was trained on, by category id.

    Args:
      folder: of the run, whose training wrote a page.
      class_names: of the data that it is evaluated on, by category id.

    Returns:
      The numbers; None if nothing says them, or the run has other classes.
    """
    path = os.path.join(folder, NUMBERS)
    if atomic.is_remote(folder) or not os.path.exists(path):
        return None
    try:
        numbers = json.loads(_read(folder, NUMBERS))
        names = {int(id_): name for id_, name in numbers["classes"].items()}
        counts = numbers["training_objects"]
    except (AttributeError, KeyError, TypeError, ValueError):
        # The page can do without.
        return None
    if counts is None or names != annotations.distinct(class_names):
        return None
    return {int(id_): count for id_, count in counts.items()}


def discard(folder: str) -> None:
    """Removes a page and its numbers, whose detections are about to be replaced by others.

    Args:
      folder: a local folder.
    """
    for name in (PAGE, NUMBERS):
        pathlib.Path(folder, name).unlink(missing_ok=True)


def check_is_there(folder: str) -> None:
    """Checks that a folder has the files of an evaluation.

    Args:
      folder: as for `read`; a remote one is looked up when it is read.

    Raises:
      UsageError: if it does not.
    """
    if atomic.is_remote(folder):
        return
    if not os.path.isdir(folder):
        raise UsageError(f"--compare={folder}: there is no such folder; {_WHAT_TO_NAME}")
    for name in (NUMBERS, RESULTS):
        if not os.path.exists(os.path.join(folder, name)):
            raise UsageError(f"--compare={folder}: it has no {name}; {_how_to_make(folder)}")


def check_same_truth(
    record: Record, truth: annotations.AnnotationFile, image_ids: Collection[int]
) -> None:
    """Checks that an evaluation was of the same objects.

    Args:
      record: the evaluation.
      truth: the objects of another one.
      image_ids: the images of the other one.

    Raises:
      UsageError: if it was not, or the two have no image in common.
    """
    known = {image["id"] for image in truth.images}
    if not set(record.image_ids) <= known or record.truth_digest != digest_of_truth(
        truth, record.image_ids
    ):
        raise UsageError(
            f"--compare={record.folder} was evaluated on other images, objects or classes than "
            f"those of {truth.path}, so the two say nothing about each other; evaluate both on the "
            "same data"
        )
    if not set(record.image_ids) & set(image_ids):
        raise UsageError(
            f"--compare={record.folder} was evaluated on other images of {truth.path}; evaluate "
            "both on the same"
        )


def digest_of_truth(truth: annotations.AnnotationFile, image_ids: Iterable[int]) -> str:
    """Returns a checksum of the objects in some images, and of the names of the classes.

    Args:
      truth: the ground truth.
      image_ids: the images.
    """
    wanted = set(image_ids)
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth.images}
    objects = []
    for entry in truth.annotations:
        image_id = entry["image_id"]
        box = boxes.clip_box(entry["bbox"], *sizes[image_id]) if image_id in wanted else None
        if box is not None:
            # Conversion may number the classes anew.
            name = truth.class_names[entry["category_id"]]
            # Pixels in tenths: other files have fewer digits of the same object. At half a tenth
            # that may still tell two apart, and a comparison is refused.
            tenths = (round(float(value), 1) for value in box)
            objects.append([image_id, name, int(entry.get("iscrowd", 0)), *tenths])
    content = [sorted(wanted), sorted(objects), sorted(truth.class_names.values())]
    return _digest(json.dumps(content))


def encode_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns detections as the file holds them.

    Args:
      results: in COCO's results format.
    """
    return json.dumps(results)


def digest_of_results(encoded: str) -> str:
    """Returns a checksum of the file of detections.

    Args:
      encoded: what `encode_results` returns.
    """
    return _digest(encoded)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_WHAT_TO_NAME = (
    "name the folder of a run that was evaluated with --report, or the --output_dir of "
    "libra-tf predict --annotations=..."
)


def _how_to_make(folder: str) -> str:
    """Says which command writes the files."""
    if os.path.exists(os.path.join(folder, _PARAMS)):
        return f"write it with libra-tf eval --report --model_dir={folder}"
    return (
        f"write it with libra-tf predict --annotations=... --output_dir={folder}, or name the "
        "folder of a run"
    )


def _read(folder: str, name: str) -> bytes:
    path = os.path.join(folder, name)
    try:
        if atomic.is_remote(folder):
            # Imported here because most folders are local.
            from tensorflow.io import gfile

            return json_files.read_bytes(path, gfile.GFile)
        return json_files.read_bytes(path)
    except problems.DatasetError as error:
        raise UsageError(f"--compare={folder}: {error}; {_how_to_make(folder)}") from error
