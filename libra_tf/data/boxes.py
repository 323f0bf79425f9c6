"""Boxes of COCO annotations: `[x, y, width, height]`, pixels, origin at the top left."""

from collections.abc import Sequence
from typing import Any

from libra_tf.data.json_files import is_finite

# Annotation tools round to a few decimals, so an edge may overshoot the border by this much
# although nobody drew a box across it.
ROUNDING_PIXELS = 1e-3


def complaint_about_box(value: Any) -> str | None:
    """Returns what is wrong with a JSON value that should be a box, `None` if nothing."""
    if not (isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))):
        return "bbox must be four finite numbers [x, y, width, height] in pixels"
    return None


def clip_box(box: Sequence[float], image_width: int, image_height: int) -> list[float] | None:
    """Clips a box to the image.

    Args:
      box: four finite numbers `[x, y, width, height]`, pixels.
      image_width: pixels.
      image_height: pixels.

    Returns:
      `[x, y, width, height]` of the part inside the image, with the numbers of `box` unchanged
      where no edge crosses the border. `None` if that part has no area.
    """
    x, width = _clip_interval(box[0], box[2], image_width)
    y, height = _clip_interval(box[1], box[3], image_height)
    return [x, y, width, height] if width > 0 and height > 0 else None


def crosses_border(box: Sequence[float], clipped: Sequence[float]) -> bool:
    """Returns whether clipping moved an edge by more than the rounding of annotation tools.

    Args:
      box: `[x, y, width, height]`, pixels.
      clipped: the same box after `clip_box`.
    """
    return any(abs(a - b) > ROUNDING_PIXELS for a, b in zip(box, clipped, strict=True))


def _clip_interval(start: float, length: float, limit: int) -> tuple[float, float]:
    end = start + length
    if start >= 0 and end <= limit:
        return start, length
    clipped_start = min(max(start, 0), limit)
    clipped_end = min(max(end, 0), limit)
    return clipped_start, clipped_end - clipped_start
