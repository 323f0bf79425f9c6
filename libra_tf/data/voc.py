"""Reading a folder in Pascal VOC format: one XML file for each image.

There are two layouts, that of VOC itself and that of tools which put images and XML files side by
side:

    JPEGImages/a.jpg   Annotations/a.xml   ImageSets/Main/train.txt and val.txt: names, one per line
    train/a.jpg, train/a.xml, ...          val/ or valid/ likewise

The folders of the first may also be called images/ and annotations/. Without train.txt there may be
trainval.txt, and test.txt or test/ stands in for a val that is not there. Without any list, all XML
files in Annotations/ are one split; without train/, those in the folder itself. Both layouts may
have subfolders, and suffixes in any case. The result is the same as `annotations` gives for COCO's
JSON. Categories are numbered from 1 in alphabetical order.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from libra_tf.cli import image_files
from libra_tf.data import annotations, source
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import DatasetError, FindingLog
from libra_tf.data.voc_xml import VOCObject, XMLFile, read_xml

_XML_FILES = "*.[xX][mM][lL]"
_LISTS = "ImageSets/Main"
_XML_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images")
# Main/ also holds a list for each class, such as `dog_train.txt`.
_LIST_NAMES = ("train", "val", "trainval", "test")
_SUBFOLDERS = ("train", "val", "valid", "test")


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
    """A folder in one of the two layouts; see `source.Source`."""

    def __init__(self, folder: pathlib.Path, layout: "_Lists | _SideBySide", names: "_Names"):
        self.folder = folder
        self.splits = layout.splits
        self._layout = layout
        self._names = names
        parts = (f"{split}: {layout.name_of(split)}" for split in self.splits)
        self.description = f"Pascal VOC ({', '.join(parts)})"

    def depends_on(self) -> list[str]:
        """Returns all files and folders that the annotations depend on, relative to the folder."""
        return self._layout.depends_on()

    def image_root(self, split: str, file: AnnotationFile) -> pathlib.Path:
        """Returns the folder that image names are relative to; see `source.Source`."""
        del split, file
        return self._layout.image_root

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        """Reads all XML files; see `source.Source`."""
        entries = {split: self._read_split(split, problems) for split in self.splits}
        names = {found.name for split in entries.values() for e in split for found in e.objects}
        if not names:
            problems.add("no usable object in any XML file", str(self.folder))
        class_names = dict(enumerate(sorted(names), start=1))
        # The ids of both splits together are unique.
        image_ids, annotation_ids = itertools.count(1), itertools.count(1)
        return {
            split: self._to_coco(split, entries[split], class_names, image_ids, annotation_ids)
            for split in self.splits
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
        place = str(listed.xml_path.relative_to(self.folder))
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
        file_name = str(image_path.relative_to(self._layout.image_root))
        image = {"file_name": file_name, "width": size[0], "height": size[1]}
        return _Entry(file, image, objects)

    def _find_image(self, listed: _Listed, stated_name: str) -> pathlib.Path | None:
        """Finds an image, preferably by the XML file's own name, which tools keep up to date."""
        path = listed.image_folder / listed.name
        names = [*(f"{path.name}{suffix}" for suffix in image_files.SUFFIXES), stated_name]
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


