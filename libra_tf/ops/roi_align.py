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

Most boxes are far smaller than the map. So boxes are cropped a few at a time, from windows of the
smallest size (`_WINDOWS`) in which they fit.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

# Boxes to handle at a time; bounds the memory, [block, window, window, channels].
_BLOCK = 16
# Sides of the windows, in pixels of the map. What fits into none is cropped from the whole map.
_WINDOWS = (16, 32, 64)
# A window must be this many times smaller than the map, or copying it costs more than it saves.
_WORTHWHILE = 4


class _Sampling(NamedTuple):
    """How every box is sampled: `output_size` and `sampling_ratio` of `roi_align`."""

    num_cells: int
    ratio: int


class _Block(NamedTuple):
    """Some boxes of one image, to be cropped from windows of one size.

    Attributes:
      window: int32 scalar: 0 if there is nothing to crop, `i` for `_WINDOWS[i - 1]`, and
        `len(_WINDOWS) + 1` for the whole map.
      start: float32 `[_BLOCK, 2]`, y and x where boxes start, in pixels of the map; the centre of
        pixel `i` is at `i`.
      size: float32 `[_BLOCK, 2]`, height and width in pixels of the map.
      corner: int32 `[_BLOCK, 2]`, y and x of the first pixel of each window.
      rows: `[_BLOCK, cells, _WINDOWS[-1]]`, the weights of the window's rows in each cell. Those
        beyond the side of the window have no meaning.
      columns: the same for columns.
    """

    window: tf.Tensor
    start: tf.Tensor
    size: tf.Tensor
    corner: tf.Tensor
    rows: tf.Tensor
    columns: tf.Tensor


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

    Boxes that follow one another are cropped together, so it is fastest if they are sorted by size.
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
      where: bool `[B, N]`, which boxes to crop; None for all. The others give zeros. So do empty
        boxes, if `aligned` and `sampling_ratio` is 0.

    Returns:
      `[B, N, output_size, output_size, C]`, in the dtype of `features`.
    """
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    start, end = tf.split(boxes * spatial_scale - (0.5 if aligned else 0.0), 2, axis=-1)
    size = end - start if aligned else tf.maximum(end - start, 1.0)
    map_size = tf.shape(features)[1:3]
    first, last = _pixels_of(start, size, map_size)
    window = _smallest_window(first, last, map_size)
    if where is not None:
        window = tf.where(where, window, 0)
        # Boxes beside the map give zeros.
        start = tf.where(where[..., tf.newaxis], start, -tf.abs(size) - 2.0)
    sampling = _Sampling(output_size, sampling_ratio)
    blocks = _in_blocks(window, first, start, size, map_size, sampling, features.dtype)
    num_blocks = None if boxes.shape[1] is None else -(-boxes.shape[1] // _BLOCK)
    crop_shape = [output_size, output_size, features.shape[3]]
    crops = tf.map_fn(
        lambda image: _crop(*image, sampling),
        (features, blocks),
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec([num_blocks, _BLOCK, *crop_shape], features.dtype),
    )
    num_images, num_boxes = tf.unstack(tf.shape(boxes)[:2])
    crops = tf.reshape(crops, [num_images, tf.shape(crops)[1] * _BLOCK, *crop_shape])
    return tf.ensure_shape(crops[:, :num_boxes], [features.shape[0], boxes.shape[1], *crop_shape])


def _pixels_of(
    start: tf.Tensor, size: tf.Tensor, map_size: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first and the last pixel of the map that boxes reach, int32 `[B, N, 2]` each.

    Args:
      start: float32 `[B, N, 2]`; see `_Block`.
      size: float32 `[B, N, 2]`.
      map_size: int32 `[2]`.
    """
    ends = tf.stack([start, start + size])
    first = tf.math.floor(tf.reduce_min(ends, axis=0))
    last = tf.math.floor(tf.reduce_max(ends, axis=0)) + 1.0
    limit = tf.cast(map_size - 1, tf.float32)
    first, last = (tf.cast(tf.clip_by_value(x, 0.0, limit), tf.int32) for x in (first, last))
    return first, last


def _smallest_window(first: tf.Tensor, last: tf.Tensor, map_size: tf.Tensor) -> tf.Tensor:
    """Returns the index of the smallest window that holds each box, int32 `[B, N]`.

    Args:
      first: int32 `[B, N, 2]`; see `_pixels_of`.
      last: int32 `[B, N, 2]`, likewise.
      map_size: int32 `[2]`.
    """
    side = tf.reduce_max(last - first, axis=-1, keepdims=True) + 1
    windows = tf.constant(_WINDOWS)
    is_worthwhile = (windows**2 * _WORTHWHILE <= tf.reduce_prod(map_size)) & (
        windows <= tf.reduce_min(map_size)
    )
    fits = is_worthwhile & (side <= windows)
    always = tf.ones_like(fits[..., :1])
    return 1 + tf.argmax(tf.concat([fits, always], axis=-1), axis=-1, output_type=tf.int32)


