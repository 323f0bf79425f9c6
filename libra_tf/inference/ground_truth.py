"""The images and objects that detections are compared with."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from libra_tf.data import annotations, checking, layouts, problems, set_aside
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.source import TRAIN, VAL, Source
from libra_tf.evaluation import lvis_ap
from libra_tf.runs.folder import PARAMS, RunFolder


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Images and their objects.

    Attributes:
      file: the annotations.
      image_root: the folder that their file names are relative to; None if it is not known.
    """

    file: AnnotationFile
    image_root: pathlib.Path | None = None


def read(path: str, model: str, report: Callable[[str], None]) -> GroundTruth:
    """Reads a COCO annotation file, or the validation images of a data set's folder.

    Args:
      path: the file; or a folder in any layout that training takes, for its validation split. With
        one split only it is for what was set aside when the run trained on it, otherwise for all
        images.
      model: the folder of the run or of an export, which does not know what it was trained on.
      report: called with progress messages.

    Raises:
      DatasetError: if the file or folder cannot be read or contains mistakes.
    """
    if not pathlib.Path(path).is_dir():
        return GroundTruth(read_file(path))
    source = layouts.recognise(pathlib.Path(path))
    split = source.splits[-1]
    file = _read_split(source, VAL) if split == VAL else _read_only(source, path, model, report)
    return GroundTruth(file, source.image_root(split, file))


def read_file(path: str) -> AnnotationFile:
    """Reads a COCO annotation file.

    Args:
      path: the file.

    Raises:
      DatasetError: if it cannot be read or contains mistakes.
    """
    found = problems.FindingLog()
    file = annotations.read_annotation_file(pathlib.Path(path), found)
    found.raise_if_any(path)
    return file


def count_training_images(path: str) -> dict[int, int] | None:
    """Counts in how many training images each class is; see `lvis_ap.images_per_class`.

    Args:
      path: as for `read`, which has found no mistakes in it.

    Returns:
      The numbers; None for a file, which has no training images beside it, and for a folder with
      one split only, which is evaluated.
    """
    if not pathlib.Path(path).is_dir():
        return None
    source = layouts.recognise(pathlib.Path(path))
    if len(source.splits) == 1:
        return None
    return lvis_ap.images_per_class(_read_split(source, TRAIN).annotations)


def _read_only(
    source: Source, path: str, model: str, report: Callable[[str], None]
) -> AnnotationFile:
    """Reads what a model is evaluated on of a folder with one split only."""
    share = RunFolder(model).evaluated_share(path)
    if share == 1:
        if not os.path.exists(os.path.join(model, PARAMS)):
            report(
                f"{path} has one split only: if {model} was made from a run that trained on it, "
                "its training images are among these"
            )
        return _read_split(source, TRAIN)
    # Which images were set aside depends on their content.
    checked = checking.check(source, report).splits[TRAIN]
    return set_aside.for_validation(checked, share or set_aside.DEFAULT_SHARE)[VAL].annotation_file


def _read_split(source: Source, split: str) -> AnnotationFile:
    found = problems.FindingLog()
    file = source.read(found).get(split)
    found.raise_if_any(str(source.folder))
    return file