def find(folder: pathlib.Path) -> VOCFolder | None:
    """Recognises a folder in one of the two layouts.

    Args:
      folder: the data set's folder.

    Returns:
      The folder; `None` if it has neither layout.

    Raises:
      DatasetError: if a part of the layout is missing.
    """
    names = _Names()
    for name in _XML_FOLDERS:
        if any((folder / name).rglob(_XML_FILES)):
            return VOCFolder(folder, _Lists(folder, name, names), names)
    described = [name for name in _SUBFOLDERS if any((folder / name).rglob(_XML_FILES))]
    if not described and not any(folder.glob(_XML_FILES)):
        return None
    # A test split may come without XML files; in any other one, that is a mistake.
    subfolders = [
        name
        for name in _SUBFOLDERS
        if name in described or (described and name != "test" and (folder / name).is_dir())
    ]
    return VOCFolder(folder, _SideBySide(folder, subfolders), names)


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
      splits: the splits that there are lists for; with no list at all, only "train".
    """

    image_root: pathlib.Path
    splits: tuple[str, ...]

    def __init__(self, folder: pathlib.Path, xml_folder: str, names: _Names):
        """Finds the images and the lists.

        Args:
          folder: the data set's folder.
          xml_folder: the folder in it with the XML files.
          names: looks up files.

        Raises:
          DatasetError: if the images are missing, or all lists although their folder is there.
        """
        self._folder = folder
        self._xml_folder = xml_folder
        self._names = names
        image_folders = [name for name in _IMAGE_FOLDERS if (folder / name).is_dir()]
        self.image_root = folder / (image_folders or _IMAGE_FOLDERS)[0]
        there = [name for name in _LIST_NAMES if (folder / _LISTS / f"{name}.txt").exists()]
        self._lists = source.choose_splits(there)
        self.splits = tuple(self._lists) or (source.TRAIN,)
        missing = [] if image_folders else [self.image_root.name]
        if not self._lists and (folder / _LISTS).is_dir():
            missing.append(f"{_LISTS}/train.txt")
        if missing:
            raise DatasetError(
                f"data set {folder} is in Pascal VOC format but is missing {', '.join(missing)}: "
                f"it must contain JPEGImages/, Annotations/ and {_LISTS}/train.txt and val.txt, or "
                "train/ and val/ with images and XML files side by side"
            )

    def name_of(self, split: str) -> str:
        """Returns the list or folder of a split, relative to the data set's folder."""
        return f"{_LISTS}/{self._lists[split]}.txt" if self._lists else self._xml_folder

    def depends_on(self) -> list[str]:
        """Returns what the annotations depend on, relative to the data set's folder."""
        xml_files = _below(self._folder, self._xml_folder, _XML_FILES)
        # A folder changes when a list or an XML file is added to it.
        folders = [*(self._folder / self._xml_folder).glob("**"), self._folder / _LISTS]
        there = [path.relative_to(self._folder) for path in folders if path.is_dir()]
        lists = [self.name_of(split) for split in self._lists]
        return [*lists, *map(str, there), *map(str, xml_files)]

    def list_path(self, split: str) -> pathlib.Path:
        """Returns the file or folder that determines the images of a split."""
        return self._folder / self.name_of(split)

    def without_xml(self, split: str, described: set[str]) -> tuple[str, ...]:
        """Returns the file names of a split's images that are not among those described."""
        # Images that are not listed do not belong to the split.
        return ()

    def listed(self, split: str, problems: FindingLog) -> Iterator[_Listed]:
        """Yields the images of a split; mistakes in the list go to `problems`."""
        path = self.list_path(split)
        try:
            lines = self._lines(path)
        except (OSError, UnicodeDecodeError) as error:
            problems.add("list of images cannot be read as UTF-8 text", f"{path}: {error}")
            return
        seen = set()
        for name in map(_without_image_suffix, filter(None, map(str.strip, lines))):
            relative = pathlib.PurePath(name)
            place = f"{self.name_of(split)}: {name}"
            if name in seen:
                problems.add("image listed twice", place)
            elif relative.is_absolute() or ".." in relative.parts or not relative.name:
                problems.add(
                    "name points outside the folder: use names relative to "
                    f"{self.image_root.name}/",
                    place,
                )
            else:
                yield _Listed(relative, self._xml_path(name), self.image_root)
            seen.add(name)

    def _lines(self, path: pathlib.Path) -> list[str]:
        if self._lists:
            return path.read_text(encoding="utf-8").splitlines()
        xml_files = _below(self._folder, self._xml_folder, _XML_FILES)
        return [str(xml.relative_to(self._xml_folder).with_suffix("")) for xml in xml_files]

    def _xml_path(self, name: str) -> pathlib.Path:
        path = self._folder / self._xml_folder / f"{name}.xml"
        return self._names.find(path.parent, [path.name]) or path


class _SideBySide:
    """The layout of other tools: one folder per split, with images and XML files side by side.

    The methods are those of `_Lists`.

    Attributes:
      image_root: the folder that image names are relative to.
      splits: the splits that there are folders for.
    """

    image_root: pathlib.Path
    splits: tuple[str, ...]

    def __init__(self, folder: pathlib.Path, subfolders: list[str]):
        """Chooses the subfolders.

        Args:
          folder: the data set's folder.
          subfolders: those with XML files; without any, the folder itself is one split.

        Raises:
          DatasetError: if it is not clear which one is for training, or for validation.
        """
        self._folder = folder
        self.image_root = folder
        try:
            chosen = source.choose_splits(subfolders)
        except ValueError as error:
            raise DatasetError(f"data set {folder}: {error}. Keep one of these folders") from error
        if subfolders and not chosen:
            raise DatasetError(
                f"data set {folder} has images and XML files side by side in "
                f"{', '.join(subfolders)}, but not in train/: name the folder of the training "
                "images train"
            )
        self._subfolders = chosen or {source.TRAIN: "."}
        self.splits = tuple(self._subfolders)

    def name_of(self, split: str) -> str:
        return f"{self._subfolders[split]}/"

    def depends_on(self) -> list[str]:
        splits = self._subfolders.values()
        below = [path for split in splits for path in _below(self._folder, split, "*")]
        # A folder changes when a file is added to it.
        folders = [path for path in below if (self._folder / path).is_dir()]
        xml_files = [path for path in below if path.match(_XML_FILES)]
        return [*splits, ".", *map(str, folders + xml_files)]

    def list_path(self, split: str) -> pathlib.Path:
        return self._folder / self._subfolders[split]

    def without_xml(self, split: str, described: set[str]) -> tuple[str, ...]:
        below = _below(self._folder, self._subfolders[split], "*")
        images = [str(path) for path in below if path.suffix.lower() in image_files.SUFFIXES]
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
    return name[: -len(suffix)] if suffix in image_files.SUFFIXES else name


def _lower_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()