def _in_blocks(
    window: tf.Tensor,
    first: tf.Tensor,
    start: tf.Tensor,
    size: tf.Tensor,
    map_size: tf.Tensor,
    sampling: _Sampling,
    dtype: tf.DType,
) -> _Block:
    """Returns the blocks of all images, stacked to `[B, blocks, ...]`, with padding at the end.

    Args:
      window: int32 `[B, N]`, what each box needs.
      first: int32 `[B, N, 2]`, the first pixel of each box; see `_pixels_of`.
      start: float32 `[B, N, 2]`; see `_Block`.
      size: float32 `[B, N, 2]`.
      map_size: int32 `[2]`.
      sampling: how a box is sampled.
      dtype: of the weights.
    """
    num_images, num_boxes = tf.unstack(tf.shape(window))
    num_blocks = (num_boxes + _BLOCK - 1) // _BLOCK
    padding = [[0, 0], [0, num_blocks * _BLOCK - num_boxes]]
    first, start, size = (
        tf.reshape(tf.pad(x, [*padding, [0, 0]]), [num_images, num_blocks, _BLOCK, 2])
        for x in (first, start, size)
    )
    window = tf.reshape(tf.pad(window, padding), [num_images, num_blocks, _BLOCK])
    window = tf.reduce_max(window, axis=2)
    side = tf.gather(tf.constant([0, *_WINDOWS, 0]), window)[..., tf.newaxis, tf.newaxis]
    corner = tf.minimum(first, map_size - side)
    pixels = corner[..., tf.newaxis] + tf.range(_WINDOWS[-1])
    rows, columns = (
        tf.cast(
            _cell_weights(start[..., i], size[..., i], pixels[..., i, :], map_size[i], sampling),
            dtype,
        )
        for i in range(2)
    )
    return _Block(window, start, size, corner, rows, columns)


def _cell_weights(
    start: tf.Tensor, size: tf.Tensor, pixels: tf.Tensor, length: tf.Tensor, sampling: _Sampling
) -> tf.Tensor:
    """Returns the weight of pixels of an axis in each cell.

    Args:
      start: float32 `[...]`, where boxes start; see `_Block`.
      size: float32 `[...]`, their sizes in pixels.
      pixels: int32 `[..., K]` or `[K]`, indices of pixels of the axis.
      length: int scalar, the number of pixels of the axis.
      sampling: how a box is sampled.

    Returns:
      float32 `[..., num_cells, K]`. The weights of all pixels sum to one, or to less if samples lie
      outside the map.
    """
    cell = size / sampling.num_cells
    count = tf.maximum(tf.math.ceil(cell), 0.0)
    if sampling.ratio:
        count = tf.fill(tf.shape(cell), float(sampling.ratio))
    step = tf.maximum(cell / tf.maximum(count, 1.0), 1e-6)[..., tf.newaxis]
    count = count[..., tf.newaxis]
    first = start[..., tf.newaxis] + step / 2
    first += cell[..., tf.newaxis] * tf.range(sampling.num_cells, dtype=tf.float32)
    # Samples more than a pixel beyond the outermost centres count as zero.
    limit = tf.cast(length, tf.float32)
    skipped = tf.maximum(tf.math.ceil((-1.0 - first) / step), 0.0)
    inside = tf.minimum(count, tf.math.floor((limit - first) / step) + 1.0) - skipped
    first += skipped * step

    def weights(pixels: tf.Tensor) -> tf.Tensor:
        offset = tf.cast(pixels, tf.float32)[..., tf.newaxis, :] - first[..., tf.newaxis]
        return _triangle_sums(offset, step[..., tf.newaxis], inside[..., tf.newaxis])

    # One more pixel on either side: samples there take the value of the outermost pixel.
    before, after = tf.split(weights(tf.stack([-1, length])), 2, axis=-1)
    sums = weights(pixels)
    pixels = pixels[..., tf.newaxis, :]
    sums += tf.where(pixels == 0, before, 0.0) + tf.where(pixels == length - 1, after, 0.0)
    return sums / tf.maximum(count, 1.0)[..., tf.newaxis]


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


