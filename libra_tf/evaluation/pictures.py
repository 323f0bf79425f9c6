"""Images with objects and detections on them, as data. The page's templates draw them."""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageColor

from libra_tf.evaluation.outcomes import Outcome, Outcomes
from libra_tf.evaluation.subject import MASKS
from libra_tf.pages import charts, pictures

_LONGEST_SIDE = 320
_JPEG_QUALITY = 70
# Pillow's: large images are first made smaller by a whole factor, which is much faster.
_REDUCING_GAP = 2.0
# Of a name, in pixels of the picture, as `page.css` has it; letters are about so wide.
_FONT_HEIGHT, _LETTER_WIDTH = 11, 6.5
# With more, the boxes could not be told apart.
_MOST_MARKS = 60
_OPACITY = 0.45
# Of a crop: what is left around the boxes, as a part of their longer side.
_MARGIN = 0.5


@dataclasses.dataclass(frozen=True)
class Look:
    """How a box is drawn.

    Attributes:
      name: what the legend calls it.
      meaning: what it stands for.
      colour: of the line and the text, for any photograph, in light and in dark.
      is_dashed: whether it is an object, and not a detection.
      is_faint: whether it is right, and so drawn with a thin line.
    """

    name: str
    meaning: str
    colour: str
    is_dashed: bool = False
    is_faint: bool = False


