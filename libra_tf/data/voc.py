"""Reading a folder in Pascal VOC format: one XML file for each image.

Two layouts, that of VOC itself and that of tools which put images and XML files side by side:

    JPEGImages/a.jpg   Annotations/a.xml   ImageSets/Main/train.txt and val.txt: names, one a line
    train/a.jpg, train/a.xml, ...          val/ or valid/ likewise

Both may have subfolders, and suffixes in capitals. It becomes what `annotations` makes of COCO's
JSON. Categories are numbered from 1 in alphabetical order.
"""

import hashlib
import os
import pathlib
from xml.etree import ElementTree

from PIL import Image

from libra_tf.data import annotations
from libra_tf.data.problems import DatasetError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_XML_FILES = "*.[xX][mM][lL]"
_LISTS = {"train": "ImageSets/Main/train.txt", "val": "ImageSets/Main/val.txt"}
_SIDE_BY_SIDE = {"train": ("train",), "val": ("val", "valid")}
# The data sets of the challenge count pixels from 1 and include the last one; the tools of today
# write the edges of a box.
_COUNTED_FROM_1 = "The VOC"


class VOCFolder:
    """A folder in one of the two layouts.

    Attributes:
      image_root: `pathlib.Path`, what the images' names are relative to.
    """

    def __init__(self, folder):
        """Opens a folder for which `is_voc` is true.

        Args:
          folder: `pathlib.Path`.

        Raises:
          DatasetError: if a part of the layout is missing.
        """
        self._folder = folder
        self._names = _Names()
        self._is_side_by_side = not (folder / "Annotations").is_dir()
        self.image_root = folder if self._is_side_by_side else folder / "JPEGImages"
        if self._is_side_by_side:
            missing = [] if self._subfolder("val") else ["val/ or valid/"]
        else:
            needed = ["JPEGImages", *_LISTS.values()]
            missing = [name for name in needed if not (folder / name).exists()]
        if missing:
            raise DatasetError(
                f"data set {folder} is in Pascal VOC format and lacks {', '.join(missing)}: it "
                "must hold JPEGImages/, Annotations/ and ImageSets/Main/train.txt and val.txt, or "
                "train/ and val/ with images and XML files side by side"
            )

    def annotation_files(self):
        """Returns the names, relative to the folder, of all that the annotations depend on."""
        if self._is_side_by_side:
            splits = [self._subfolder(split) for split in _SIDE_BY_SIDE]
            below = [path for split in splits for path in self._below(split, "*")]
            # A folder changes when a file is added to it.
            folders = [path for path in below if (self._folder / path).is_dir()]
            files = [path for path in below if path.match(_XML_FILES)]
            return [*splits, *map(str, folders + files)]
        return [*_LISTS.values(), *map(str, self._below("Annotations", _XML_FILES))]

    def read(self, problems):
        """Reads the annotations of both splits and checks all that needs no pixel.

        Args:
          problems: `FindingLog` that receives every mistake.

        Returns:
          `dict` of split to `annotations.AnnotationFile` of what has no mistake.
        """
        entries = {split: self._read_split(split, problems) for split in _LISTS}
        names = sorted({o["name"] for split in entries.values() for e in split for o in e.objects})
        ids = {name: number for number, name in enumerate(names, start=1)}
        class_names = {number: name for name, number in ids.items()}
        if not names:
            problems.add("no usable object in any XML file", str(self._folder))
        files, next_image, next_annotation = {}, 1, 1
        for split, split_entries in entries.items():
            images, boxes = [], []
            digest = hashlib.sha256(repr(class_names).encode())
            for image_id, entry in enumerate(split_entries, start=next_image):
                images.append({"id": image_id, **entry.image})
                digest.update(entry.image["file_name"].encode() + b"\0" + entry.encoded)
                for found in entry.objects:
                    box = {key: found[key] for key in ("bbox", "iscrowd")}
                    category = ids[found["name"]]
                    boxes.append({"image_id": image_id, "category_id": category, **box})
            boxes = [{"id": next_annotation + i, **box} for i, box in enumerate(boxes)]
            next_image += len(images)
            next_annotation += len(boxes)
            left_out = self._without_xml(split, split_entries)
            for file_name in left_out:
                digest.update(b"left out\0" + os.fsencode(file_name) + b"\0")
            files[split] = annotations.AnnotationFile(
                self._list_path(split), digest.hexdigest(), images, boxes, class_names, left_out
            )
        return files

    def _read_split(self, split, problems):
        """The entries of a split's images that can be used."""
        entries = []
        for name, xml_path, image_folder in self._listed(split, problems):
            entry = self._read_xml(name, xml_path, image_folder, problems)
            if entry is not None:
                entries.append(entry)
        if not entries:
            problems.add("split without a usable image", str(self._list_path(split)))
        named = [(entry.image["file_name"], entry.place) for entry in entries]
        annotations.check_file_names(named, self._list_path(split), problems)
        return entries

    def _without_xml(self, split, entries):
        """The names of a split's images that no XML file describes."""
        if not self._is_side_by_side:
            # The lists say which images there are.
            return ()
        described = {entry.image["file_name"] for entry in entries}
        below = self._below(self._subfolder(split), "*")
        images = [str(path) for path in below if path.suffix.lower() in _IMAGE_SUFFIXES]
        return tuple(name for name in images if name not in described)

    def _read_xml(self, name, path, image_folder, problems):
        """Reads one XML file; returns None, with the reasons among `problems`, if it is no use."""
        place = str(path.relative_to(self._folder))
        encoded, root = _parse_xml(path, place, problems)
        if root is None:
            return None
        image_path = self._find_image(name, root, image_folder)
        if image_path is None:
            problems.add(
                f"no image of this name in {image_folder.name}/: add it or drop its XML file", place
            )
            return None
        size = _read_size(root, image_path, place, problems)
        objects = [_read_object(element, root, place, problems) for element in root.iter("object")]
        if size is None or None in objects:
            return None
        file_name = str(image_path.relative_to(self.image_root))
        image = {"file_name": file_name, "width": size[0], "height": size[1]}
        return _Entry(place, image, objects, encoded)

    def _find_image(self, name, root, image_folder):
        """The image of an XML file: the one of its own name, which tools keep in step."""
        path = image_folder / name
        stated = pathlib.PurePath((root.findtext("filename") or "").strip()).name
        names = [*(f"{path.name}{suffix}" for suffix in _IMAGE_SUFFIXES), stated]
        # Where XML files have a subfolder of their own, the images may lie above it.
        return self._names.find(path.parent, names) or self._names.find(image_folder, names)

    def _listed(self, split, problems):
        """Yields name, XML file and folder of every image of a split."""
        if self._is_side_by_side:
            folder = self._folder / self._subfolder(split)
            for path in self._below(self._subfolder(split), _XML_FILES):
                xml_path = self._folder / path
                yield xml_path.relative_to(folder).with_suffix(""), xml_path, folder
            return
        path = self._folder / _LISTS[split]
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            problems.add("list of images cannot be read as text", f"{path}: {error}")
            return
        seen = set()
        for name in filter(None, names):
            suffix = pathlib.PurePath(name).suffix.lower()
            name = name[: -len(suffix)] if suffix in _IMAGE_SUFFIXES else name
            relative = pathlib.PurePath(name)
            if name in seen:
                problems.add("image listed twice", f"{_LISTS[split]}: {name}")
            elif relative.is_absolute() or ".." in relative.parts or not relative.name:
                problems.add("name leads out of the folder", f"{_LISTS[split]}: {name}")
            else:
                xml_path = self._folder / "Annotations" / f"{name}.xml"
                xml_path = self._names.find(xml_path.parent, [xml_path.name]) or xml_path
                yield relative, xml_path, self.image_root
            seen.add(name)

    def _list_path(self, split):
        if self._is_side_by_side:
            return self._folder / self._subfolder(split)
        return self._folder / _LISTS[split]

    def _subfolder(self, split):
        """The name of a split's folder, None where there is none."""
        return next((n for n in _SIDE_BY_SIDE[split] if (self._folder / n).is_dir()), None)

    def _below(self, name, pattern):
        """All below a folder that a pattern fits, relative to the data set's folder."""
        found = (self._folder / name).rglob(pattern)
        return sorted(path.relative_to(self._folder) for path in found)


