"""Draws detections. It needs no TensorFlow, so a client on another machine can draw too."""

import colorsys
import dataclasses
import functools
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
# Left, top, right and bottom, in pixels that belong to it.
_Area = tuple[int, int, int, int]

_MASK_OPACITY = 0.45
_MASK_THRESHOLD = 0.5
_SMALLEST_FONT = 9


@dataclasses.dataclass(frozen=True)
class _Label:
    """What is written where.

    Attributes:
      text: one line.
      font: its font.
      area: the background of the text.
    """

    text: str
    font: ImageFont.FreeTypeFont
    area: _Area


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float],
    masks: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> Image.Image:
    """Draws boxes with label and score; a label has the same colour in every picture.

    Lines and letters scale with the picture. Labels stay inside it, even for boxes that extend
    beyond its border, and do not hide each other as long as there is room at their boxes; the best
    detections are drawn on top.

    Args:
      image: any mode; it is not changed.
      boxes: `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of `image` as it is stored, ignoring any
        EXIF orientation. Rows that are not finite are skipped.
      labels: `N` names.
      scores: `N` numbers in 0..1.
      masks: `[N, h, w]`, the probability in each cell of a regular grid over the box; None if there
        are no masks. Where it is 0.5 or more, the picture is tinted.
      truth: ground truth boxes `[M, 4]`, like `boxes`, drawn in dashed white on black; None to draw
        none.

    Returns:
      A new RGB image of the same size, without metadata.

    Raises:
      ValueError: if the numbers of boxes, labels, scores and masks differ.
    """
    picture = to_8_bits(image).convert("RGB")
    picture.info.clear()
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    masks = [None] * len(boxes) if masks is None else masks
    rows = list(zip(boxes, labels, np.asarray(scores, np.float64), masks, strict=True))
    rows = sorted((row for row in rows if np.isfinite(row[0]).all()), key=lambda row: row[2])
    for box, label, _, mask in rows:
        if mask is not None:
            _tint(picture, box, mask, _color(label))
    canvas = ImageDraw.Draw(picture)
    line_width = max(1, round(min(picture.size) / 250))
    for box in [] if truth is None else np.asarray(truth, np.float64).reshape(-1, 4):
        _draw_dashed_box(canvas, box, line_width)
    for box, label, _, _ in rows:
        _draw_box(canvas, box, _color(label), line_width)
    # Labels come after all boxes, so that no line crosses a name. The best choose their places
    # first, and are drawn on top if there is no free one left.
    texts = [f"{label} {score:.2f}" for _, label, score, _ in rows]
    placed = _place_labels([row[0] for row in rows][::-1], texts[::-1], picture.size)
    for (_, label, _, _), place in zip(rows, placed[::-1], strict=True):
        _draw_label(canvas, place, _color(label))
    return picture


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey to 8 bits; Pillow's own conversion turns everything above 255 white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))


def _color(label: str) -> Color:
    """Chooses a colour by a checksum of the label."""
    digest = zlib.crc32(label.encode(errors="replace"))
    hue, shade = (digest & 0xFFFF) / 0x10000, (digest >> 16) % 3
    rgb = colorsys.hsv_to_rgb(hue, (0.95, 0.75, 0.6)[shade], (0.95, 0.75, 1.0)[shade])
    return tuple(round(255 * value) for value in rgb)


def _draw_box(
    canvas: ImageDraw.ImageDraw, box: np.ndarray, color: Color | str, line_width: int
) -> None:
    width, height = canvas.im.size
    # Pillow cannot draw very large coordinates, and an edge far outside need not be exact.
    low, high = -2 * line_width, max(width, height) + 2 * line_width
    ymin, xmin, ymax, xmax = np.clip(np.rint(box), low, high).astype(int).tolist()
    if xmin <= xmax and ymin <= ymax:
        canvas.rectangle((xmin, ymin, xmax, ymax), outline=color, width=line_width)


def _draw_dashed_box(canvas: ImageDraw.ImageDraw, box: np.ndarray, line_width: int) -> None:
    _draw_box(canvas, box, "black", 2 * line_width)
    ymin, xmin, ymax, xmax = box.tolist()
    corners = ((xmin, ymin), (xmax, ymin), (xmax, ymax), (xmin, ymax), (xmin, ymin))
    dash = 6 * line_width
    for start, end in itertools.pairwise(np.array(corners)):
        length = float(np.abs(end - start).max())
        for at in np.arange(0, length, dash):
            points = [start + (end - start) * min(s, length) / length for s in (at, at + dash / 2)]
            canvas.line([tuple(point) for point in points], fill="white", width=line_width)


