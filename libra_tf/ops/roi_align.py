"""RoIAlign (He et al., ICCV 2017) as MMDetection computes it, with static shapes.

Every cell of the output averages bilinear samples on a regular grid inside it, by default one for
every started pixel of the cell in each direction: how many there are depends on the box. The
average over a grid is separable, so that a box needs two small matrices, of what each row and each
column of the map weighs in each cell. Their sizes do not depend on the box, and the sums over the
samples have a closed form, so nothing depends on the number of samples.
"""

import tensorflow as tf

# Boxes that are worked on at a time; bounds the memory, [block, output_size, width, channels].
_BLOCK = 32


def roi_align(
    features: tf.Tensor,
    boxes: tf.Tensor,
    spatial_scale: float,
    output_size: int = 7,
    sampling_ratio: int = 0,
    aligned: bool = True,
    where: tf.Tensor | None = None,
) -> tf.Tensor:
    """Crops boxes of a feature map to one size.

    The gradient is that of the features; boxes have none.

    Args:
      features: float `[B, H, W, C]`.
      boxes: float `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the image.
      spatial_scale: size of the map over that of the image: one over its stride.
      output_size: height and width of the crops.
      sampling_ratio: samples per cell and direction; 0 for as many as the cell has pixels, rounded
        up.
      aligned: whether the centre of the first pixel is at half a pixel; without, it is at zero, and
        boxes are at least a pixel large.
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
    """What each pixel of an axis weighs in each cell.

    Args:
      start: where boxes start, `[...]`; the centre of pixel `i` is at `i`.
      size: their sizes, `[...]`.
      length: int scalar, the number of pixels.
      num_cells: number of cells of a box.
      sampling_ratio: see `roi_align`.

    Returns:
      `[..., num_cells, length]`. A row sums to one, or less where samples lie beyond the map.
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

    # One pixel more on either side stands for the outermost pixel, which those samples get.
    pixels = tf.range(-1, length + 1)
    offset = tf.cast(pixels, tf.float32) - first[..., tf.newaxis]
    weights = _triangle_sums(offset, step[..., tf.newaxis], inside[..., tf.newaxis])
    before, inner, after = tf.split(weights, [1, length, 1], axis=-1)
    pixel = tf.range(length)
    inner += tf.where(pixel == 0, before, 0.0) + tf.where(pixel == length - 1, after, 0.0)
    return inner / tf.maximum(count, 1.0)[..., tf.newaxis]


def _triangle_sums(offset: tf.Tensor, step: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The sum over i < count of max(0, 1 - |i * step - offset|)."""
    sums = (
        _ramp_sums(offset - 1.0, step, count)
        - 2.0 * _ramp_sums(offset, step, count)
        + _ramp_sums(offset + 1.0, step, count)
    )
    # Elsewhere large numbers would cancel only up to rounding.
    is_near = (offset > -1.0) & (offset < (count - 1.0) * step + 1.0)
    return tf.where(is_near & (count > 0.0), sums, 0.0)


def _ramp_sums(offset: tf.Tensor, step: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The sum over i < count of max(0, i * step - offset)."""
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

    def crop(features, block):
        image, row, column = block

        def crops():
            partial = tf.einsum("nph,hwc->npwc", row, features[image])
            return tf.matmul(column[:, tf.newaxis], partial)

        zeros = tf.zeros([_BLOCK, cells, cells, channels], features.dtype)
        return tf.cond(tf.reduce_any(row != 0), crops, lambda: zeros)

    def add_gradient(total, block):
        image, row, column, upstream = block

        def added():
            partial = tf.matmul(column[:, tf.newaxis], upstream, transpose_a=True)
            gradient = tf.einsum("nph,npwc->hwc", row, partial)
            return tf.tensor_scatter_nd_add(total, [[image]], gradient[tf.newaxis])

        return tf.cond(tf.reduce_any(row != 0), added, lambda: total)

    # TensorFlow's own gradient would keep the partial products of all blocks.
    @tf.custom_gradient
    def crop_all(features):
        crops = tf.map_fn(
            lambda block: crop(features, block),
            (images, row_blocks, column_blocks),
            fn_output_signature=tf.TensorSpec([_BLOCK, cells, cells, channels], features.dtype),
            parallel_iterations=1,
        )

        def gradient(upstream):
            blocks = (images, row_blocks, column_blocks, upstream)
            zeros = tf.zeros_like(features)
            return tf.foldl(add_gradient, blocks, zeros, parallel_iterations=1)

        return crops, gradient

    crops = tf.reshape(crop_all(features), [num_images, -1, cells, cells, channels])[:, :num_boxes]
    return tf.ensure_shape(crops, [features.shape[0], rows.shape[1], cells, cells, channels])


def _in_blocks(weights: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """`[B, N, P, length]` as `[B * blocks, _BLOCK, P, length]`, padded with boxes of no weight."""
    weights = tf.pad(weights, [[0, 0], [0, padding], [0, 0], [0, 0]])
    return tf.reshape(weights, tf.concat([[-1, _BLOCK], tf.shape(weights)[2:]], axis=0))
