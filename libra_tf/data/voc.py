"""Reading a folder in Pascal VOC format: one XML file for each image.

There are two layouts, that of VOC itself and that of tools which put images and XML files side by
side:

    JPEGImages/a.jpg   Annotations/a.xml   ImageSets/Main/train.txt and val.txt: names, one per line
    train/a.jpg, train/a.xml, ...          val/ or valid/ likewise

Both may have subfolders, and suffixes in any case. The result is the same as `annotations` gives
for COCO's JSON. Categories are numbered from 1 in alphabetical order.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from libra_tf.data import annotations
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import DatasetError, FindingLog
from libra_tf.data.voc_xml import VOCObject, XMLFile, read_xml

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_XML_FILES = "*.[xX][mM][lL]"
_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class _Listed:
    """One image that belongs to a split.

    Attributes:
      name: path without suffix, relative to `image_folder`.
      xml_path: its XML file, which may not exist.
      image_folder: the folder with the split's images.
    """

    name: pathlib.PurePath
    xml_path: pathlib.Path
    image_folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One image without mistakes in its annotation.

    Attributes:
      file: its XML file.
      image: its COCO entry without the id.
      objects: the objects in it.
    """

    file: XMLFile
    image: dict[str, Any]
    objects: list[VOCObject]


class VOCFolder:
    """A folder in one of the two layouts.

    Attributes:
      image_root: the folder that image names are relative to.
    """

    image_root: pathlib.Path

    def __init__(self, folder: pathlib.Path):
        """Opens a folder for which `is_voc` is true.

        Args:
          folder: the data set's folder.

        Raises:
          DatasetError: if a part of the layout is missing.
        """
        self._folder = folder
        self._names = _Names()
        self._layout: _Lists | _SideBySide
        if (folder / "Annotations").is_dir():
            self._layout = _Lists(folder, self._names)
        else:
            self._layout = _SideBySide(folder)
        self.image_root = self._layout.image_root
        if missing := self._layout.missing():
            raise DatasetError(
                f"data set {folder} is in Pascal VOC format but is missing {', '.join(missing)}: "
                "it must contain JPEGImages/, Annotations/ and ImageSets/Main/train.txt and "
                "val.txt, or train/ and val/ with images and XML files side by side"
            )

    def annotation_files(self) -> list[str]:
        """Returns all files and folders that the annotations depend on, relative to the folder."""
        return self._layout.annotation_files()

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        """Reads the annotations of both splits and checks everything that needs no pixels.

        Args:
          problems: receives every mistake.

        Returns:
          By split, the annotations without mistakes.
        """
        entries = {split: self._read_split(split, problems) for split in _SPLITS}
        names = {found.name for split in entries.values() for e in split for found in e.objects}
        if not names:
            problems.add("no usable object in any XML file", str(self._folder))
        class_names = dict(enumerate(sorted(names), start=1))
        # The ids of both splits together are unique.
        image_ids, annotation_ids = itertools.count(1), itertools.count(1)
        return {
            split: self._to_coco(split, entries[split], class_names, image_ids, annotation_ids)
            for split in _SPLITS
        }

    def _read_split(self, split: str, problems: FindingLog) -> list[_Entry]:
        """Returns the usable images of a split."""
        entries = []
        for listed in self._layout.listed(split, problems):
            entry = self._read_entry(listed, problems)
            if entry is not None:
                entries.append(entry)
        path = self._layout.list_path(split)
        if not entries:
            problems.add("split without usable images", str(path))
        named = ((entry.image["file_name"], entry.file.place) for entry in entries)
        annotations.check_file_names(named, path, problems)
        return entries

    def _read_entry(self, listed: _Listed, problems: FindingLog) -> _Entry | None:
        """Reads the annotation of an image; returns `None` if there is a mistake."""
        place = str(listed.xml_path.relative_to(self._folder))
        file = read_xml(listed.xml_path, place, problems)
        if file is None:
            return None
        image_path = self._find_image(listed, file.image_name)
        if image_path is None:
            problems.add(
                f"no image for this XML file in {listed.image_folder.name}/: add the image or "
                "remove the XML file",
                place,
            )
            return None
        size = file.read_size(image_path, problems)
        objects = file.read_objects(problems)
        if size is None or objects is None:
            return None
        file_name = str(image_path.relative_to(self.image_root))
        image = {"file_name": file_name, "width": size[0], "height": size[1]}
        return _Entry(file, image, objects)

    def _find_image(self, listed: _Listed, stated_name: str) -> pathlib.Path | None:
        """Finds an image, preferably by the XML file's own name, which tools keep up to date."""
        path = listed.image_folder / listed.name
        names = [*(f"{path.name}{suffix}" for suffix in _IMAGE_SUFFIXES), stated_name]
        # If the XML files are in a subfolder of their own, the images may be above it.
        return self._names.find(path.parent, names) or self._names.find(listed.image_folder, names)

    def _to_coco(
        self,
        split: str,
        entries: list[_Entry],
        class_names: dict[int, str],
        image_ids: Iterator[int],
        annotation_ids: Iterator[int],
    ) -> AnnotationFile:
        category_ids = {name: category_id for category_id, name in class_names.items()}
        images, boxes = [], []
        for entry in entries:
            image_id = next(image_ids)
            images.append({"id": image_id, **entry.image})
            boxes += [
                {
                    "id": next(annotation_ids),
                    "image_id": image_id,
                    "category_id": category_ids[found.name],
                    "bbox": found.bbox,
                    "iscrowd": found.iscrowd,
                }
                for found in entry.objects
            ]
        left_out = self._layout.without_xml(split, {image["file_name"] for image in images})
        digest = _digest(entries, class_names, left_out)
        path = self._layout.list_path(split)
        return AnnotationFile(path, digest, images, boxes, class_names, left_out)