def is_voc(folder):
    """Says whether a folder looks like Pascal VOC rather than COCO.

    Args:
      folder: `pathlib.Path`.

    Returns:
      `bool`.
    """
    # Where the file system tells no capitals, COCO's annotations/ is Annotations/, too.
    if any((folder / "annotations").glob("instances_*.json")):
        return False
    return (folder / "Annotations").is_dir() or any((folder / "train").rglob(_XML_FILES))


class _Names:
    """Finds files whatever the capitals of their suffixes, and reads every folder once."""

    def __init__(self):
        self._of_folders = {}

    def find(self, folder, names):
        """The path of the first of several names that is in a folder, None without any."""
        if folder not in self._of_folders:
            try:
                there = sorted(os.listdir(folder))
            except OSError:
                there = []
            # Of several that differ in capitals alone the last one stays, in small letters.
            self._of_folders[folder] = {_small_suffix(name): name for name in there}
        found = (self._of_folders[folder].get(_small_suffix(name)) for name in names)
        return next((folder / name for name in found if name), None)


def _small_suffix(name):
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


class _Entry:
    """One image: its XML file's name, COCO entry without id and objects, and the file's bytes."""

    def __init__(self, place, image, objects, encoded):
        self.place, self.image, self.objects, self.encoded = place, image, objects, encoded


