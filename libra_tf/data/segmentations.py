"""Masks of COCO annotations: the value of `segmentation`.

In a file it is a list of polygons `[x1, y1, x2, y2, ...]` in pixels, one for each visible part of
the object, or a run-length encoding `{"size": [height, width], "counts": ...}`. The counts are the
lengths of runs of pixels down the columns, outside and inside the object in turn: a list, or
pycocotools' compressed text. Crowds usually have the latter.

A number takes 32 bytes in a list and 8 in an array, and COCO has many millions of them, so the
valid polygons of a file are kept as arrays; see `pack`.
"""

import array
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from libra_tf.data import mask_png
from libra_tf.data.boxes import ROUNDING_PIXELS

# x and y in turn: of a file, an array; made here, a list.
Polygon = Sequence[float]
# A list of polygons or a run-length encoding.
Segmentation = list[Polygon] | dict[str, Any]

_POLYGONS = (list, array.array)
_LEAST_NUMBERS = 6
# Farther than any image reaches, and near enough for all arithmetic.
_FARTHEST = 1e9
# Of pycocotools' text: every character holds 5 bits, and numbers of more than 32 bits are damage.
_MOST_SHIFT = 35
# As in `rleFrPoly` of pycocotools.
_PARTS_OF_PIXEL = 5


def pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Makes arrays of the polygons of a JSON object, while it is read.

    Args:
      entry: any object of a file. Its `segmentation`, if it has one and that is a list of valid
        polygons, is replaced.

    Returns:
      The same object. `json` writes it with `default=list`.
    """
    value = entry.get("segmentation")
    if isinstance(value, list) and all(isinstance(p, list) and _is_polygon(p) for p in value):
        entry["segmentation"] = [array.array("d", polygon) for polygon in value]
    return entry


def is_given(value: Any) -> bool:
    """Returns whether a JSON value is a segmentation, rather than a tool's way of having none."""
    return value is not None and (not isinstance(value, list) or any(part != [] for part in value))


def complaint_about_segmentation(value: Any) -> str | None:
    """Returns what is wrong with a JSON value that should be a segmentation, `None` if nothing."""
    if isinstance(value, dict):
        return _complaint_about_runs(value)
    if not isinstance(value, list) or not all(isinstance(part, _POLYGONS) for part in value):
        return (
            "segmentation must be a list of polygons, [[x1, y1, x2, y2, ...], ...], or a "
            "run-length encoding, {'size': [height, width], 'counts': ...}, or be omitted"
        )
    # Arrays have been checked.
    if not all(isinstance(part, array.array) or _is_polygon(part) for part in value):
        return (
            "every polygon of a segmentation must be x and y in turn of at least 3 points, as "
            "finite numbers of pixels"
        )
    return None


def has_size(segmentation: Segmentation, width: int, height: int) -> bool:
    """Returns whether a valid segmentation is for an image of this size, in pixels."""
    return isinstance(segmentation, list) or segmentation["size"] == [height, width]


def clip_segmentation(segmentation: Segmentation, width: int, height: int) -> Segmentation:
    """Clips a segmentation to its image.

    Args:
      segmentation: a valid one for an image of this size.
      width: of the image, in pixels.
      height: of the image, in pixels.

    Returns:
      The same object if nothing is outside. If nothing is inside, a run-length encoding without a
      pixel.
    """
    if isinstance(segmentation, dict) or _are_inside(segmentation, width, height):
        return segmentation
    clipped = [_clip_polygon(polygon, width, height) for polygon in segmentation]
    inside = [polygon for polygon in clipped if len(polygon) >= _LEAST_NUMBERS]
    return inside or {"size": [height, width], "counts": [height * width]}


def crosses_border(segmentation: Segmentation, width: int, height: int) -> bool:
    """Returns whether a segmentation is outside its image by more than the rounding of tools."""
    return isinstance(segmentation, list) and not _are_inside(
        segmentation, width, height, ROUNDING_PIXELS
    )


def area(segmentation: Segmentation, width: int, height: int) -> float:
    """Returns how many pixels of an image of this size a clipped segmentation covers."""
    return float(coco_mask.area(_to_compressed(segmentation, width, height)))


