"""Folders in YOLO's format, as Ultralytics and Roboflow write it.

    data.yaml          train, val (and path, test): folders of images, text files that list images,
                       or lists of these; names: the classes
    images/train/a.jpg
    labels/train/a.txt one object per line, see `yolo_labels`; no file: no object

A label file has the path of its image with `labels` for the last `images`. Paths in `data.yaml`
are relative to its `path`, to its own folder, or, as Roboflow writes them (`../train/images`), to
that folder although they begin with `../`. Classes are numbered from 1. Boxes refer to the picture
as it is seen, with its EXIF orientation applied, as for Ultralytics.

https://docs.ultralytics.com/datasets/detect/
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import yaml

from libra_tf.cli import image_files
from libra_tf.data import annotations, images, source, yolo_labels
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import DatasetError, FindingLog

_USUAL_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_REMEDY = "see https://docs.ultralytics.com/datasets/detect/"


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """An image of a split and the file with its objects, which may not exist."""

    image_path: pathlib.Path
    label_path: pathlib.Path


class YOLOFolder:
    """A folder with a `data.yaml`; see `source.Source`."""

    def __init__(self, folder: pathlib.Path, yaml_path: pathlib.Path):
        """Reads `data.yaml` and finds the images.

        Args:
          folder: the data set's folder.
          yaml_path: the file in it that describes it.

        Raises:
          DatasetError: if the file cannot be used, or names something that is not there.
        """
        self.folder = folder
        self._yaml_path = yaml_path
        config = _read_config(yaml_path)
        self._class_names = _class_names(config, yaml_path)
        keys = [key for key in ("train", "val", "valid", "test") if config.get(key)]
        if "train" not in keys:
            raise DatasetError(f"{yaml_path} names no training images: set train; {_REMEDY}")
        try:
            chosen = source.choose_splits(keys)
        except ValueError as error:
            raise DatasetError(f"{yaml_path}: {error}. Keep one of these keys") from error
        self.splits = tuple(chosen)
        self._listed = {split: _Listed(config, key, yaml_path) for split, key in chosen.items()}
        named = (f"{split}: {config[key]}" for split, key in chosen.items())
        self.description = f"YOLO ({yaml_path.name}, {', '.join(named)})"

    def depends_on(self) -> list[str]:
        """Returns `data.yaml`, all lists and label files, and the folders where more may appear."""
        paths = {self._yaml_path}
        for listed in self._listed.values():
            for place in listed.places:
                # A list has no folders below it.
                folders = (path for path in place.glob("**") if path.is_dir())
                paths.update([place, *folders])
            paths.update(labelled.label_path for labelled in listed.images)
            label_folders = {labelled.label_path.parent for labelled in listed.images}
            paths.update(map(_nearest_folder, label_folders))
        return [source.name_in(self.folder, path) for path in sorted(paths) if path.exists()]

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        """Reads all label files; see `source.Source`."""
        # The ids of both splits together are unique.
        image_ids, annotation_ids = itertools.count(1), itertools.count(1)
        return {
            split: self._read_split(split, image_ids, annotation_ids, problems)
            for split in self.splits
        }

    def image_root(self, split: str, file: AnnotationFile) -> pathlib.Path:
        """Returns the folder that holds all images of a split; see `source.Source`."""
        del file
        return self._listed[split].root

    def _read_split(
        self,
        split: str,
        image_ids: Iterator[int],
        annotation_ids: Iterator[int],
        problems: FindingLog,
    ) -> AnnotationFile:
        listed = self._listed[split]
        entries, objects, digest = [], [], hashlib.sha256(repr(self._class_names).encode())
        for labelled in listed.images:
            file_name = os.path.relpath(labelled.image_path, listed.root)
            size = _upright_size(labelled.image_path, f"{split}: {file_name}", problems)
            if size is None:
                continue
            encoded = self._read_label(labelled.label_path, problems)
            digest.update(os.fsencode(file_name) + b"\0" + encoded)
            entry = {"id": next(image_ids), "file_name": file_name}
            entries.append({**entry, "width": size[0], "height": size[1]})
            place = source.name_in(self.folder, labelled.label_path)
            objects += [
                {"id": next(annotation_ids), "image_id": entry["id"], **found, "iscrowd": 0}
                for found in yolo_labels.parse(
                    encoded, size, len(self._class_names), place, problems
                )
            ]
        named = ((entry["file_name"], f"image {entry['id']}") for entry in entries)
        annotations.check_file_names(named, listed.path, problems)
        listed.check_labels(problems)
        names = dict(enumerate(self._class_names, start=1))
        return AnnotationFile(
            listed.path, digest.hexdigest(), entries, objects, names, is_upright=True
        )

    def _read_label(self, path: pathlib.Path, problems: FindingLog) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            place = source.name_in(self.folder, path)
            problems.add("label file cannot be read", f"{place}: {error.strerror}")
            return b""


def find(folder: pathlib.Path) -> YOLOFolder | None:
    """Recognises a folder in YOLO's format by its `data.yaml`, whatever its name.

    Args:
      folder: the data set's folder.

    Returns:
      The folder; `None` if there is no such file.

    Raises:
      DatasetError: if there are several, or the file or what it names cannot be used.
    """
    usual = [folder / name for name in _USUAL_NAMES if (folder / name).is_file()]
    paths = usual[:1] or [
        path
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if _describes_dataset(path)
    ]
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise DatasetError(
            f"data set {folder}: several files could describe it: {names}; keep one of them, or "
            "name it data.yaml"
        )
    return YOLOFolder(folder, paths[0]) if paths else None


class _Listed:
    """The images that one key of `data.yaml` names.

    Attributes:
      path: the folder or text file that the key names (the first, if it names several).
      places: all of them.
    """

    def __init__(self, config: dict[str, Any], key: str, yaml_path: pathlib.Path):
        value = config[key]
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise DatasetError(
                f"{yaml_path}: {key} is {value!r}; it must be a folder of images, a text file that "
                f"lists images, or a list of these; {_REMEDY}"
            )
        self._key, self._yaml_path = key, yaml_path
        self.places = [_find_place(config, key, text, yaml_path) for text in texts]
        self.path = self.places[0]

    @functools.cached_property
    def images(self) -> list[_Labelled]:
        """The images in all places and where their labels are, sorted.

        Looked up when they are needed: a data set that is cached need not be walked through.

        Raises:
          DatasetError: if there are none, or a list of images cannot be read.
        """
        paths = sorted({path for place in self.places for path in self._images_of(place)})
        if not paths:
            places = ", ".join(map(str, self.places))
            raise DatasetError(f"{self._yaml_path}: there are no images in {self._key}: {places}")
        return [_Labelled(path, _label_path(path)) for path in paths]

    @functools.cached_property
    def root(self) -> pathlib.Path:
        """The folder that holds all images."""
        return pathlib.Path(os.path.commonpath([i.image_path.parent for i in self.images]))

    def check_labels(self, problems: FindingLog) -> None:
        """Checks that not all label files are missing: then they are in another place."""
        if not any(labelled.label_path.is_file() for labelled in self.images):
            problems.add(
                "no image has a label file: put a .txt file for each image with objects into "
                "labels/, with the subfolders of images/",
                f"{self._key}: {len(self.images)} images, the first file would be "
                f"{self.images[0].label_path}",
            )

    def _images_of(self, place: pathlib.Path) -> Iterator[pathlib.Path]:
        if place.is_dir():
            return (p for p in place.rglob("*") if p.suffix.lower() in image_files.SUFFIXES)
        try:
            lines = place.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{self._yaml_path}: {self._key} names {place}, which is neither a folder nor a "
                f"text file ({error})"
            ) from error
        root = self._yaml_path.parent
        return (_find_image(line, place.parent, root) for line in map(str.strip, lines) if line)


def _find_image(line: str, folder: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Returns the path in a list of images; it is relative to the list or to `data.yaml`."""
    candidates = [_normal(folder / line), _normal(root / line)]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    # PyYAML raises all sorts of errors for values that only look like dates or numbers.
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} cannot be read as YAML ({reason}); {_REMEDY}") from error
    if not isinstance(config, dict):
        raise DatasetError(f"{path} must hold keys such as train, val and names; {_REMEDY}")
    if "kpt_shape" in config:
        raise DatasetError(
            f"{path} has kpt_shape, so its labels are poses, which no detector here learns: export "
            "the data set for object detection"
        )
    return config


