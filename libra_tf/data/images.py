"""Checks of image files: can they be decoded, and does Model Garden decode them the same way?"""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence

from PIL import Image, ImageOps

# Formats and modes that `tf.io.decode_image(..., channels=3)`, which Model Garden's input uses,
# decodes to the same RGB pixels as Pillow. "MPO" is what phones write: a JPEG with further pictures
# after its end.
_RECORD_MODES = {
    "JPEG": ("L", "RGB"),
    "MPO": ("L", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
}
_CONVERTIBLE_FORMATS = ("BMP", "GIF", "TIFF", "WEBP")
_DEEP_MODES = ("I", "F")
_TOO_LARGE = "image has too many pixels to decode safely: split it into smaller images"
_EXIF_ORIENTATION = 0x0112
_EXIF_UPRIGHT = 1
_EXIF_TURNED = range(2, 9)
_EXIF_TRANSPOSED = 5  # From this value on, viewers swap width and height.


class ImageError(Exception):
    """An image cannot be used; the message is the kind of problem and does not name the image."""


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What is known about an image file that was decoded.

    Attributes:
      width: pixels as stored.
      height: pixels as stored.
      encoding: format and mode, such as "JPEG RGB".
      digest: SHA-256 of the file's bytes.
      needs_conversion: whether it has to be re-encoded for Model Garden.
      orientation: EXIF orientation, 1..8; 1 means upright or unknown.
    """

    width: int
    height: int
    encoding: str
    digest: str
    needs_conversion: bool
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in a viewer that follows EXIF."""
        return _upright(self.width, self.height, self.orientation)

    @property
    def shown_as_stored(self) -> bool:
        """Whether a viewer that follows EXIF shows the pixels as they are stored."""
        return self.orientation == _EXIF_UPRIGHT


def require_inside(root: pathlib.Path, file_name: str) -> None:
    """Checks that an image file exists inside the folder of images.

    Args:
      root: the folder of images, resolved.
      file_name: path relative to `root`, as the annotation file gives it.

    Raises:
      ImageError: if the name or a symbolic link points outside the folder, or there is no readable
        file.
    """
    relative = pathlib.PurePath(file_name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in file_name:
        raise ImageError(
            f"file_name points outside {root.name}/: use names relative to {root.name}/"
        )
    try:
        resolved = (root / relative).resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError):
        raise ImageError(
            f"image listed but not in {root.name}/: add the file or remove its entry"
        ) from None
    if not resolved.is_relative_to(root):
        raise ImageError(f"symbolic link points outside {root.name}/: put the file itself there")
    if not stat.S_ISREG(mode):
        raise ImageError(f"not a file: every name listed for {root.name}/ must be an image file")
    if not os.access(resolved, os.R_OK):
        raise ImageError("no permission to read the image: change the file's permissions")


def inspect_image(path: pathlib.Path) -> ImageFacts:
    """Reads and decodes one image file.

    Args:
      path: a regular file.

    Raises:
      ImageError: if the file is not an image, is damaged, or is of an unsupported kind.
    """
    encoded = path.read_bytes()
    if not encoded:
        raise ImageError("empty image file: replace it")
    try:
        image = Image.open(io.BytesIO(encoded))
        num_frames = _num_frames(image)
    except Image.DecompressionBombError as error:
        raise ImageError(_TOO_LARGE) from error
    except Exception as error:
        raise ImageError("not an image: replace the file or remove its entry") from error
    _check_supported(image.format, image.mode, num_frames)
    try:
        if image.format == "PNG":
            # Pillow accepts a PNG with its end missing; TensorFlow does not. This reads all
            # checksums.
            Image.open(io.BytesIO(encoded)).verify()
        image.load()
        orientation = _orientation(image)
    # Pillow's decoders raise all sorts of errors (SyntaxError, struct.error, ...) on broken files.
    except Exception as error:
        raise ImageError(
            "truncated or damaged image: replace the file or remove its entry"
        ) from error
    return ImageFacts(
        width=image.width,
        height=image.height,
        encoding=f"{image.format} {image.mode}",
        digest=hashlib.sha256(encoded).hexdigest(),
        needs_conversion=image.mode not in _RECORD_MODES.get(image.format, ()),
        orientation=orientation,
    )


def upright_size(path: pathlib.Path) -> tuple[int, int]:
    """Reads the size of an image without decoding it.

    Args:
      path: the image file.

    Returns:
      Width and height in pixels of the picture as viewers show it, by its EXIF orientation.

    Raises:
      ImageError: if the file is not an image.
    """
    return _upright(*_read_header(path))


def stored_size(path: pathlib.Path) -> tuple[int, int]:
    """Reads the size of an image without decoding it.

    Args:
      path: the image file.

    Returns:
      Width and height in pixels as stored, whatever its EXIF orientation.

    Raises:
      ImageError: if the file is not an image.
    """
    width, height, _ = _read_header(path)
    return width, height


def _read_header(path: pathlib.Path) -> tuple[int, int, int]:
    """Returns width, height and EXIF orientation."""
    try:
        with Image.open(path) as image:
            return *image.size, _orientation(image)
    except FileNotFoundError as error:
        raise ImageError("image listed but not there: add the file or remove its line") from error
    except Image.DecompressionBombError as error:
        raise ImageError(_TOO_LARGE) from error
    # As in `inspect_image`, all sorts of errors.
    except Exception as error:
        raise ImageError("not an image: replace the file or remove its entry") from error


def inspect_images(paths: Sequence[pathlib.Path]) -> Iterator[ImageFacts | ImageError]:
    """Reads and decodes image files in parallel threads (Pillow releases Python's lock).

    Args:
      paths: the files.

    Yields:
      For each path, in order, what is known about the image, or why it cannot be used.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_inspect_or_problem, paths)


def encode_as_png(encoded: bytes, is_turned: bool = False) -> bytes:
    """Re-encodes an image losslessly as 8-bit RGB PNG.

    Args:
      encoded: content of an image file that passed `inspect_image`.
      is_turned: whether to turn the pixels upright, by the EXIF orientation.

    Returns:
      Content of the PNG file.
    """
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(encoded))
    if is_turned:
        image = ImageOps.exif_transpose(image)
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def as_jpeg_or_png(encoded: bytes, turn_upright: bool = True) -> bytes:
    """Returns an image file in a form that detectors read, which know JPEG and PNG and no EXIF.

    Args:
      encoded: content of an image file.
      turn_upright: whether to turn a photograph as viewers that follow EXIF show it. Training does
        not.

    Returns:
      The same content if it can stay as it is, or if it is no image: the detector then says why
      it refuses it. Otherwise the content of an 8-bit RGB PNG file.

    Raises:
      ImageError: if the image would have to be changed but is damaged, or is of an unsupported
        kind.
    """
    try:
        image = Image.open(io.BytesIO(encoded))
    # What foreign bytes make Pillow raise varies.
    except Exception:
        return encoded
    is_read_as_it_is = image.format in _RECORD_MODES
    try:
        orientation = _orientation(image) if turn_upright else _EXIF_UPRIGHT
        if is_read_as_it_is and orientation == _EXIF_UPRIGHT:
            return encoded
        _check_supported(image.format, image.mode, _num_frames(image))
        shown = ImageOps.exif_transpose(image) if orientation != _EXIF_UPRIGHT else image
        return png_of(shown.convert("RGB"))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("is truncated or damaged") from error


def png_of(picture: Image.Image) -> bytes:
    """Encodes a picture as PNG for reading it at once: speed counts more than size."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _inspect_or_problem(path: pathlib.Path) -> ImageFacts | ImageError:
    try:
        return inspect_image(path)
    except ImageError as problem:
        return problem
    except OSError as error:
        return ImageError(
            f"image cannot be read ({error.strerror}): check the disk or replace the file"
        )


def _upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= _EXIF_TRANSPOSED else (width, height)


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION)
    # Cameras write 0 for "unknown", and some programs write text.
    return value if isinstance(value, int) and value in _EXIF_TURNED else _EXIF_UPRIGHT


def _num_frames(image: Image.Image) -> int:
    # The further pictures of an MPO are not meant to be seen.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _check_supported(image_format: str | None, mode: str, num_frames: int) -> None:
    if image_format not in _RECORD_MODES and image_format not in _CONVERTIBLE_FORMATS:
        raise ImageError(f"unsupported format {image_format}: convert to JPEG or PNG")
    if mode.split(";")[0] in _DEEP_MODES:
        raise ImageError(
            "more than 8 bits per channel: scale the relevant range to 0..255 and save as PNG"
        )
    if num_frames > 1:
        raise ImageError("animation or multi-page image: save the frame that you want as PNG")
