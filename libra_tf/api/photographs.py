"""The images that a caller gives: files, arrays and Pillow images."""

import collections.abc
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from libra_tf.cli import image_files
from libra_tf.cli.errors import UsageError
from libra_tf.data import images as data_images

Source: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image

_KINDS = "the path of a file, an array (uint8, [height, width, 3], RGB) or a Pillow image"
# Modes of Pillow with more than 8 bits in a channel.
_DEEP_MODES = ("I", "F")


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One image to detect objects in.

    Attributes:
      name: what an error calls it: its path, or its place among the images.
      source: where its pixels are. They are read when they are needed, and not kept.
    """

    name: str
    source: Source

    def encoded(self) -> bytes:
        """Returns it as a JPEG or PNG file, upright.

        Raises:
          UsageError: if there is no such image.
        """
        if isinstance(self.source, np.ndarray):
            return self._encode_array(self.source)
        if isinstance(self.source, Image.Image):
            return self._encode_picture(self.source)
        if isinstance(self.source, (str, os.PathLike)):
            return self._read_file(pathlib.Path(self.source))
        raise UsageError(f"{self.name} is of type {type(self.source).__name__}; give {_KINDS}")

    def open(self) -> Image.Image:
        """Returns its picture, upright."""
        return Image.open(io.BytesIO(self.encoded()))

    def _read_file(self, path: pathlib.Path) -> bytes:
        try:
            return data_images.as_jpeg_or_png(path.read_bytes())
        except OSError as error:
            raise UsageError(f"{self.name} cannot be read ({error.strerror})") from error
        except data_images.ImageError as error:
            raise UsageError(f"{self.name}: {error}") from error

    def _encode_array(self, array: np.ndarray) -> bytes:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
            raise UsageError(
                f"{self.name} is an array of {array.dtype} with the shape {list(array.shape)}; "
                f"give {_KINDS}"
            )
        return data_images.png_of(Image.fromarray(array))

    def _encode_picture(self, picture: Image.Image) -> bytes:
        if picture.mode.startswith(_DEEP_MODES):
            raise UsageError(
                f"{self.name} has the mode {picture.mode}, more than 8 bits in a channel; scale "
                "the relevant range to 0..255"
            )
        try:
            return data_images.png_of(ImageOps.exif_transpose(picture).convert("RGB"))
        # Pillow reads the file of an image only now, and what a damaged one makes it raise varies.
        except Exception as error:
            raise UsageError(f"{self.name} is truncated or damaged ({error})") from error


def is_single(images: Any) -> bool:
    """Returns whether the caller gives one image: a file, a 3-D array or a Pillow image."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    if isinstance(images, (str, os.PathLike)):
        return os.path.isfile(images)
    return isinstance(images, Image.Image)


def photographs(images: Source | Iterable[Source]) -> Iterator[Photograph]:
    """Yields what the caller gives, one image after another.

    Args:
      images: one image, a folder, a pattern such as `photos/*.jpg`, or several of these.

    Raises:
      UsageError: if it is none of these, or there are no images in a folder.
    """
    if isinstance(images, (str, os.PathLike)):
        yield from _files(images)
    elif is_single(images):
        yield Photograph("the image", images)
    elif isinstance(images, collections.abc.Iterable):
        for place, source in enumerate(images):
            if isinstance(source, (str, os.PathLike)):
                yield from _files(source)
            else:
                yield Photograph(f"images[{place}]", source)
    else:
        raise UsageError(
            f"images is of type {type(images).__name__}; give {_KINDS}, a folder, or several of "
            "these"
        )


def _files(path: str | os.PathLike[str]) -> Iterator[Photograph]:
    """Yields the images of a file, a folder or a pattern."""
    for file in image_files.find([os.fspath(path)]):
        yield Photograph(str(file.path), file.path)