def _describes_dataset(path: pathlib.Path) -> bool:
    try:
        config = _read_config(path)
    except DatasetError:
        return False
    return "train" in config and bool(config.keys() & {"names", "nc"})


def _class_names(config: dict[str, Any], path: pathlib.Path) -> list[str]:
    names, count = config.get("names"), config.get("nc")
    if names is None and isinstance(count, int) and 0 < count <= yolo_labels.MOST_CLASSES:
        names = [f"class{index}" for index in range(count)]
    if isinstance(names, dict):
        if sorted(names, key=repr) != sorted(range(len(names)), key=repr):
            raise DatasetError(
                f"{path}: the keys of names are {', '.join(map(repr, names))}; they must be the "
                f"numbers from 0 to {len(names) - 1}"
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{path}: names is {names!r}; it must list the classes; {_REMEDY}")
    for index, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise DatasetError(
                f"{path}: the name of class {index} is {name!r}; write it as text in quotes"
            )
    if count is not None and count != len(names):
        raise DatasetError(f"{path}: nc is {count!r}, but names lists {len(names)} classes")
    return [str(name) for name in names]


def _find_place(
    config: dict[str, Any], key: str, text: str, yaml_path: pathlib.Path
) -> pathlib.Path:
    """Finds what a key names, in the places where Ultralytics and Roboflow mean it to be."""
    folder = yaml_path.parent
    roots = [folder]
    if isinstance(config.get("path"), str):
        roots.insert(0, folder / pathlib.Path(config["path"]).expanduser())
    texts = [text, text.removeprefix("../")]
    candidates = [_normal(root / tried) for root in roots for tried in texts]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    tried = ", ".join(dict.fromkeys(map(str, candidates)))
    raise DatasetError(f"{yaml_path}: {key} is {text!r}, but there is no such path. Tried: {tried}")


def _normal(path: pathlib.Path) -> pathlib.Path:
    """Removes `..` from a path, but follows no links: the label lies beside the link."""
    return pathlib.Path(os.path.normpath(path))


def _label_path(image_path: pathlib.Path) -> pathlib.Path:
    """Returns where the labels of an image are, by Ultralytics' rule."""
    parts = list(image_path.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return pathlib.Path(*parts).with_suffix(".txt")


def _nearest_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns a folder or, if it is missing, the one that changes when it appears."""
    return next(path for path in [folder, *folder.parents] if path.is_dir())


def _upright_size(path: pathlib.Path, place: str, problems: FindingLog) -> tuple[int, int] | None:
    try:
        return images.upright_size(path)
    except images.ImageError as error:
        problems.add(str(error), place)
        return None