def is_voc(folder: pathlib.Path) -> bool:
    """Returns whether a folder looks like Pascal VOC rather than COCO."""
    # On a file system that ignores case, COCO's annotations/ is also Annotations/.
    if any((folder / "annotations").glob("instances_*.json")):
        return False
    return (folder / "Annotations").is_dir() or any((folder / "train").rglob(_XML_FILES))


class _Names:
    """Finds files regardless of the case of their suffixes, and reads every folder only once."""

    def __init__(self) -> None:
        self._of_folders: dict[pathlib.Path, dict[str, str]] = {}

    def find(self, folder: pathlib.Path, names: list[str]) -> pathlib.Path | None:
        """Returns the path of the first of several names that is in a folder, else `None`."""
        if folder not in self._of_folders:
            try:
                there = sorted(os.listdir(folder))
            except OSError:
                there = []
            # Of names that differ only in case the last one stays, which is in lower case.
            self._of_folders[folder] = {_lower_suffix(name): name for name in there}
        found = (self._of_folders[folder].get(_lower_suffix(name)) for name in names)
        return next((folder / name for name in found if name), None)


class _Lists:
    """VOC's own layout: text files list the images of each split.

    Attributes:
      image_root: the folder that image names are relative to.
    """

    image_root: pathlib.Path

    def __init__(self, folder: pathlib.Path, names: _Names):
        self._folder = folder
        self._names = names
        self.image_root = folder / "JPEGImages"

    def missing(self) -> list[str]:
        """Returns the required files and folders that are not there."""
        needed = ["JPEGImages", *map(self._list_name, _SPLITS)]
        return [name for name in needed if not (self._folder / name).exists()]

    def annotation_files(self) -> list[str]:
        """Returns what the annotations depend on, relative to the data set's folder."""
        xml_files = _below(self._folder, "Annotations", _XML_FILES)
        return [*map(self._list_name, _SPLITS), *map(str, xml_files)]

    def list_path(self, split: str) -> pathlib.Path:
        """Returns the file or folder that determines the images of a split."""
        return self._folder / self._list_name(split)

    def without_xml(self, split: str, described: set[str]) -> tuple[str, ...]:
        """Returns the file names of a split's images that are not among those described."""
        # Images that are not listed do not belong to the split.
        return ()

    def listed(self, split: str, problems: FindingLog) -> Iterator[_Listed]:
        """Yields the images of a split; mistakes in the list go to `problems`."""
        path = self.list_path(split)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.add("list of images cannot be read as UTF-8 text", f"{path}: {error}")
            return
        seen = set()
        for name in map(_without_image_suffix, filter(None, map(str.strip, lines))):
            relative = pathlib.PurePath(name)
            place = f"{self._list_name(split)}: {name}"
            if name in seen:
                problems.add("image listed twice", place)
            elif relative.is_absolute() or ".." in relative.parts or not relative.name:
                problems.add(
                    "name points outside the folder: use names relative to JPEGImages/", place
                )
            else:
                yield _Listed(relative, self._xml_path(name), self.image_root)
            seen.add(name)

    def _list_name(self, split: str) -> str:
        return f"ImageSets/Main/{split}.txt"

    def _xml_path(self, name: str) -> pathlib.Path:
        path = self._folder / "Annotations" / f"{name}.xml"
        return self._names.find(path.parent, [path.name]) or path


