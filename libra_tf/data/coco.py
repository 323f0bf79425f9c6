"""Folders whose annotations are COCO's JSON files.

    annotations/instances_train.json  images/                  file names relative to images/
    annotations/instances_val.json
    annotations/instances_train2017.json  train2017/  COCO as it is downloaded; the images may also
    annotations/instances_val2017.json    val2017/    lie in images/train2017/ and images/val2017/
    train/_annotations.coco.json  train/*.jpg         Roboflow's export; also valid/ and test/
    result.json  images/                              one file, as Label Studio and CVAT write it

Other years and names follow the same pattern.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

from libra_tf.data import annotations, source
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import DatasetError, FindingLog

_ROBOFLOW_FILE = "_annotations.coco.json"
_PREFIX = "instances_"
# What COCO's own archives hold beside the objects.
_OTHER_KINDS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
# Enough images to tell which folder a file's names are relative to.
_LOOKED_UP = 20
# Characters; the first of the lists begins sooner.
_LOOKED_AT = 100_000


@dataclasses.dataclass(frozen=True)
class _Part:
    """The annotation file of a split, and the folders that its image names may be relative to."""

    annotation_path: pathlib.Path
    image_roots: tuple[pathlib.Path, ...]


class COCOFolder:
    """A folder with COCO's annotation files; see `source.Source`."""

    def __init__(self, folder: pathlib.Path, kind: str, parts: dict[str, _Part]):
        self.folder = folder
        self._parts = parts
        self.splits = tuple(parts)
        named = (f"{split}: {self._relative(part)}" for split, part in parts.items())
        self.description = f"{kind} ({', '.join(named)})"

    def depends_on(self) -> list[str]:
        """Returns the annotation files, and the folders where another split could appear."""
        paths = [part.annotation_path for part in self._parts.values()]
        beside = {path.parent for path in paths}
        if any(path.name == _ROBOFLOW_FILE for path in paths):
            beside = {self.folder}
        return [str(path.relative_to(self.folder)) for path in [*paths, *sorted(beside)]]

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        """Reads the annotations; see `source.Source`."""
        files = {
            split: annotations.read_annotation_file(part.annotation_path, problems)
            for split, part in self._parts.items()
        }
        read = {split: file for split, file in files.items() if file is not None}
        if all(part.annotation_path.name == _ROBOFLOW_FILE for part in self._parts.values()):
            return _without_group(read)
        return read

    def image_root(self, split: str, file: AnnotationFile) -> pathlib.Path:
        """Returns the folder where most of the first images are; see `source.Source`."""
        names = [image["file_name"] for image in file.images[:_LOOKED_UP]]
        return max(
            self._parts[split].image_roots,
            key=lambda root: sum(os.path.isfile(os.path.join(root, name)) for name in names),
        )

    def _relative(self, part: _Part) -> str:
        return str(part.annotation_path.relative_to(self.folder))


def find_annotations(folder: pathlib.Path) -> COCOFolder | None:
    """Recognises a folder with `annotations/*.json`.

    Args:
      folder: the data set's folder.

    Returns:
      The folder; `None` if it has no such files.

    Raises:
      DatasetError: if the files, or the folders of their images, cannot be told apart or are not
        there.
    """
    return _opened(folder, (folder / "annotations").glob("*.json"))


def find_roboflow(folder: pathlib.Path) -> COCOFolder | None:
    """Recognises Roboflow's export: an annotation file among the images of each split.

    Args:
      folder: the data set's folder.

    Returns:
      The folder; `None` if it is no such export.

    Raises:
      DatasetError: if the splits cannot be told apart.
    """
    paths = {path.parent.name: path for path in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}"))}
    if not paths and (folder / _ROBOFLOW_FILE).is_file():
        paths = {"train": folder / _ROBOFLOW_FILE}
    if not paths:
        return None
    parts = {
        split: _Part(paths[name], (paths[name].parent,))
        for split, name in _choose(folder, paths).items()
    }
    return COCOFolder(folder, "Roboflow's COCO export", parts)


def find_single_file(folder: pathlib.Path) -> COCOFolder | None:
    """Recognises JSON files beside the images or beside `images/`.

    Args:
      folder: the data set's folder.

    Returns:
      The folder; `None` if there are no JSON files.

    Raises:
      DatasetError: if the files cannot be told apart.
    """
    return _opened(folder, filter(_looks_like_coco, folder.glob("*.json")))


def _by_name(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns annotation files by the name of their split; COCO's own names come first."""
    ours = (path for path in paths if not path.name.startswith(_OTHER_KINDS))
    in_order = sorted(ours, key=lambda path: (path.name.startswith(_PREFIX), path))
    return {path.stem.removeprefix(_PREFIX): path for path in in_order}


def _looks_like_coco(path: pathlib.Path) -> bool:
    """Returns whether a file begins as COCO's do, which may be too large to read just to see."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            beginning = file.read(_LOOKED_AT)
    except OSError:
        return False
    return any(f'"{section}"' in beginning for section in ("images", "annotations", "categories"))


def _opened(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> COCOFolder | None:
    by_name = _by_name(paths)
    if not by_name:
        return None
    parts = {
        split: _Part(by_name[name], _image_roots(folder, by_name[name], name))
        for split, name in _choose(folder, by_name).items()
    }
    return COCOFolder(folder, "COCO", parts)


def _choose(folder: pathlib.Path, paths: dict[str, pathlib.Path]) -> dict[str, str]:
    """Picks the name of each split's annotation file."""
    listed = ", ".join(str(path.relative_to(folder)) for path in paths.values())
    try:
        chosen = source.choose_splits(paths)
    except ValueError as error:
        raise DatasetError(
            f"data set {folder}: {error}. Of the annotation files {listed}, keep one for training "
            "and one for validation"
        ) from error
    is_complete = len(chosen) == len(source.SPLITS) or len(chosen) == len(paths)
    if not chosen or not is_complete:
        raise DatasetError(
            f"data set {folder}: it is not clear which of the annotation files {listed} are for "
            "training and for validation: name them instances_train.json and instances_val.json, "
            "or remove those that are not meant"
        )
    return chosen


def _image_roots(folder: pathlib.Path, path: pathlib.Path, name: str) -> tuple[pathlib.Path, ...]:
    usual = [folder / "images", folder / "images" / name, folder / name]
    found = [root for root in usual if root.is_dir()]
    if not found and path.parent != folder:
        raise DatasetError(
            f"data set {folder} is missing the images of {path.relative_to(folder)}: put them in "
            f"{name}/, in images/{name}/ or in images/"
        )
    return (*found, folder)


def _without_group(files: dict[str, AnnotationFile]) -> dict[str, AnnotationFile]:
    """Leaves out category 0, which in Roboflow's files is the name of the group of all others."""
    used = {entry["category_id"] for file in files.values() for entry in file.annotations}
    if 0 in used or any(len(file.class_names) < 2 for file in files.values()):
        return files
    return {
        split: dataclasses.replace(
            file,
            class_names={id_: name for id_, name in file.class_names.items() if id_ != 0},
            # In another layout, the same file has one class more.
            digest=f"{file.digest} without category 0",
        )
        for split, file in files.items()
    }
