"""Checks of image files: can they be decoded, and will Model Garden's input decode them alike?"""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
import stat

from PIL import Image

# What `tf.io.decode_image(..., channels=3)`, Model Garden's input, turns into the same RGB pixels
# as Pillow does. "MPO" is what phones write: a JPEG with further pictures after its end.
_RECORD_MODES = {
    "JPEG": ("L", "RGB"),
    "MPO": ("L", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
}
_CONVERTIBLE_FORMATS = ("BMP", "GIF", "TIFF", "WEBP")
_DEEP_MODES = ("I", "F")
_EXIF_ORIENTATION = 0x0112
_EXIF_UPRIGHT = 1
_EXIF_TURNED = range(2, 9)
_EXIF_TRANSPOSED = 5  # From this value on, a viewer shows width and height exchanged.


class ImageError(Exception):
    """Why an image cannot be used; `str()` of it is the kind of problem."""


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What a decoded image file is.

    Attributes:
      width: `int`, pixels as stored.
      height: `int`, pixels as stored.
      encoding: `str`, format and mode, such as "JPEG RGB".
      digest: `str`, SHA-256 of the file's bytes.
      needs_conversion: `bool`, whether it has to be re-encoded for Model Garden.
      orientation: `int`, the EXIF orientation, 1..8; 1 is upright, or not known.
    """

    width: int
    height: int
    encoding: str
    digest: str
    needs_conversion: bool
    orientation: int

    @property
    def shown_transposed(self):
        """Whether a viewer that follows EXIF shows width and height exchanged."""
        return self.orientation >= _EXIF_TRANSPOSED

    @property
    def shown_as_stored(self):
        """Whether a viewer that follows EXIF shows the pixels as they are stored."""
        return self.orientation == _EXIF_UPRIGHT


def require_inside(root, file_name):
    """Checks that an image file is there, below the folder of images.

    Args:
      root: `pathlib.Path`, the resolved folder of images.
      file_name: `str`, relative to `root`, as the annotation file gives it.

    Raises:
      ImageError: if the name or a symbolic link leads out of the folder, or no file is there.
    """
    relative = pathlib.PurePath(file_name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in file_name:
        raise ImageError(
            f"file_name leads out of {root.name}/: give names relative to {root.name}/"
        )
    try:
        resolved = (root / relative).resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError):
        raise ImageError(
            f"image listed but not in {root.name}/: add the file or drop its entry"
        ) from None
    if not resolved.is_relative_to(root):
        raise ImageError(f"symbolic link leads out of {root.name}/: put the file itself there")
    if not stat.S_ISREG(mode):
        raise ImageError(f"not a file: {root.name}/ must hold image files under the listed names")
    if not os.access(resolved, os.R_OK):
        raise ImageError("image may not be read: change its permissions")


def inspect_image(path):
    """Reads and decodes one image file.

    Args:
      path: `pathlib.Path` of a regular file.

    Returns:
      `ImageFacts`.

    Raises:
      ImageError: if the file is not an image, is damaged, or is of an unsupported kind.
    """
    encoded = path.read_bytes()
    if not encoded:
        raise ImageError("empty image file: replace it")
    try:
        image = Image.open(io.BytesIO(encoded))
        num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise ImageError("image has too many pixels to decode safely: cut it up") from error
    except Exception as error:
        raise ImageError("not an image: replace the file or drop its entry") from error
    _check_supported(image.format, image.mode, num_frames)
    try:
        if image.format == "PNG":
            # Pillow decodes a PNG without its end, TensorFlow does not; this reads every checksum.
            Image.open(io.BytesIO(encoded)).verify()
        image.load()
        orientation = _orientation(image)
    # Pillow's decoders raise all sorts of things (SyntaxError, struct.error, ...) on broken files.
    except Exception as error:
        raise ImageError(
            "truncated or damaged image: replace the file or drop its entry"
        ) from error
    return ImageFacts(
        width=image.width,
        height=image.height,
        encoding=f"{image.format} {image.mode}",
        digest=hashlib.sha256(encoded).hexdigest(),
        needs_conversion=image.mode not in _RECORD_MODES.get(image.format, ()),
        orientation=orientation,
    )


def inspect_images(paths):
    """Reads and decodes image files in parallel threads (Pillow decodes outside Python's lock).

    Args:
      paths: list of `pathlib.Path`.

    Yields:
      For each path, in order: `ImageFacts`, or the `ImageError` that says why there are none.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_inspect_or_problem, paths)


def encode_as_png(encoded):
    """Re-encodes an image without loss as 8-bit RGB PNG.

    Args:
      encoded: `bytes` of an image file that passed `inspect_image`.

    Returns:
      `bytes` of the PNG file.
    """
    buffer = io.BytesIO()
    Image.open(io.BytesIO(encoded)).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _inspect_or_problem(path):
    try:
        return inspect_image(path)
    except ImageError as problem:
        return problem
    except OSError as error:
        return ImageError(f"image cannot be read ({error.strerror}): mend the disk or the file")


def _orientation(image):
    value = image.getexif().get(_EXIF_ORIENTATION)
    # Cameras write 0 for what they do not know, and some programs a text.
    return value if isinstance(value, int) and value in _EXIF_TURNED else _EXIF_UPRIGHT


def _check_supported(image_format, mode, num_frames):
    if image_format not in _RECORD_MODES and image_format not in _CONVERTIBLE_FORMATS:
        raise ImageError(f"unsupported format {image_format}: convert to JPEG or PNG")
    if mode.split(";")[0] in _DEEP_MODES:
        raise ImageError(
            "more than 8 bits per pixel: scale the values you care about to 0..255 and save as PNG"
        )
    if num_frames > 1:
        raise ImageError("animation or stack of several images: save the one you want as PNG")
