"""MMDetection's preprocessing of images: resize, normalise, pad."""

import tensorflow as tf
from official.vision.ops import preprocess_ops

from libra_tf.modeling.mmdetection.anchors import own_padded_size

# OpenCV rounds the weights of bilinear sampling to multiples of 1 / 2048 along each axis.
_WEIGHT_BITS = 11


def prepare(image: tf.Tensor, shorter: int, longer: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Prepares an image as MMDetection's test pipeline does.

    Args:
      image: uint8 `[height, width, 3]`, RGB.
      shorter: maximum length of the shorter side, in pixels.
      longer: maximum length of the longer side, in pixels.

    Returns:
      image: float32 `[H, W, 3]`, normalised, padded with zeros at the bottom and on the right to
        make both sides multiples of 32.
      image_info: float32 `[4, 2]`, rows with height and width of the original, height and width of
        the resized image without padding, the scale between the two, and zeros; see Model Garden's
        `resize_and_crop_image`.
    """
    normalized, image_info = resize_and_normalize(image, shorter, longer)
    return _pad(normalized, own_padded_size(tf.shape(normalized)[:2])), image_info


def pad_for_training(
    normalized: tf.Tensor, original_size: tf.Tensor, shorter: int, longer: int
) -> tf.Tensor:
    """Pads an image to one of two shapes; MMDetection pads to the largest image of the batch.

    Args:
      normalized: float32 `[height, width, 3]`, the result of `resize_and_normalize`.
      original_size: `[2]`, height and width of the image as it is stored.
      shorter: see `prepare`.
      longer: see `prepare`.

    Returns:
      float32 `[H, W, 3]`, padded with zeros to the smallest multiples of 32 that hold every image
      whose width is at least its height, or whose width is less.
    """
    landscape = own_padded_size(tf.constant([shorter, longer]))
    return _pad(normalized, tf.where(is_portrait(original_size), landscape[::-1], landscape))


def is_portrait(size: tf.Tensor) -> tf.Tensor:
    """Returns whether an image is taller than wide, bool scalar.

    Args:
      size: `[2]`, height and width of the image as it is stored.
    """
    return size[1] < size[0]


def resize_and_normalize(
    image: tf.Tensor, shorter: int, longer: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the image without padding and its `image_info`.

    Args:
      image: see `prepare`.
      shorter: see `prepare`.
      longer: see `prepare`.
    """
    original = tf.shape(image)[:2]
    size = resized_size(original, shorter, longer)
    resized = tf.cast(resize(image, size), tf.float32)
    normalized = preprocess_ops.normalize_image(
        resized, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB
    )
    sizes = tf.cast([original, size], tf.float32)
    return normalized, tf.concat([sizes, sizes[1:] / sizes[:1], tf.zeros([1, 2])], axis=0)


def _pad(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    padding = size - tf.shape(image)[:2]
    padded = tf.pad(image, [[0, padding[0]], [0, padding[1]], [0, 0]])
    return tf.ensure_shape(padded, [None, None, 3])


def resized_size(size: tf.Tensor, shorter: int, longer: int) -> tf.Tensor:
    """Returns the largest size with the same aspect ratio that fits.

    It is at least one pixel high and wide. MMDetection, in contrast, fails on images so thin that a
    side is rounded to zero.

    Args:
      size: int32 `[2]`, height and width.
      shorter: see `prepare`.
      longer: see `prepare`.

    Returns:
      int32 `[2]`, height and width.
    """
    size = tf.cast(size, tf.float64)
    scale = tf.minimum(longer / tf.reduce_max(size), shorter / tf.reduce_min(size))
    return tf.maximum(tf.cast(size * scale + 0.5, tf.int32), 1)


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes exactly as OpenCV's bilinear `resize` of 8-bit images, to the last bit.

    OpenCV computes with integers: it rounds the weights, and the sums after the first axis.

    Args:
      image: uint8 `[height, width, channels]`.
      size: int32 `[2]`, height and width of the result.

    Returns:
      uint8 `[*size, channels]`.
    """
    pixels = tf.cast(image, tf.int32)
    left, right, left_weight, right_weight = _samples(tf.shape(image)[1], size[1], True)
    rows = tf.gather(pixels, left, axis=1) * left_weight[:, tf.newaxis]
    rows += tf.gather(pixels, right, axis=1) * right_weight[:, tf.newaxis]
    rows = tf.bitwise.right_shift(rows, 4)
    upper, lower, upper_weight, lower_weight = _samples(tf.shape(image)[0], size[0], False)
    upper, lower = (
        tf.bitwise.right_shift(
            tf.gather(rows, indices, axis=0) * weights[:, tf.newaxis, tf.newaxis], 16
        )
        for indices, weights in ((upper, upper_weight), (lower, lower_weight))
    )
    return tf.cast(tf.bitwise.right_shift(upper + lower + 2, 2), tf.uint8)


def _samples(
    length: tf.Tensor, new_length: tf.Tensor, whole_at_borders: bool
) -> tuple[tf.Tensor, ...]:
    """Returns which pixels to interpolate along one axis, and their weights.

    Args:
      length: int32 scalar, number of pixels before resizing.
      new_length: int32 scalar, number of pixels after resizing.
      whole_at_borders: whether samples beyond the outermost pixels put all weight on the first of
        the two pixels, which are then the same. This affects only the rounding.

    Returns:
      Four int32 tensors `[new_length]`: indices of the pixels before and after each sample, and
      their weights, in units of 1 / 2048.
    """
    scale = tf.cast(length, tf.float64) / tf.cast(new_length, tf.float64)
    position = (tf.cast(tf.range(new_length), tf.float64) + 0.5) * scale - 0.5
    position = tf.cast(position, tf.float32)
    before = tf.floor(position)
    fraction = position - before
    before = tf.cast(before, tf.int32)
    if whole_at_borders:
        is_inside = (before >= 0) & (before < length - 1)
        fraction = tf.where(is_inside, fraction, 0.0)
    before, after = (tf.clip_by_value(x, 0, length - 1) for x in (before, before + 1))
    # TensorFlow and OpenCV both round half to even.
    weights = (
        tf.cast(tf.round(weight * 2**_WEIGHT_BITS), tf.int32) for weight in (1 - fraction, fraction)
    )
    return before, after, *weights
