"""Pictures of detections. Needs no TensorFlow, so that a client on another machine can draw."""

import colorsys
import functools
import itertools
import os
import zlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

_MASK_OPACITY = 0.45
_MASK_THRESHOLD = 0.5
_SMALLEST_FONT = 9


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float],
    masks: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> Image.Image:
    """Draws boxes with label and score; a label has the same colour in every picture.

    Lines and letters grow with the picture. Labels stay inside it, even for boxes that reach beyond
    its border; the best detections are drawn on top.

    Args:
      image: any mode; it is not changed.
      boxes: `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of `image` as it is stored, ignoring any
        EXIF orientation. Rows that are not finite are left out.
      labels: `N` names.
      scores: `N` numbers in 0..1.
      masks: `[N, h, w]`, the probability of each cell of an evenly divided box, or None. Cells of
        0.5 and more are tinted.
      truth: `[M, 4]`, like `boxes`, the ground truth, drawn in dashed white on black; None for
        none.

    Returns:
      A new RGB image of the same size, without metadata.

    Raises:
      ValueError: if the numbers of boxes, labels, scores and masks differ.
    """
    picture = _to_8_bits(image).convert("RGB")
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
    # After all boxes, so that no line crosses a name.
    for box, label, score, _ in rows:
        _draw_label(canvas, box, f"{label} {score:.2f}", _color(label))
    return picture


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey, in which Pillow would turn everything above 255 white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))


def _color(label: str) -> Color:
    digest = zlib.crc32(label.encode(errors="replace"))
    hue, shade = (digest & 0xFFFF) / 0x10000, (digest >> 16) % 3
    rgb = colorsys.hsv_to_rgb(hue, (0.95, 0.75, 0.6)[shade], (0.95, 0.75, 1.0)[shade])
    return tuple(round(255 * value) for value in rgb)


def _draw_box(
    canvas: ImageDraw.ImageDraw, box: np.ndarray, color: Color | str, line_width: int
) -> None:
    width, height = canvas.im.size
    # An edge far outside need not be exact, and Pillow cannot draw very large coordinates.
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


def _draw_label(canvas: ImageDraw.ImageDraw, box: np.ndarray, text: str, color: Color) -> None:
    """Writes above the box, or inside it where there is no room above."""
    width, height = canvas.im.size
    font = load_font(max(_SMALLEST_FONT, round(max(width, height) / 50)))
    text = _shorten(" ".join(text.split()), font, width)
    pad = max(1, round(font.size / 8))
    ascent, descent = font.getmetrics()
    label_width = min(width, round(font.getlength(text)) + 2 * pad)
    label_height = min(height, ascent + descent + pad)
    ymin, xmin = box[:2]
    left = round(float(np.clip(xmin, 0, width - label_width)))
    top = ymin - label_height if ymin >= label_height else ymin
    top = round(float(np.clip(top, 0, height - label_height)))
    area = (left, top, left + label_width - 1, top + label_height - 1)
    canvas.rectangle(area, fill=color)
    is_light = np.dot(color, (0.299, 0.587, 0.114)) > 120
    canvas.text((left + pad, top), text, fill="black" if is_light else "white", font=font)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
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
    """Loads the font of all pictures in a size in pixels."""
    # Pillow's own font has Latin letters only.
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def _tint(picture: Image.Image, box: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Colours the part of the picture that a mask covers."""
    ymin, xmin, ymax, xmax = box
    # Whole pixels of the part of the box that is inside the picture.
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
    """Bilinear values of `mask` at the crossings of the rows `y` and the columns `x`."""

    def along(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        positions = np.clip(positions, 0, len(values) - 1)
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, len(values) - 1)
        share = (positions - low)[:, np.newaxis].astype(np.float32)
        return values[low] * (1 - share) + values[high] * share

    return along(along(mask, y).T, x).T