class _SideBySide:
    """The layout of other tools: one folder per split, with images and XML files side by side.

    The methods are those of `_Lists`.

    Attributes:
      image_root: the folder that image names are relative to.
    """

    image_root: pathlib.Path

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.image_root = folder
        # If there are both valid/ and val/, val/ is read.
        names = {"train": "train", "valid": "val", "val": "val"}
        self._subfolders = {names[name]: name for name in names if (folder / name).is_dir()}

    def missing(self) -> list[str]:
        # `is_voc` has found train/.
        return [] if "val" in self._subfolders else ["val/ or valid/"]

    def annotation_files(self) -> list[str]:
        splits = [self._subfolders[split] for split in _SPLITS]
        below = [path for split in splits for path in _below(self._folder, split, "*")]
        # A folder changes when a file is added to it.
        folders = [path for path in below if (self._folder / path).is_dir()]
        xml_files = [path for path in below if path.match(_XML_FILES)]
        return [*splits, *map(str, folders + xml_files)]

    def list_path(self, split: str) -> pathlib.Path:
        return self._folder / self._subfolders[split]

    def without_xml(self, split: str, described: set[str]) -> tuple[str, ...]:
        below = _below(self._folder, self._subfolders[split], "*")
        images = [str(path) for path in below if path.suffix.lower() in _IMAGE_SUFFIXES]
        return tuple(name for name in images if name not in described)

    def listed(self, split: str, problems: FindingLog) -> Iterator[_Listed]:
        del problems  # Listing a folder cannot fail.
        folder = self.list_path(split)
        for path in _below(self._folder, self._subfolders[split], _XML_FILES):
            xml_path = self._folder / path
            yield _Listed(xml_path.relative_to(folder).with_suffix(""), xml_path, folder)


def _digest(entries: list[_Entry], class_names: dict[int, str], left_out: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(class_names).encode())
    for entry in entries:
        digest.update(entry.image["file_name"].encode() + b"\0" + entry.file.encoded)
    for file_name in left_out:
        digest.update(b"left out\0" + os.fsencode(file_name) + b"\0")
    return digest.hexdigest()


def _below(folder: pathlib.Path, name: str, pattern: str) -> list[pathlib.Path]:
    """Lists everything below a subfolder that matches a pattern, relative to the folder."""
    return sorted(path.relative_to(folder) for path in (folder / name).rglob(pattern))


def _without_image_suffix(name: str) -> str:
    suffix = pathlib.PurePath(name).suffix.lower()
    return name[: -len(suffix)] if suffix in _IMAGE_SUFFIXES else name


def _lower_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()
