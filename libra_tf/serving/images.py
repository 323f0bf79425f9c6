"""Decoding of images of any size inside a served graph, with errors that name the image.

Everything is TensorFlow operations, so it runs wherever a SavedModel does.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
from official.vision.ops import preprocess_ops

# 25 megapixels: 75 MB as pixels, more than any phone's ordinary picture. What a file declares costs
# its sender nothing; a PNG of a few kilobytes can declare gigabytes.
MAX_PIXELS = 25_000_000

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"


def decode_and_letterbox(
    encoded: tf.Tensor,
    output_size: Sequence[int],
    padded_size: Sequence[int],
    max_pixels: int = MAX_PIXELS,
    keep_aspect_ratio: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch of JPEG and PNG files and brings them to the size of the network's input.

    Args:
      encoded: string `[B]`, the bytes of the files.
      output_size: see `letterbox`.
      padded_size: see `letterbox`.
      max_pixels: the most that height times width of an image may be.
      keep_aspect_ratio: see `letterbox`.

    Returns:
      What `letterbox` does, stacked.

    Raises:
      tf.errors.InvalidArgumentError: when run, if any of them is not an image, is damaged, or has
        too many pixels; the message names each by its place in the batch and says why.
    """

    def one(file):
        image, problem = decode(file, max_pixels)
        image, image_info = letterbox(image, output_size, padded_size, keep_aspect_ratio)
        return image, image_info, problem

    specs = (*letterbox_specs(padded_size), tf.TensorSpec([], tf.string))
    images, image_info, problems = tf.map_fn(one, encoded, fn_output_signature=specs)
    with tf.control_dependencies([assert_no_problems(problems)]):
        return tf.identity(images), image_info


def decode(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a JPEG or PNG file, as Model Garden's input does, or says why it cannot be.

    Args:
      encoded: string scalar, the bytes of the file.
      max_pixels: the most that height times width may be; nothing larger is decoded.

    Returns:
      image: uint8 `[height, width, 3]`, a black pixel if there is a problem.
      problem: string scalar, empty if there is none.
    """
    is_png = _starts_with(encoded, _PNG_MAGIC)
    has_known_format = is_png | _starts_with(encoded, _JPEG_MAGIC)
    size = _or_else(lambda: _declared_size(encoded, is_png), tf.zeros([2], tf.int32))
    is_small_enough = tf.reduce_prod(tf.cast(size, tf.int64)) <= max_pixels
    readable = tf.where(has_known_format & is_small_enough, encoded, "")
    image = _or_else(lambda: _decode(readable), tf.zeros([0, 0, 3], tf.uint8))
    is_empty = tf.size(image) == 0
    image = tf.cond(is_empty, lambda: tf.zeros([1, 1, 3], tf.uint8), lambda: image)
    too_large = tf.strings.format(
        f"has {{}} pixels (height, width), and at most {max_pixels} in all are accepted", size
    )
    problem = tf.where(is_empty, "is truncated or damaged", "")
    problem = tf.where(is_small_enough, problem, too_large)
    return image, tf.where(has_known_format, problem, "is not a JPEG or PNG file")


def letterbox(
    image: tf.Tensor,
    output_size: Sequence[int],
    padded_size: Sequence[int],
    keep_aspect_ratio: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings an image to the size of the network's input, as Model Garden's parsers do.

    They normalise first, in float32 and in the size of the photograph. Resizing first gives the
    same up to rounding, in less time and memory. They fail on an image so thin that its shorter
    side is rounded to nothing; here it becomes one pixel.

    Args:
      image: uint8 `[height, width, 3]`.
      output_size: the image fits into these `[height, width]`.
      padded_size: `[height, width]` of the result, which is padded at the bottom and on the right.
      keep_aspect_ratio: whether it is not stretched to fill them.

    Returns:
      image: float32 `[*padded_size, 3]`, normalised.
      image_info: float32 `[4, 2]`: height and width of the original, of `output_size`, the scale
        between original and resized, and the offset; see `resize_and_crop_image`.
    """
    resized, image_info = resize_to_fit(image, output_size, keep_aspect_ratio)
    normalized = preprocess_ops.normalize_image(
        resized, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB
    )
    return tf.image.pad_to_bounding_box(normalized, 0, 0, *padded_size), image_info


def resize_to_fit(
    image: tf.Tensor, output_size: Sequence[int], keep_aspect_ratio: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes an image as Model Garden's parsers do, before normalising and padding.

    Args:
      image: see `letterbox`.
      output_size: see `letterbox`.
      keep_aspect_ratio: see `letterbox`.

    Returns:
      image: float32 `[h, w, 3]`, in 0..255.
      image_info: see `letterbox`.
    """
    original, fitting = tf.cast(tf.shape(image)[:2], tf.float32), tf.cast(output_size, tf.float32)
    scaled = fitting
    if keep_aspect_ratio:
        scaled = tf.maximum(tf.round(original * tf.reduce_min(fitting / original)), 1.0)
    resized = tf.image.resize(image, tf.cast(scaled, tf.int32))
    return resized, tf.stack([original, fitting, scaled / original, tf.zeros([2])])


def letterbox_specs(padded_size: Sequence[int]) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """Returns the shapes and types of what `letterbox` gives."""
    return tf.TensorSpec([*padded_size, 3], tf.float32), tf.TensorSpec([4, 2], tf.float32)


def _starts_with(encoded: tf.Tensor, magic: bytes) -> tf.Tensor:
    # A file that is shorter gives fewer bytes.
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def _declared_size(encoded: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    """Reads height and width from the head of a file; fails where it has none."""

    def of_png():
        width_and_height = tf.strings.substr(encoded, 16, 8)
        return tf.io.decode_raw(width_and_height, tf.int32, little_endian=False)[1::-1]

    return tf.cond(is_png, of_png, lambda: tf.image.extract_jpeg_shape(encoded)[:2])


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def _or_else(make: Callable[[], tf.Tensor], fallback: tf.Tensor) -> tf.Tensor:
    """Gives what `make` gives, and `fallback` if one of its operations fails.

    A graph has no exceptions; a data set that ignores errors is the nearest to it.
    """
    attempt = tf.data.Dataset.from_tensors(0).map(lambda _: make()).ignore_errors()
    otherwise = tf.data.Dataset.from_tensors(fallback)
    return attempt.concatenate(otherwise).take(1).get_single_element()


def assert_no_problems(problems: tf.Tensor) -> tf.Operation:
    """Fails, when run, if any of the problems `[B]` that `decode` has found is not empty."""
    where = tf.squeeze(tf.where(problems != ""), axis=-1)
    places = tf.strings.as_string(where)
    lines = tf.strings.join(["image ", places, " of the batch ", tf.gather(problems, where)])
    message = tf.strings.reduce_join(lines, separator="; ")
    return tf.debugging.Assert(tf.size(where) == 0, [message], summarize=1)