def _place_labels(
    boxes: Sequence[np.ndarray], texts: Sequence[str], size: tuple[int, int]
) -> list[_Label]:
    """Finds room for the labels of boxes; the first chooses first.

    Args:
      boxes: `[ymin, xmin, ymax, xmax]` each, finite.
      texts: what to write, one for each box.
      size: width and height of the picture.
    """
    font = load_font(max(_SMALLEST_FONT, round(max(size) / 50)))
    labels: list[_Label] = []
    for box, text in zip(boxes, texts, strict=True):
        text = shorten(" ".join(text.split()), font, size[0])
        places = list(_places(box, text, font, size))
        taken = [label.area for label in labels]
        free = (place for place in places if not any(_overlap(place, area) for area in taken))
        labels.append(_Label(text, font, next(free, places[0])))
    return labels


def _places(
    box: np.ndarray, text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> Iterator[_Area]:
    """Yields where a label may go inside the picture: above its box, else inside, else below."""
    width, height = size
    ascent, descent = font.getmetrics()
    label_width = min(width, round(font.getlength(text)) + 2 * _padding(font))
    label_height = min(height, ascent + descent + _padding(font))
    ymin, xmin, ymax, _ = box
    left = round(float(np.clip(xmin, 0, width - label_width)))
    above = [ymin - label_height] if ymin >= label_height else []
    for top in (*above, ymin, ymin + label_height, ymax - label_height, ymax):
        top = round(float(np.clip(top, 0, height - label_height)))
        yield left, top, left + label_width - 1, top + label_height - 1


def _overlap(one: _Area, other: _Area) -> bool:
    return all(one[i] <= other[i + 2] and other[i] <= one[i + 2] for i in (0, 1))


def _padding(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(font.size / 8))


def _draw_label(canvas: ImageDraw.ImageDraw, label: _Label, color: Color) -> None:
    left, top, _, _ = label.area
    canvas.rectangle(label.area, fill=color)
    is_light = np.dot(color, (0.299, 0.587, 0.114)) > 120
    fill = "black" if is_light else "white"
    canvas.text((left + _padding(label.font), top), label.text, fill=fill, font=label.font)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts a text to a width in pixels, with an ellipsis if it is too long."""
    if font.getlength(text) <= width:
        return text
    return next(
        (
            text[:length] + "…"
            for length in range(len(text) - 1, 0, -1)
            if font.getlength(text[:length] + "…") <= width
        ),
        "",
    )


@functools.lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font that all pictures use, in a size in pixels."""
    # Pillow's built-in font has Latin letters only.
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def _tint(picture: Image.Image, box: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Colours the part of the picture that a mask covers."""
    ymin, xmin, ymax, xmax = box
    # The whole pixels that cover the part of the box inside the picture.
    left, top = (max(0, int(np.floor(low))) for low in np.minimum((xmin, ymin), picture.size))
    right, bottom = (int(np.ceil(high)) for high in np.clip((xmax, ymax), 0, picture.size))
    if left >= right or top >= bottom or ymin >= ymax or xmin >= xmax:
        return
    rows, columns = np.shape(mask)
    y = (np.arange(top, bottom) + 0.5 - ymin) / (ymax - ymin) * rows - 0.5
    x = (np.arange(left, right) + 0.5 - xmin) / (xmax - xmin) * columns - 0.5
    is_object = _interpolate(np.asarray(mask, np.float32), y, x) >= _MASK_THRESHOLD
    stencil = Image.fromarray(np.where(is_object, round(255 * _MASK_OPACITY), 0).astype(np.uint8))
    picture.paste(color, (left, top), stencil)


def _interpolate(mask: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Interpolates `mask` bilinearly on the grid of rows `y` and columns `x`."""

    def along(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        positions = np.clip(positions, 0, len(values) - 1)
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, len(values) - 1)
        share = (positions - low)[:, np.newaxis].astype(np.float32)
        return values[low] * (1 - share) + values[high] * share

    return along(along(mask, y).T, x).T
