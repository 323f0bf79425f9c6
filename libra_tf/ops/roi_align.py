"""RoIAlign (He et al., ICCV 2017) as MMDetection computes it, with static shapes.

Every cell of the output averages bilinear samples on a regular grid inside it. By default there is
one sample for every pixel of the cell in each direction, rounded up, so their number depends on the
box. The average over a grid is separable: a box needs two small matrices, with the weight of each
row and each column of the map in each cell. Their sizes do not depend on the box, and the sums over
the samples have a closed form, so nothing depends on the number of samples.

In one direction, a bilinear sample at s takes max(0, 1 - |s - i|) of pixel i: a triangle. With the
ramp r(t) = max(0, t), it is

    max(0, 1 - |t|) = r(t + 1) - 2 r(t) + r(t - 1).

The samples of a cell lie at equal steps, s = first + k step for k = 0, 1, ..., n - 1, so the sum of
a ramp over them is that of an arithmetic series, from the first k at which it is above 0. The
weight of pixel i in the cell is three such sums (`_triangle_sums`, `_ramp_sums`), divided by n.
"""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

# Boxes to handle at a time; bounds the memory, [block, output_size, width, channels].
_BLOCK = 32

# The index of an image and a block of boxes: the weights of its rows and of its columns.
_Block: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def roi_align(
    features: tf.Tensor,
    boxes: tf.Tensor,
    spatial_scale: float,
    output_size: int = 7,
    sampling_ratio: int = 0,
    aligned: bool = True,
    where: tf.Tensor | None = None,
) -> tf.Tensor:
    """Crops boxes from a feature map and resizes them to one size.

    Gradients flow to the features, not to the boxes.

    Args:
      features: float `[B, H, W, C]`.
      boxes: float `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the image.
      spatial_scale: the size of the map divided by that of the image: one over its stride.
      output_size: height and width of the crops, in cells.
      sampling_ratio: samples per cell and direction; 0 for as many as the cell has pixels, rounded
        up.
      aligned: whether the centre of the first pixel is at 0.5. Otherwise it is at 0, and boxes
        count as at least one pixel high and wide.
      where: bool `[B, N]`, which boxes to crop; None for all. The others, and empty boxes, give
        zeros.

    Returns:
      `[B, N, output_size, output_size, C]`, in the dtype of `features`.
    """
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    height, width = tf.unstack(tf.shape(features)[1:3])
    start, end = tf.split(boxes * spatial_scale - (0.5 if aligned else 0.0), 2, axis=-1)
    size = end - start if aligned else tf.maximum(end - start, 1.0)
    rows = _cell_weights(start[..., 0], size[..., 0], height, output_size, sampling_ratio)
    columns = _cell_weights(start[..., 1], size[..., 1], width, output_size, sampling_ratio)
    if where is not None:
        rows = tf.where(where[..., tf.newaxis, tf.newaxis], rows, 0.0)
    return _apply(features, tf.cast(rows, features.dtype), tf.cast(columns, features.dtype))


def _cell_weights(
    start: tf.Tensor, size: tf.Tensor, length: tf.Tensor, num_cells: int, sampling_ratio: int
) -> tf.Tensor:
    """Returns the weight of each pixel of an axis in each cell.

    Args:
      start: float32 `[...]`, where boxes start, in pixels; the centre of pixel `i` is at `i`.
      size: float32 `[...]`, their sizes in pixels.
      length: int scalar, the number of pixels.
      num_cells: the number of cells of a box.
      sampling_ratio: as in `roi_align`.

    Returns:
      float32 `[..., num_cells, length]`. A row sums to one, or to less if samples lie outside the
      map.
    """
    cell = size / num_cells
    count = tf.maximum(tf.math.ceil(cell), 0.0)
    if sampling_ratio:
        count = tf.fill(tf.shape(cell), float(sampling_ratio))
    step = tf.maximum(cell / tf.maximum(count, 1.0), 1e-6)[..., tf.newaxis]
    count = count[..., tf.newaxis]
    first = start[..., tf.newaxis] + step / 2
    first += cell[..., tf.newaxis] * tf.range(num_cells, dtype=tf.float32)
    # Samples more than a pixel beyond the outermost centres count as zero.
    limit = tf.cast(length, tf.float32)
    skipped = tf.maximum(tf.math.ceil((-1.0 - first) / step), 0.0)
    inside = tf.minimum(count, tf.math.floor((limit - first) / step) + 1.0) - skipped
    first += skipped * step

    # One more pixel on either side: samples there take the value of the outermost pixel.
    pixels = tf.range(-1, length + 1)
    offset = tf.cast(pixels, tf.float32) - first[..., tf.newaxis]
    weights = _triangle_sums(offset, step[..., tf.newaxis], inside[..., tf.newaxis])
    before, inner, after = tf.split(weights, [1, length, 1], axis=-1)
    pixel = tf.range(length)
    inner += tf.where(pixel == 0, before, 0.0) + tf.where(pixel == length - 1, after, 0.0)
    return inner / tf.maximum(count, 1.0)[..., tf.newaxis]


