"""Resizing of feature maps between any two sizes: adaptive max pooling and nearest neighbour."""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

# An int where it is known when the graph is built, else an int scalar.
Size: TypeAlias = int | tf.Tensor


def adaptive_max_pool2d(x: tf.Tensor, output_size: Sequence[Size]) -> tf.Tensor:
    """Max-pools a feature map to a given size, whatever its own size.

    Output cell i of an axis that goes from n to o covers the inputs from `floor(i * n / o)` to
    `ceil((i + 1) * n / o)`, as in PyTorch. The cells overlap if o does not divide n. If several
    inputs of a cell are the largest, the first of them gets the whole gradient.

    Args:
      x: float `[B, H, W, C]`; any dimension may be unknown until run time.
      output_size: height h and width w, positive.

    Returns:
      `[B, h, w, C]`, in the dtype of `x`. Static sizes give a static shape.

    Raises:
      ValueError: if `x` is not of rank 4 or a static size is not positive.
    """
    x, (height, width), (out_height, out_width) = _validated(x, output_size)
    if _divides(out_height, height) and _divides(out_width, width):
        window = (height // out_height, width // out_width)
        return x if window == (1, 1) else tf.nn.max_pool2d(x, window, window, "VALID")
    # A maximum over a rectangle is a maximum over its rows, then over its columns.
    x = _adaptive_max_pool_axis(x, 1, height, out_height)
    return _adaptive_max_pool_axis(x, 2, width, out_width)


def resize_nearest2d(x: tf.Tensor, output_size: Sequence[Size]) -> tf.Tensor:
    """Resizes a feature map to any size, each output copying one input.

    Output i of an axis that goes from n to o is input `floor(i * n / o)`, like PyTorch's "nearest",
    but computed in integers: in float32 i * (n / o) can fall just below a whole number.

    Args:
      x: `[B, H, W, C]`, of any dtype; any dimension may be unknown until run time.
      output_size: height h and width w, positive.

    Returns:
      `[B, h, w, C]`, in the dtype of `x`. Static sizes give a static shape.

    Raises:
      ValueError: if `x` is not of rank 4 or a static size is not positive.
    """
    x, (height, width), (out_height, out_width) = _validated(x, output_size)
    if _divides(height, out_height) and _divides(width, out_width):
        return _repeat(x, out_height // height, out_width // width)
    for axis, size, out_size in ((1, height, out_height), (2, width, out_width)):
        if not _same(size, out_size):
            x = tf.gather(x, tf.range(out_size) * size // out_size, axis=axis)
    return x


def add_nearest2d(x: tf.Tensor, coarse: tf.Tensor) -> tf.Tensor:
    """Resizes a feature map to the size of another one and adds it.

    The same as `x + resize_nearest2d(coarse, size of x)`. If h divides H and w divides W, the
    resized map, as large as `x`, is never created.

    Args:
      x: `[B, H, W, C]`.
      coarse: `[B, h, w, C]`, in the dtype of `x`.

    Returns:
      `[B, H, W, C]`, in the same dtype.

    Raises:
      ValueError: if `coarse` is not of rank 4.
    """
    coarse, (coarse_height, coarse_width), (height, width) = _validated(coarse, spatial_size(x))
    if not (_divides(coarse_height, height) and _divides(coarse_width, width)):
        return x + resize_nearest2d(coarse, (height, width))
    channels = tf.shape(x)[3] if x.shape[3] is None else x.shape[3]
    row = _repeat(coarse, 1, width // coarse_width)
    rows = tf.reshape(x, [-1, height // coarse_height, width * channels])
    added = rows + tf.reshape(row, [-1, 1, width * channels])
    return tf.reshape(added, [-1, height, width, channels])


def spatial_size(x: tf.Tensor) -> tuple[Size, Size]:
    """Returns the height and width of a feature map, each an int if known, else an int32 scalar.

    Args:
      x: `[B, H, W, C]`.
    """
    dynamic = tf.shape(x)
    return tuple(dynamic[axis] if x.shape[axis] is None else x.shape[axis] for axis in (1, 2))


def _validated(
    x: tf.Tensor, output_size: Sequence[Size]
) -> tuple[tf.Tensor, tuple[Size, Size], tuple[Size, Size]]:
    """Checks the arguments and returns the map, its size and its new size."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank != 4:
        raise ValueError(f"A feature map must be [B, H, W, C], got a tensor of shape {x.shape}.")
    output_size = tuple(_static_if_known(size) for size in output_size)
    if len(output_size) != 2 or any(_is_static(size) and size < 1 for size in output_size):
        raise ValueError(f"`output_size` must be two positive sizes (h, w), got {output_size}.")
    return x, spatial_size(x), output_size


def _static_if_known(size: Size) -> Size:
    static = tf.get_static_value(size) if tf.is_tensor(size) else size
    return size if static is None else int(static)


def _is_static(size: Size) -> bool:
    return isinstance(size, int)


def _same(a: Size, b: Size) -> bool:
    """Returns whether two sizes are known to be equal."""
    return _is_static(a) and _is_static(b) and a == b


def _divides(divisor: Size, size: Size) -> bool:
    """Returns whether a size is known to be a multiple of another."""
    return _is_static(divisor) and _is_static(size) and size % divisor == 0


def _adaptive_max_pool_axis(x: tf.Tensor, axis: int, size: Size, out_size: Size) -> tf.Tensor:
    if _same(size, out_size):
        return x
    cell = tf.range(out_size)
    start = cell * size // out_size
    last = ((cell + 1) * size - 1) // out_size  # ceil((i + 1) * n / o) - 1
    # Every cell is laid out as wide as the widest; narrower ones repeat their last input.
    widest = tf.reduce_max(last - start) + 1
    covered = tf.minimum(start[:, None] + tf.range(widest), last[:, None])
    laid_out = tf.gather(x, tf.reshape(covered, [-1]), axis=axis)
    window = [1, 1, 1, 1]
    window[axis] = widest
    # Unlike tf.nn.max_pool2d, the raw operation takes a window that is known only at run time.
    pooled = tf.raw_ops.MaxPoolV2(input=laid_out, ksize=window, strides=window, padding="VALID")
    shape = x.shape.as_list()
    shape[axis] = out_size if _is_static(out_size) else None
    return tf.ensure_shape(pooled, shape)


def _repeat(x: tf.Tensor, row_repeats: int, column_repeats: int) -> tf.Tensor:
    """Repeats every row and every column of a feature map.

    Concatenating a tensor with itself along one axis and reshaping repeats the elements of the axis
    before it. That is two to three times faster than a gather or a tile, above all in the gradient.
    """
    _, height, width, channels = x.shape
    channels = tf.shape(x)[3] if channels is None else channels
    if column_repeats > 1:
        x = tf.concat([x] * column_repeats, axis=3)
    if row_repeats > 1:
        rows = tf.reshape(x, [-1, height, width * column_repeats * channels])
        x = tf.concat([rows] * row_repeats, axis=2)
    return tf.reshape(x, [-1, height * row_repeats, width * column_repeats, channels])