def encode_png(segmentation: Segmentation, width: int, height: int) -> bytes:
    """Draws a clipped segmentation as Model Garden's decoder reads it.

    Args:
      segmentation: a valid one, inside an image of this size.
      width: of the image, in pixels.
      height: of the image, in pixels.

    Returns:
      Content of a PNG file; see `mask_png`.
    """
    if isinstance(segmentation, dict):
        mask = coco_mask.decode(_to_compressed(segmentation, width, height))
        return mask_png.encode(mask, 0, 0, width, height)
    return mask_png.encode(*_draw(segmentation, width, height), width, height)


def compress(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a mask as pycocotools does, in a form that JSON can hold.

    Args:
      mask: bool or uint8 `[height, width]`.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {**encoded, "counts": encoded["counts"].decode()}


def _to_compressed(segmentation: Segmentation, width: int, height: int) -> dict[str, Any]:
    """Converts to the form that pycocotools computes with."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def _draw(polygons: list[Polygon], width: int, height: int) -> tuple[np.ndarray, int, int]:
    """Draws polygons as pycocotools does, in the part of the image that they are in.

    Returns:
      The part, uint8 `[h, w]`, and its left and upper edge in the image.
    """
    polygons = [list(polygon) for polygon in polygons]
    left, top = (int(min(min(p[axis::2]) for p in polygons)) for axis in (0, 1))
    right, bottom = (
        min(int(max(max(p[axis::2]) for p in polygons)) + 2, size)
        for axis, size in ((0, width), (1, height))
    )
    if left >= right or top >= bottom:
        return np.zeros([0, 0], np.uint8), 0, 0
    moved = [_moved(polygon, left, top) for polygon in polygons]
    drawn = coco_mask.frPyObjects(moved, bottom - top, right - left)
    return coco_mask.decode(drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn)), left, top


def _moved(polygon: list[float], left: int, top: int) -> list[float]:
    """Moves a polygon to another origin.

    pycocotools rounds to parts of a pixel. Rounded first, the points are the same elsewhere; only
    on an edge between them, a tie may round to the other side.
    """
    # For the few numbers of a polygon this is faster than NumPy.
    moved = [0.0] * len(polygon)
    for axis, origin in ((0, left * _PARTS_OF_PIXEL), (1, top * _PARTS_OF_PIXEL)):
        moved[axis::2] = [
            (int(value * _PARTS_OF_PIXEL + 0.5) - origin) / _PARTS_OF_PIXEL
            for value in polygon[axis::2]
        ]
    return moved


def _complaint_about_runs(value: dict[str, Any]) -> str | None:
    size, counts = value.get("size"), value.get("counts")
    if not (_are_counts(size) and len(size) == 2):
        return "size of a run-length encoded segmentation must be [height, width] in pixels"
    # pycocotools reads beyond the end of damaged text, and writes beyond the end of the mask.
    lengths = _decompressed(counts) if isinstance(counts, str) else counts
    if not (_are_counts(lengths) and sum(lengths) == size[0] * size[1]):
        return (
            "counts of a run-length encoded segmentation must be lengths of runs that add up to "
            "height * width, or pycocotools' compressed text"
        )
    return None


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _decompressed(text: str) -> list[int] | None:
    """Decodes the text as `rleFrString` of pycocotools does; returns `None` if it is damaged."""
    counts: list[int] = []
    count = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift >= _MOST_SHIFT:
            return None
        count |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            count -= 1 << shift
        counts.append(count + counts[-2] if len(counts) > 2 else count)
        count = shift = 0
    return None if shift else counts


def _is_polygon(numbers: list[Any]) -> bool:
    return (
        len(numbers) >= _LEAST_NUMBERS
        and len(numbers) % 2 == 0
        and {int, float}.issuperset(map(type, numbers))
        and min(numbers) >= -_FARTHEST
        and max(numbers) <= _FARTHEST
        # NaN is neither less nor more than anything, but every sum with it is NaN.
        and not math.isnan(sum(numbers))
    )


def _are_inside(polygons: list[Polygon], width: int, height: int, margin: float = 0.0) -> bool:
    return all(
        min(polygon) >= -margin
        and max(polygon[::2]) <= width + margin
        and max(polygon[1::2]) <= height + margin
        for polygon in polygons
    )


def _clip_polygon(polygon: Polygon, width: int, height: int) -> list[float]:
    # Imported here because it is slow and seldom needed.
    from matplotlib import path, transforms

    outline = path.Path(np.reshape(polygon, [-1, 2]))
    image = transforms.Bbox.from_extents(0, 0, width, height)
    return outline.clip_to_bbox(image).vertices.ravel().tolist()