def _triangle_sums(offset: tf.Tensor, step: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns the sum over k < count of max(0, 1 - |k * step - offset|); see the module.

    Args:
      offset: float32 `[..., length]`, how far a pixel lies behind the first sample.
      step: float32 `[..., 1]`, from sample to sample, positive.
      count: float32 `[..., 1]`, the number of samples.

    Returns:
      float32 `[..., length]`.
    """
    sums = (
        _ramp_sums(offset - 1.0, step, count)
        - 2.0 * _ramp_sums(offset, step, count)
        + _ramp_sums(offset + 1.0, step, count)
    )
    # Elsewhere the sum is 0, but large numbers would cancel only up to rounding.
    is_near = (offset > -1.0) & (offset < (count - 1.0) * step + 1.0)
    return tf.where(is_near & (count > 0.0), sums, 0.0)


def _ramp_sums(offset: tf.Tensor, step: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns the sum over k < count of r(k * step - offset), the ramp of `_triangle_sums`."""
    first = tf.clip_by_value(tf.math.floor(offset / step) + 1.0, 0.0, tf.maximum(count, 0.0))
    terms = count - first
    return terms * (first * step - offset) + step * terms * (terms - 1.0) / 2.0


def _apply(features: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Multiplies the map by the weights `[B, N, P, H]` and `[B, N, P, W]`, a block at a time."""
    num_boxes = tf.shape(rows)[1]
    num_blocks = (num_boxes + _BLOCK - 1) // _BLOCK
    row_blocks, column_blocks = (
        _in_blocks(weights, num_blocks * _BLOCK - num_boxes) for weights in (rows, columns)
    )
    num_images = tf.shape(features)[0]
    images = tf.repeat(tf.range(num_images), num_blocks)
    cells, channels = rows.shape[2], features.shape[3]

    def crop(features: tf.Tensor, block: _Block) -> tf.Tensor:
        image, row, column = block

        def crops() -> tf.Tensor:
            partial = tf.einsum("nph,hwc->npwc", row, features[image])
            return tf.matmul(column[:, tf.newaxis], partial)

        zeros = tf.zeros([_BLOCK, cells, cells, channels], features.dtype)
        return tf.cond(tf.reduce_any(row != 0), crops, lambda: zeros)

    def add_gradient(total: tf.Tensor, block: tuple[tf.Tensor, ...]) -> tf.Tensor:
        image, row, column, upstream = block

        def added() -> tf.Tensor:
            partial = tf.matmul(column[:, tf.newaxis], upstream, transpose_a=True)
            gradient = tf.einsum("nph,npwc->hwc", row, partial)
            return tf.tensor_scatter_nd_add(total, [[image]], gradient[tf.newaxis])

        return tf.cond(tf.reduce_any(row != 0), added, lambda: total)

    # TensorFlow's own gradient would keep the partial products of all blocks.
    @tf.custom_gradient
    def crop_all(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        crops = tf.map_fn(
            lambda block: crop(features, block),
            (images, row_blocks, column_blocks),
            fn_output_signature=tf.TensorSpec([_BLOCK, cells, cells, channels], features.dtype),
            parallel_iterations=1,
        )

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            blocks = (images, row_blocks, column_blocks, upstream)
            zeros = tf.zeros_like(features)
            return tf.foldl(add_gradient, blocks, zeros, parallel_iterations=1)

        return crops, gradient

    crops = tf.reshape(crop_all(features), [num_images, -1, cells, cells, channels])[:, :num_boxes]
    return tf.ensure_shape(crops, [features.shape[0], rows.shape[1], cells, cells, channels])


def _in_blocks(weights: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """`[B, N, P, length]` -> `[B * blocks, _BLOCK, P, length]`, padded with boxes of no weight."""
    weights = tf.pad(weights, [[0, 0], [0, padding], [0, 0], [0, 0]])
    return tf.reshape(weights, tf.concat([[-1, _BLOCK], tf.shape(weights)[2:]], axis=0))
