"""Images with sampled boxes or attention on them, as data. The page's templates draw them."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from libra_tf.analysis.collect import Attention, Picture
from libra_tf.pages import pictures
from libra_tf.pages.pictures import Box

_LARGEST_SIDE = 512
# With more, the boxes could not be told apart.
_MOST_BOXES = 64


@dataclasses.dataclass(frozen=True)
class SampledBox:
    """A sampled negative.

    Attributes:
      box: where it is.
      iou: its largest IoU with an object.
      opacity: from 0 to 1.
    """

    box: Box
    iou: float
    opacity: float


@dataclasses.dataclass(frozen=True)
class BoxPicture:
    """An image with its objects and sampled negatives.

    Attributes:
      kind: the macro in `templates/figures.html.j2` that draws it.
      title: what it shows.
      width: of the image, in pixels.
      height: of the image, in pixels.
      background: the image as a `data:` URI.
      negatives: in the order in which they are drawn.
      objects: the boxes of the objects.
    """

    kind: ClassVar[str] = "boxes"
    title: str
    width: int
    height: int
    background: str
    negatives: Sequence[SampledBox]
    objects: Sequence[Box]


@dataclasses.dataclass(frozen=True)
class AttentionPicture:
    """An image that is darker where a point attends less.

    Attributes:
      kind: see `BoxPicture`.
      title: what it shows.
      width: of the image, in pixels.
      height: of the image, in pixels.
      background: the image as a `data:` URI.
      veil: the darkness over it, as a `data:` URI.
      point: x and y, in pixels.
    """

    kind: ClassVar[str] = "attention"
    title: str
    width: int
    height: int
    background: str
    veil: str
    point: tuple[float, float]


def sampled_boxes(picture: Picture, way: str, title: str) -> BoxPicture:
    """Shows the objects of an image and the negatives that one way of sampling takes.

    Args:
      picture: the image.
      way: one of `picture.negatives`.
      title: what is shown.

    Returns:
      A figure in which boxes with an IoU above a third are solid; the lower the IoU, the fainter
      the others.
    """
    boxes, ious = picture.negatives[way]
    order = np.argsort(ious)[:: max(1, -(-len(ious) // _MOST_BOXES))]
    negatives = [
        SampledBox(_box(boxes[i]), ious[i], 0.25 + 0.75 * min(ious[i] * 3, 1)) for i in order
    ]
    height, width = picture.pixels.shape[:2]
    background = _background(picture.pixels)
    objects = [_box(box) for box in picture.objects]
    return BoxPicture(title, width, height, background, negatives, objects)


def attention(shown: Attention, title: str) -> AttentionPicture:
    """Shows what a point attends to: the brighter, the more.

    Args:
      shown: the image, the point and its attention.
      title: what is shown.
    """
    height, width = shown.pixels.shape[:2]
    share = shown.weights / (shown.weights.max() or 1)
    # Transparent where the point attends most, dark where it does not.
    veil = np.zeros((*share.shape, 4), np.uint8)
    veil[..., 3] = np.round(205 * (1 - np.sqrt(share)))
    encoded = pictures.data_uri(Image.fromarray(veil, "RGBA"), "PNG")
    y, x = shown.point
    return AttentionPicture(title, width, height, _background(shown.pixels), encoded, (x, y))


def _box(box: np.ndarray) -> Box:
    ymin, xmin, ymax, xmax = box
    return Box(xmin, ymin, max(xmax - xmin, 0), max(ymax - ymin, 0))


def _background(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return pictures.data_uri(image, "JPEG")