def _parse_xml(path, place, problems):
    """Returns the bytes of an XML file and its outermost element, None where it has none to use."""
    try:
        encoded = path.read_bytes()
        root = ElementTree.fromstring(encoded)
    except OSError as error:
        problems.add(
            "image listed without an XML file that can be read: add it or drop the name",
            f"{place}: {error.strerror}",
        )
        return b"", None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        problems.add("annotation file is not XML: export it again", f"{place}: {error}")
        return b"", None
    if root.tag != "annotation":
        problems.add(
            "annotation file is not Pascal VOC: its outermost element must be 'annotation'",
            f"{place}: it is '{root.tag}'",
        )
        return b"", None
    return encoded, root


def _read_size(root, image_path, place, problems):
    """Width and height as the XML file says, or as the image is where it says nothing."""
    texts = [root.findtext(f"size/{key}") for key in ("width", "height")]
    numbers = [_number(text) for text in texts]
    if all(number is not None and number > 0 and number % 1 == 0 for number in numbers):
        return [int(number) for number in numbers]
    # Some tools write 0 for what they do not know.
    if any(text not in (None, "", "0") for text in texts) and numbers[0] != 0 != numbers[1]:
        problems.add(
            "size must be a width and a height in pixels, or be left out",
            f"{place}: {texts[0]!r} x {texts[1]!r}",
        )
        return None
    try:
        with Image.open(image_path) as image:
            return list(image.size)
    except (OSError, Image.DecompressionBombError):
        # What is wrong with the image is said where all images are checked.
        return [1, 1]


def _read_object(element, root, place, problems):
    name = (element.findtext("name") or "").strip()
    if not name:
        problems.add("object without a name", place)
        return None
    edges = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    numbers = [_number(edge) for edge in edges]
    if None in numbers:
        problems.add(
            "bndbox must have four finite numbers xmin, ymin, xmax, ymax in pixels",
            f"{place}: '{name}', {annotations.shown(edges)}",
        )
        return None
    xmin, ymin, xmax, ymax = numbers
    if (root.findtext("source/database") or "").startswith(_COUNTED_FROM_1):
        xmin, ymin = xmin - 1, ymin - 1
    is_difficult = (element.findtext("difficult") or "0").strip()
    if is_difficult not in ("0", "1"):
        problems.add("difficult must be 0 or 1, or be left out", f"{place}: '{name}'")
        return None
    # What evaluation and training leave out is called a crowd in COCO.
    return {
        "name": name,
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "iscrowd": int(is_difficult),
    }


def _number(text):
    """A finite number, an int where it is written as one; None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    if not annotations.is_finite(value):
        return None
    return int(value) if value % 1 == 0 else value