FOUND = Look("object", "of the ground truth", "#ffffff", is_dashed=True, is_faint=True)
LOOKS = {
    Outcome.CORRECT: Look("correct", "right class, IoU of 0.5 or more", "#4fd6a4", is_faint=True),
    Outcome.MISSED: Look("missed", "an object that nothing has found", "#ffffff", is_dashed=True),
    Outcome.FALSE: Look("false", "nothing of that class is there", "#ff6b5e"),
    Outcome.BADLY_PLACED: Look("badly placed", "right class, IoU from 0.1 to 0.5", "#ffb02e"),
    Outcome.MIXED_UP: Look("mixed up", "right place, wrong class", "#f58cf0"),
    Outcome.DUPLICATE: Look(
        "duplicate", "of an object that another detection has taken", "#6cc4ff"
    ),
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """A box on a picture.

    Attributes:
      box: where it is, in pixels of the picture.
      look: how it is drawn.
      tip: what it is, for whoever points at it.
      label: its name; empty for none.
      at: x and y of the name's base line.
      anchor: which end of the name is there: `start` or `end`.
    """

    box: pictures.Box
    look: Look
    tip: str
    label: str
    at: tuple[float, float]
    anchor: str


@dataclasses.dataclass(frozen=True)
class ErrorPicture:
    """An image with objects and detections.

    Attributes:
      kind: the macro in `templates/figures.html.j2` that draws it.
      title: what it shows.
      width: of the picture, in pixels.
      height: of the picture, in pixels.
      background: the picture as a `data:` URI.
      marks: in the order in which they are drawn.
      numbers: the same as a table.
    """

    kind: ClassVar[str] = "errors"
    title: str
    width: int
    height: int
    background: str
    marks: Sequence[Mark]
    numbers: charts.Table


@dataclasses.dataclass(frozen=True)
class _Shown:
    """An object or a detection to draw: its COCO entry, its look and whether it has its name."""

    entry: dict[str, Any]
    look: Look
    is_named: bool = True


def whole(found: Outcomes, image_id: int, encoded: bytes, title: str) -> ErrorPicture:
    """Shows everything in an image.

    Args:
      found: what became of objects and detections.
      image_id: the image.
      encoded: the file of the image.
      title: what is shown.
    """
    truth, detections = found.subject.truth, found.subject.detections
    objects = [
        _Shown(truth.anns[id_], LOOKS[Outcome.MISSED])
        if found.of_objects[id_] is Outcome.MISSED
        else _Shown(truth.anns[id_], FOUND, is_named=False)
        for id_ in truth.getAnnIds(imgIds=[image_id])
        if id_ in found.of_objects
    ]
    detected = [
        _Shown(detections.anns[id_], LOOKS[of.outcome], of.outcome is not Outcome.CORRECT)
        for id_ in detections.getAnnIds(imgIds=[image_id])
        if (of := found.of_detections.get(id_))
    ]
    # What is right comes first, under what is wrong, and is left out first.
    shown = sorted([*objects, *detected], key=lambda each: each.is_named)[-_MOST_MARKS:]
    width, height = (truth.imgs[image_id][key] for key in ("width", "height"))
    return _draw(found, image_id, encoded, shown, (0, 0, width, height), title)


def crop(found: Outcomes, example: dict[str, Any], encoded: bytes, title: str) -> ErrorPicture:
    """Shows an object that was taken for one of another class, and what is around it.

    Args:
      found: what became of objects and detections.
      example: see `confusion.measure`.
      encoded: the file of the image.
      title: what is shown.
    """
    entry = found.subject.truth.anns[example["object_id"]]
    detection = found.subject.detections.anns[example["detection_id"]]
    shown = [_Shown(entry, FOUND), _Shown(detection, LOOKS[Outcome.MIXED_UP])]
    image_id = example["image_id"]
    size = found.subject.truth.imgs[image_id]
    area = _around([entry["bbox"], detection["bbox"]], size["width"], size["height"])
    return _draw(found, image_id, encoded, shown, area, title)


def _around(
    boxes: Sequence[Sequence[float]], width: int, height: int
) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of a square around boxes, as far as the image goes."""
    lefts, tops, widths, heights = np.array(boxes, float).T
    left, right = lefts.min(), (lefts + widths).max()
    top, bottom = tops.min(), (tops + heights).max()
    half = (1 + _MARGIN) * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height)


def _draw(
    found: Outcomes,
    image_id: int,
    encoded: bytes,
    shown: Sequence[_Shown],
    area: tuple[float, float, float, float],
    title: str,
) -> ErrorPicture:
    """Draws an area of an image; see `_around` for its order."""
    left, top, right, bottom = area
    entry = found.subject.truth.imgs[image_id]
    # Of the image as its entry has it: the file may have another size.
    parts = (
        left / entry["width"],
        top / entry["height"],
        right / entry["width"],
        bottom / entry["height"],
    )
    scale = min(_LONGEST_SIDE / max(right - left, bottom - top), 4.0)
    width, height = (max(1, round(side * scale)) for side in (right - left, bottom - top))
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    pixels = _resized(image, parts, (width, height))
    if found.kind == MASKS:
        pixels = _tinted(pixels, parts, found, shown)
    names = found.subject.class_names
    marks = [_mark(each, names, (left, top), scale, width) for each in shown]
    marks = list(_with_names_apart(marks))
    rows = [
        [
            each.look.name,
            names[each.entry["category_id"]],
            charts.number(each.entry.get("score")),
            ", ".join(f"{value:.0f}" for value in each.entry["bbox"]),
        ]
        for each in shown
    ]
    return ErrorPicture(
        title,
        width,
        height,
        pictures.data_uri(pixels, "JPEG", quality=_JPEG_QUALITY),
        marks,
        charts.Table(title, ["", "class", "score", "x, y, width, height"], rows),
    )


def _mark(
    shown: _Shown, names: dict[int, str], origin: tuple[float, float], scale: float, width: int
) -> Mark:
    x, y, box_width, box_height = shown.entry["bbox"]
    left, top = ((at - start) * scale for at, start in zip((x, y), origin, strict=True))
    box = pictures.Box(left, top, box_width * scale, box_height * scale)
    name = names[shown.entry["category_id"]]
    score = shown.entry.get("score")
    text = name if score is None else f"{name} {score:.2f}"
    # Names of objects are below their boxes, where those of detections are not.
    at_left = left < width / 2
    edge = left if at_left else left + box.width
    above = top - 3 if top > _FONT_HEIGHT + 3 else top + _FONT_HEIGHT
    line = top + box.height - 4 if score is None else above
    return Mark(
        box,
        shown.look,
        f"{shown.look.name}: {text}",
        text if shown.is_named else "",
        (min(max(edge, 2), width - 2), line),
        "start" if at_left else "end",
    )


def _with_names_apart(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Leaves out names that would cover another; they are in the numbers."""
    taken: list[tuple[float, float, float]] = []
    for mark in marks:
        x, y = mark.at
        length = _LETTER_WIDTH * len(mark.label)
        left = x if mark.anchor == "start" else x - length
        is_free = all(
            abs(y - other_y) >= _FONT_HEIGHT or left >= other_right or left + length <= other_left
            for other_y, other_left, other_right in taken
        )
        if mark.label and is_free:
            taken.append((y, left, left + length))
        yield mark if is_free else dataclasses.replace(mark, label="")


def _resized(
    image: Image.Image, parts: tuple[float, float, float, float], size: tuple[int, int]
) -> Image.Image:
    """Returns a part of an image; left, top, right and bottom are shares of its sides."""
    sides = (image.width, image.height) * 2
    box = tuple(min(part * side, side) for part, side in zip(parts, sides, strict=True))
    return image.resize(size, box=box, reducing_gap=_REDUCING_GAP)


def _tinted(
    pixels: Image.Image,
    parts: tuple[float, float, float, float],
    found: Outcomes,
    shown: Iterable[_Shown],
) -> Image.Image:
    """Colours the masks of what has a name, in a part of an image; see `_resized`."""
    left, top, right, bottom = parts
    tinted = np.asarray(pixels, np.float32)
    for each in shown:
        if not each.is_named:
            continue
        # pycocotools has columns one after another, and Pillow rows.
        mask = Image.fromarray(255 * found.subject.truth.annToMask(each.entry).T)
        mask = _resized(mask, (top, left, bottom, right), pixels.size[::-1])
        colour = np.array(ImageColor.getrgb(each.look.colour), np.float32)
        share = _OPACITY / 255 * np.asarray(mask, np.float32).T[..., None]
        tinted = tinted * (1 - share) + colour * share
    return Image.fromarray(tinted.round().astype(np.uint8))
