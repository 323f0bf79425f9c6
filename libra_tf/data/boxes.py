"""Box geometry of COCO annotations: `[x, y, width, height]`, pixels, origin at the top left."""

# Annotation tools round to a few decimals, so an edge may overshoot the border by that much
# without anyone having drawn a box across it.
ROUNDING_PIXELS = 1e-3


def clip_box(box, image_width, image_height):
    """Clips a box to the image.

    Args:
      box: four finite numbers `[x, y, width, height]`, pixels.
      image_width: `int`, pixels.
      image_height: `int`, pixels.

    Returns:
      `[x, y, width, height]` of the part inside the image; the very numbers of `box` where no edge
      crosses the border. `None` if that part has no area.
    """
    x, width = _clip_interval(box[0], box[2], image_width)
    y, height = _clip_interval(box[1], box[3], image_height)
    return [x, y, width, height] if width > 0 and height > 0 else None


def crosses_border(box, clipped):
    """Says whether clipping moved an edge by more than the rounding of annotation tools.

    Args:
      box: `[x, y, width, height]`, pixels.
      clipped: what `clip_box` made of it.

    Returns:
      `bool`.
    """
    return any(abs(a - b) > ROUNDING_PIXELS for a, b in zip(box, clipped, strict=True))


def _clip_interval(start, length, limit):
    end = start + length
    if start >= 0 and end <= limit:
        return start, length
    clipped_start = min(max(start, 0), limit)
    clipped_end = min(max(end, 0), limit)
    return clipped_start, clipped_end - clipped_start
