"""Images inside a page, and places on them."""

import base64
import dataclasses
import io

from PIL import Image


@dataclasses.dataclass(frozen=True)
class Box:
    """A box, in pixels of its image.

    Attributes:
      left: its left edge.
      top: its upper edge.
      width: its width.
      height: its height.
    """

    left: float
    top: float
    width: float
    height: float


def data_uri(image: Image.Image, image_format: str, **options: int) -> str:
    """Returns an image as a `data:` URI.

    Args:
      image: the image.
      image_format: `JPEG` or `PNG`.
      **options: of Pillow's writer of that format, such as `quality`.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"
