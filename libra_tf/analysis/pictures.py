"""Images with sampled boxes or attention drawn on them, as SVG inside HTML."""

import base64
import html
import io

import numpy as np
from PIL import Image

from libra_tf.analysis.collect import Attention, Picture

_LARGEST_SIDE = 512
# So many boxes that they can still be told apart.
_MOST_BOXES = 64


def sampled_boxes(picture: Picture, way: str, title: str) -> str:
    """Draws the objects of an image and the negatives that one way of sampling takes.

    Args:
      picture: the image.
      way: one of `picture.negatives`.
      title: what is shown.

    Returns:
      A `figure` element. Boxes with an IoU above a third are solid, the others fade with it.
    """
    boxes, ious = picture.negatives[way]
    order = np.argsort(ious)[:: max(1, -(-len(ious) // _MOST_BOXES))]
    shapes = [
        _box(boxes[i], "taken", f"IoU {ious[i]:.2f}", 0.25 + 0.75 * min(ious[i] * 3, 1))
        for i in order
    ]
    shapes += [_box(box, "object", "object") for box in picture.objects]
    return _figure(picture.pixels, shapes, title)


def attention(shown: Attention, title: str) -> str:
    """Draws where a point looks: the brighter, the more.

    Args:
      shown: the image, the point and what it looks at.
      title: what is shown.

    Returns:
      A `figure` element.
    """
    height, width = shown.pixels.shape[:2]
    share = shown.weights / (shown.weights.max() or 1)
    # Dark where nothing is looked at, see-through where most is.
    veil = np.zeros((*share.shape, 4), np.uint8)
    veil[..., 3] = np.round(205 * (1 - np.sqrt(share)))
    encoded = _data_uri(Image.fromarray(veil, "RGBA"), "PNG")
    y, x = shown.point
    shapes = [
        f'<image class="veil" href="{encoded}" width="{width}" height="{height}" '
        'preserveAspectRatio="none"/>',
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{width / 50:.1f}"/>',
    ]
    return _figure(shown.pixels, shapes, title)


def _box(box, css, tip, opacity=1.0):
    ymin, xmin, ymax, xmax = box
    return (
        f'<rect class="{css}" x="{xmin:.1f}" y="{ymin:.1f}" width="{max(xmax - xmin, 0):.1f}" '
        f'height="{max(ymax - ymin, 0):.1f}" stroke-opacity="{opacity:.2f}">'
        f"<title>{html.escape(tip)}</title></rect>"
    )


def _figure(pixels, shapes, title):
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    background = (
        f'<image href="{_data_uri(image, "JPEG")}" width="{width}" height="{height}" '
        'preserveAspectRatio="none"/>'
    )
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(title)}">{background}{"".join(shapes)}</svg></figure>'
    )


def _data_uri(image, image_format):
    buffer = io.BytesIO()
    image.save(buffer, format=image_format)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"
