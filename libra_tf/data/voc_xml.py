"""Reading one XML file of a folder in Pascal VOC format: the annotation of one image."""

import dataclasses
import pathlib
from xml.etree import ElementTree

from libra_tf.data import images
from libra_tf.data.json_files import is_finite, shown
from libra_tf.data.problems import FindingLog

# The challenge's own data sets count pixels from 1 and include the last one; today's tools write
# the edges of a box.
_COUNTED_FROM_1 = "The VOC"


@dataclasses.dataclass(frozen=True)
class VOCObject:
    """One object in an image.

    Attributes:
      name: its class.
      bbox: `[x, y, width, height]`, pixels.
      iscrowd: 1 if training and evaluation leave it out, else 0. COCO calls that a crowd, VOC
        calls it difficult.
    """

    name: str
    bbox: list[float]
    iscrowd: int


@dataclasses.dataclass(frozen=True)
class XMLFile:
    """An XML file that is an annotation.

    Attributes:
      place: path relative to the data set's folder, for messages.
      encoded: content.
      root: outermost element.
    """

    place: str
    encoded: bytes
    root: ElementTree.Element

    @property
    def image_name(self) -> str:
        """The image's file name as the file states it, without folders; may be empty."""
        return pathlib.PurePath((self.root.findtext("filename") or "").strip()).name

    def read_size(self, image_path: pathlib.Path, problems: FindingLog) -> tuple[int, int] | None:
        """Reads the width and height of the image in pixels.

        Args:
          image_path: the image file, read if the XML file does not state a size.
          problems: receives a size that makes no sense.

        Returns:
          Width and height, or `None` if there is a mistake.
        """
        texts = [self.root.findtext(f"size/{key}") for key in ("width", "height")]
        width, height = map(_number, texts)
        if _is_length(width) and _is_length(height):
            return int(width), int(height)
        # Some tools write 0 for "unknown".
        is_stated = any(text not in (None, "", "0") for text in texts)
        if is_stated and width != 0 and height != 0:
            problems.add(
                "size must be a width and a height in pixels, or be omitted",
                f"{self.place}: {texts[0]!r} x {texts[1]!r}",
            )
            return None
        return _size_of_image(image_path)

    def read_objects(self, problems: FindingLog) -> list[VOCObject] | None:
        """Reads the objects in the image.

        Args:
          problems: receives every mistake.

        Returns:
          The objects, or `None` if there is a mistake in any of them.
        """
        objects = [self._read_object(element, problems) for element in self.root.iter("object")]
        return None if None in objects else objects

    def _read_object(self, element: ElementTree.Element, problems: FindingLog) -> VOCObject | None:
        name = (element.findtext("name") or "").strip()
        if not name:
            problems.add("object without a name", self.place)
            return None
        edges = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        numbers = [_number(edge) for edge in edges]
        if None in numbers:
            problems.add(
                "bndbox must have four finite numbers xmin, ymin, xmax, ymax in pixels",
                f"{self.place}: '{name}', {shown(edges)}",
            )
            return None
        is_difficult = (element.findtext("difficult") or "0").strip()
        if is_difficult not in ("0", "1"):
            problems.add("difficult must be 0 or 1, or be omitted", f"{self.place}: '{name}'")
            return None
        return VOCObject(name, self._to_bbox(*numbers), int(is_difficult))

    def _to_bbox(self, xmin: float, ymin: float, xmax: float, ymax: float) -> list[float]:
        if (self.root.findtext("source/database") or "").startswith(_COUNTED_FROM_1):
            xmin, ymin = xmin - 1, ymin - 1
        return [xmin, ymin, xmax - xmin, ymax - ymin]


def read_xml(path: pathlib.Path, place: str, problems: FindingLog) -> XMLFile | None:
    """Reads an XML file.

    Args:
      path: the file.
      place: path relative to the data set's folder, for messages.
      problems: receives the reason if the file cannot be used.

    Returns:
      The file, or `None` if it cannot be used.
    """
    try:
        encoded = path.read_bytes()
        root = ElementTree.fromstring(encoded)
    except OSError as error:
        problems.add(
            "image listed without a readable XML file: add the file or remove the name",
            f"{place}: {error.strerror}",
        )
        return None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        problems.add("annotation file is not XML: export it again", f"{place}: {error}")
        return None
    if root.tag != "annotation":
        problems.add(
            "annotation file is not Pascal VOC: its root element must be 'annotation'",
            f"{place}: it is '{root.tag}'",
        )
        return None
    return XMLFile(place, encoded, root)


def _is_length(number: float | None) -> bool:
    return number is not None and number > 0 and number % 1 == 0


def _size_of_image(path: pathlib.Path) -> tuple[int, int]:
    try:
        return images.stored_size(path)
    except images.ImageError:
        # What is wrong with the image is reported when all images are checked.
        return 1, 1


def _number(text: str | None) -> float | None:
    """Returns a finite number, an `int` if it has no fraction; `None` for any other text."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    if not is_finite(value):
        return None
    return int(value) if value % 1 == 0 else value
