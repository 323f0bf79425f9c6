"""Reading a folder in Pascal VOC format: one XML file for each image.

Two layouts, that of VOC itself and that of tools which put images and XML files side by side:

    JPEGImages/a.jpg   Annotations/a.xml   ImageSets/Main/train.txt and val.txt: names, one a line
    train/a.jpg, train/a.xml, ...          val/ or valid/ likewise

It becomes what `annotations` makes of COCO's JSON. Categories are numbered from 1 in alphabetical
order.
"""

import hashlib
import pathlib
from xml.etree import ElementTree

from PIL import Image

from libra_tf.data import annotations
from libra_tf.data.problems import DatasetError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
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
            # The folders change when a file is added.
            folders = [self._subfolder(split) for split in _SIDE_BY_SIDE]
            return [*folders, *(str(p) for f in folders for p in self._xml_files(f))]
        return [*_LISTS.values(), *map(str, self._xml_files("Annotations"))]

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
            files[split] = annotations.AnnotationFile(
                self._list_path(split), digest.hexdigest(), images, boxes, class_names
            )
        return files

    def _read_split(self, split, problems):
        """The entries of a split's images that can be used."""
        entries = []
        for name, xml_path, image_folder in self._listed(split, problems):
            place = str(xml_path.relative_to(self._folder))
            entry = _read_xml(name, xml_path, image_folder, place, problems)
            if entry is not None:
                entry.image["file_name"] = str(
                    (image_folder / entry.image["file_name"]).relative_to(self.image_root)
                )
                entries.append(entry)
        if not entries:
            problems.add("split without a usable image", str(self._list_path(split)))
        return entries

    def _listed(self, split, problems):
        """Yields name, XML file and folder of every image of a split."""
        if self._is_side_by_side:
            folder = self._folder / self._subfolder(split)
            for path in self._xml_files(self._subfolder(split)):
                yield path.stem, self._folder / path, folder
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
            if name in seen:
                problems.add("image listed twice", f"{_LISTS[split]}: {name}")
            elif pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts:
                problems.add("name leads out of the folder", f"{_LISTS[split]}: {name}")
            else:
                yield name, self._folder / "Annotations" / f"{name}.xml", self.image_root
            seen.add(name)

    def _list_path(self, split):
        if self._is_side_by_side:
            return self._folder / self._subfolder(split)
        return self._folder / _LISTS[split]

    def _subfolder(self, split):
        """The name of a split's folder, None where there is none."""
        return next((n for n in _SIDE_BY_SIDE[split] if (self._folder / n).is_dir()), None)

    def _xml_files(self, name):
        """The XML files of a folder, relative to the data set's."""
        found = (self._folder / name).rglob("*.xml")
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
    return (folder / "Annotations").is_dir() or any((folder / "train").rglob("*.xml"))


class _Entry:
    """One image: its COCO entry without id, its objects, and the bytes of its XML file."""

    def __init__(self, image, objects, encoded):
        self.image, self.objects, self.encoded = image, objects, encoded


def _read_xml(name, path, image_folder, place, problems):
    """Reads one XML file; returns None, with the reasons among `problems`, if it cannot be used."""
    try:
        encoded = path.read_bytes()
        root = ElementTree.fromstring(encoded)
    except OSError as error:
        problems.add(
            "image listed without an XML file that can be read: add it or drop the name",
            f"{place}: {error.strerror}",
        )
        return None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        problems.add("annotation file is not XML: export it again", f"{place}: {error}")
        return None
    if root.tag != "annotation":
        problems.add(
            "annotation file is not Pascal VOC: its outermost element must be 'annotation'",
            f"{place}: it is '{root.tag}'",
        )
        return None
    image_path = _find_image(name, root, image_folder)
    if image_path is None:
        problems.add(
            f"no image of this name in {image_folder.name}/: add it or drop its XML file", place
        )
        return None
    size = _read_size(root, image_path, place, problems)
    objects = [_read_object(element, root, place, problems) for element in root.iter("object")]
    if size is None or None in objects:
        return None
    file_name = str(image_path.relative_to(image_folder))
    image = {"file_name": file_name, "width": size[0], "height": size[1]}
    return _Entry(image, objects, encoded)


def _find_image(name, root, image_folder):
    """The image of an XML file: the one of its own name, which tools keep in step."""
    for suffix in _IMAGE_SUFFIXES:
        for candidate in (f"{name}{suffix}", f"{name}{suffix.upper()}"):
            if (image_folder / candidate).exists():
                return image_folder / candidate
    stated = pathlib.PurePath((root.findtext("filename") or "").strip()).name
    return image_folder / stated if stated and (image_folder / stated).exists() else None


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