def _crop(features: tf.Tensor, blocks: _Block, sampling: _Sampling) -> tf.Tensor:
    """Crops the boxes of one image from `[H, W, C]`: `[blocks, _BLOCK, cells, cells, C]`."""
    cells = sampling.num_cells
    shape = [_BLOCK, cells, cells, features.shape[2]]

    # TensorFlow's own gradient would keep the windows of all blocks.
    @tf.custom_gradient
    def crop_all(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def crop(block: _Block) -> tf.Tensor:
            crops = [
                lambda: tf.zeros(shape, features.dtype),
                *(lambda side=side: _crop_windows(features, block, side) for side in _WINDOWS),
                lambda: _crop_map(features, block, sampling),
            ]
            return tf.switch_case(block.window, crops)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # In float32, because a sum over many boxes would lose the small terms in bfloat16.
            total = tf.zeros_like(features, tf.float32)
            total = tf.foldl(add, (blocks, upstream), total, parallel_iterations=1)
            return tf.cast(total, features.dtype)

        def add(total: tf.Tensor, block_and_upstream: tuple[_Block, tf.Tensor]) -> tf.Tensor:
            block, upstream = block_and_upstream
            sums = [
                lambda: total,
                *(
                    lambda side=side: _add_windows(total, block, upstream, side)
                    for side in _WINDOWS
                ),
                lambda: _add_map(total, block, upstream, sampling),
            ]
            return tf.switch_case(block.window, sums)

        spec = tf.TensorSpec(shape, features.dtype)
        crops = tf.map_fn(crop, blocks, parallel_iterations=1, fn_output_signature=spec)
        return crops, gradient

    return crop_all(features)


def _crop_windows(features: tf.Tensor, block: _Block, side: int) -> tf.Tensor:
    """Crops each box of a block from its own window."""
    pixels = tf.reshape(features, [-1, features.shape[-1]])
    windows = tf.gather(pixels, _pixels_of_windows(block, side, tf.shape(features)[1]))
    partial = tf.matmul(block.rows[..., :side], tf.reshape(windows, [_BLOCK, side, -1]))
    partial = tf.reshape(partial, [_BLOCK, -1, side, features.shape[-1]])
    return tf.matmul(block.columns[:, tf.newaxis, :, :side], partial)


def _add_windows(total: tf.Tensor, block: _Block, upstream: tf.Tensor, side: int) -> tf.Tensor:
    """Adds the gradient of `_crop_windows` to that of the features."""
    columns = block.columns[:, tf.newaxis, :, :side]
    partial = tf.matmul(columns, upstream, transpose_a=True)
    partial = tf.reshape(partial, [_BLOCK, upstream.shape[1], -1])
    windows = tf.matmul(block.rows[..., :side], partial, transpose_a=True)
    windows = tf.reshape(windows, [_BLOCK, side, side, total.shape[-1]])
    pixels = tf.reshape(total, [-1, total.shape[-1]])
    indices = _pixels_of_windows(block, side, tf.shape(total)[1])[..., tf.newaxis]
    sums = tf.tensor_scatter_nd_add(pixels, indices, tf.cast(windows, total.dtype))
    return tf.reshape(sums, tf.shape(total))


def _pixels_of_windows(block: _Block, side: int, width: tf.Tensor) -> tf.Tensor:
    """Returns where the pixels of windows lie among all of the map, `[_BLOCK, side, side]`."""
    offset = tf.range(side)
    y = block.corner[:, 0, tf.newaxis, tf.newaxis] + offset[:, tf.newaxis]
    x = block.corner[:, 1, tf.newaxis, tf.newaxis] + offset
    return y * width + x


def _crop_map(features: tf.Tensor, block: _Block, sampling: _Sampling) -> tf.Tensor:
    """Crops the boxes of a block from the whole map."""
    rows, columns = _map_weights(tf.shape(features), block, sampling, features.dtype)
    partial = tf.einsum("nph,hwc->npwc", rows, features)
    return tf.matmul(columns, partial)


def _add_map(
    total: tf.Tensor, block: _Block, upstream: tf.Tensor, sampling: _Sampling
) -> tf.Tensor:
    """Adds the gradient of `_crop_map` to that of the features."""
    rows, columns = _map_weights(tf.shape(total), block, sampling, upstream.dtype)
    partial = tf.matmul(columns, upstream, transpose_a=True)
    return total + tf.cast(tf.einsum("nph,npwc->hwc", rows, partial), total.dtype)


def _map_weights(
    map_shape: tf.Tensor, block: _Block, sampling: _Sampling, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weights of the map's rows and columns, `[_BLOCK, P, H]`, `[_BLOCK, 1, P, W]`."""
    rows, columns = (
        tf.cast(
            _cell_weights(block.start[:, i], block.size[:, i], tf.range(length), length, sampling),
            dtype,
        )
        for i, length in enumerate(tf.unstack(map_shape[:2]))
    )
    return rows, columns[:, tf.newaxis]
