"""Pairwise affinities of the non-local block and their application.

Wang et al., Non-local Neural Networks, CVPR 2018, section 3.2. Each function computes

    y_i = sum_j f(theta_i, phi_j) g_j / C

over the N query positions i and the M key positions j of a map, for one pairwise function f, and
never holds more of the N x M affinities than one block of queries. Gradients are written out: they
hold two matrices of a block's size, where automatic differentiation holds four. Where there is one
block they cannot be differentiated again.
"""

import collections.abc
import typing

import tensorflow as tf

# Affinities of an image that are kept for the gradient: 64 MiB of float32, a map of 64 x 64.
_MAX_WHOLE_AFFINITIES = 2**24
# Affinities of a block of a larger map: 8 MiB, which a processor's cache holds.
_BLOCK_AFFINITIES = 2**21

_ONCE = "The gradient of a non-local block cannot be differentiated again."


def non_local_gaussian(theta, phi, g, scale=1.0, query_block=None):
    """Applies the (embedded) Gaussian: y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j.

    The affinities and their softmax are in float32: a dot product over a few hundred channels
    overflows float16.

    Args:
      theta: Float tensor [B, N, C], the queries: an embedding of x, or x itself.
      phi: Float tensor [B, M, C], the keys.
      g: Float tensor [B, M, D], the values.
      scale: Float that multiplies the dot products.
      query_block: Positive int, how many queries are handled at a time. With fewer than N, the
        affinities of a block are computed again for the gradient rather than kept. None: all, where
        N and M are known when the graph is built and the affinities of an image take at most 64
        MiB, else as many as take 8 MiB.

    Returns:
      Tensor [B, N, D] of the dtype of `g`.

    Raises:
      ValueError: If `query_block` is not positive.
    """

    theta = tf.cast(theta, tf.float32) * scale
    return _apply_by_blocks(_GAUSSIAN, theta, tf.cast(phi, tf.float32), g, query_block)


def non_local_dot_product(theta, phi, g):
    """Applies the dot product: y_i = sum_j (theta_i . phi_j) g_j / M.

    By associativity this is theta (phi^T g) / M: linear in the number of positions.

    Args:
      theta: Float tensor [B, N, C], the queries.
      phi: Float tensor [B, M, C], the keys.
      g: Float tensor [B, M, D], the values.

    Returns:
      Tensor [B, N, D] of the dtype of `g`. Computed in float32: the sum over the positions
      overflows float16.
    """
    theta, phi, values = (tf.cast(tensor, tf.float32) for tensor in (theta, phi, g))
    context = tf.matmul(phi, values, transpose_a=True) / tf.cast(tf.shape(phi)[1], tf.float32)
    return tf.cast(tf.matmul(theta, context), g.dtype)


def non_local_concatenation(theta, phi, g, projection, query_block=None):
    """Applies the concatenation: y_i = sum_j ReLU(w . [theta_i, phi_j]) g_j / M.

    w . [theta_i, phi_j] is the outer sum w_1 . theta_i + w_2 . phi_j, so the pairs are never
    concatenated.

    Args:
      theta: Float tensor [B, N, C], the queries.
      phi: Float tensor [B, M, C], the keys.
      g: Float tensor [B, M, D], the values.
      projection: Float tensor [2 * C, 1], the weights w: those of the queries, then the keys'.
      query_block: As in `non_local_gaussian`.

    Returns:
      Tensor [B, N, D] of the dtype of `g`. The affinities are computed in float32.

    Raises:
      ValueError: If `query_block` is not positive.
    """
    query_weights, key_weights = tf.split(tf.cast(projection, tf.float32), 2)
    queries = tf.tensordot(tf.cast(theta, tf.float32), query_weights, 1)
    keys = tf.tensordot(tf.cast(phi, tf.float32), key_weights, 1)
    # Divided here rather than each pair: ReLU(a) / M = ReLU(a / M).
    num_keys = tf.cast(tf.shape(phi)[1], tf.float32)
    return _apply_by_blocks(_CONCATENATION, queries / num_keys, keys / num_keys, g, query_block)


class _Pairwise(typing.NamedTuple):
    """A pairwise function and its gradient.

    Attributes:
      affinities: Function from queries [B, n, C] and keys [B, M, C] to affinities [B, n, M].
      gradient: Function from affinities, their gradient [B, n, M], the sums over j of the products
        of the two [B, n, 1], queries and keys to the gradients of the queries and of the keys.
    """

    affinities: collections.abc.Callable[..., tf.Tensor]
    gradient: collections.abc.Callable[..., tuple[tf.Tensor, tf.Tensor]]


def _gaussian_affinities(queries, keys):
    return tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True))


def _gaussian_gradient(affinities, of_affinities, products, queries, keys):
    of_logits = affinities * (of_affinities - products)
    return tf.matmul(of_logits, keys), tf.matmul(of_logits, queries, transpose_a=True)


def _concatenation_affinities(queries, keys):
    return tf.nn.relu(queries + tf.linalg.matrix_transpose(keys))


def _concatenation_gradient(affinities, of_affinities, products, queries, keys):
    del products, queries, keys
    of_sums = tf.where(affinities > 0, of_affinities, tf.zeros_like(of_affinities))
    return tf.reduce_sum(of_sums, 2, keepdims=True), tf.reduce_sum(of_sums, 1)[..., None]


_GAUSSIAN = _Pairwise(_gaussian_affinities, _gaussian_gradient)
_CONCATENATION = _Pairwise(_concatenation_affinities, _concatenation_gradient)


def _apply_by_blocks(pairwise, queries, keys, values, query_block):
    """Applies a pairwise function, to blocks of queries where the map is too large for one.

    The affinities of a single block are kept for the gradient; those of several are computed again.

    Args:
      pairwise: A `_Pairwise`.
      queries: Float32 tensor [B, N, C].
      keys: Float32 tensor [B, M, C].
      values: Tensor [B, M, D].
      query_block: Positive int or None, see `non_local_gaussian`.

    Returns:
      Tensor [B, N, D] of the dtype of `values`.
    """
    num_queries, num_keys = _num_positions(queries), _num_positions(keys)
    block = _block_size(num_queries, num_keys, query_block)

    @tf.custom_gradient
    def apply_whole(queries, keys, values):
        affinities = pairwise.affinities(queries, keys)
        outputs = _weighted_sum(affinities, values)

        def gradient(upstream):
            tensors = queries, keys, values, outputs, upstream
            kept = tf.raw_ops.PreventGradient(input=affinities, message=_ONCE)
            return _block_gradient(pairwise, kept, *tensors)

        return outputs, gradient

    @tf.custom_gradient
    def apply_blocks(queries, keys, values):
        num_blocks = -(-num_queries // block)
        query_blocks = _split_blocks(queries, num_blocks, block)

        def step(index, outputs):
            affinities = pairwise.affinities(query_blocks[index], keys)
            return index + 1, outputs.write(index, _weighted_sum(affinities, values))

        blocks = tf.TensorArray(values.dtype, num_blocks)
        _, blocks = _sequential_loop(num_blocks, step, (blocks,))
        outputs = _join_blocks(blocks.stack(), num_queries)

        def gradient(upstream):
            tensors = queries, keys, values, outputs, upstream
            return _gradient_by_blocks(pairwise, *tensors, num_blocks, block)

        return outputs, gradient

    if isinstance(block, int) and isinstance(num_queries, int) and block >= num_queries:
        return apply_whole(queries, keys, values)
    return apply_blocks(queries, keys, values)


def _weighted_sum(affinities, values):
    return tf.matmul(tf.cast(affinities, values.dtype), values)


def _block_gradient(pairwise, affinities, queries, keys, values, outputs, upstream):
    """Gradients of a block's queries, and its share of those of all keys and values."""
    of_values = tf.matmul(tf.cast(affinities, values.dtype), upstream, transpose_a=True)
    of_affinities = tf.cast(tf.matmul(upstream, values, transpose_b=True), tf.float32)
    # sum_j f_ij dL/df_ij = y_i . dL/dy_i, without another pass over the pairs.
    products = tf.cast(outputs, tf.float32) * tf.cast(upstream, tf.float32)
    products = tf.reduce_sum(products, axis=2, keepdims=True)
    return *pairwise.gradient(affinities, of_affinities, products, queries, keys), of_values


def _gradient_by_blocks(pairwise, queries, keys, values, outputs, upstream, num_blocks, block):
    """Gradients of queries, keys and values; the affinities of each block are computed again."""
    query_blocks, output_blocks, upstream_blocks = (
        _split_blocks(tensor, num_blocks, block) for tensor in (queries, outputs, upstream)
    )

    def step(index, query_gradients, key_gradient, value_gradient):
        block_queries = query_blocks[index]
        of_queries, of_keys, of_values = _block_gradient(
            pairwise,
            pairwise.affinities(block_queries, keys),
            block_queries,
            keys,
            values,
            output_blocks[index],
            upstream_blocks[index],
        )
        return (
            index + 1,
            query_gradients.write(index, of_queries),
            key_gradient + of_keys,
            value_gradient + tf.cast(of_values, tf.float32),
        )

    # Summed over the blocks in float32: half precision would lose the small ones.
    start = (
        tf.TensorArray(queries.dtype, num_blocks),
        tf.zeros_like(keys),
        tf.zeros_like(values, tf.float32),
    )
    _, of_queries, of_keys, of_values = _sequential_loop(num_blocks, step, start)
    of_queries = _join_blocks(of_queries.stack(), _num_positions(queries))
    return of_queries, of_keys, tf.cast(of_values, values.dtype)


def _sequential_loop(num_steps, step, variables):
    """Runs `step` num_steps times, one at a time: steps side by side would add up in memory."""
    return tf.while_loop(
        lambda index, *_: index < num_steps,
        step,
        (tf.constant(0), *variables),
        parallel_iterations=1,
        maximum_iterations=num_steps,
    )


def _num_positions(tensor):
    """The size of the second axis: an int where it is known, a scalar tensor where not."""
    return tf.shape(tensor)[1] if tensor.shape[1] is None else tensor.shape[1]


def _block_size(num_queries, num_keys, query_block):
    """How many queries to handle at a time: an int where all sizes are known."""
    if query_block is not None and query_block < 1:
        raise ValueError(f"`query_block` must be a positive int or None, got {query_block}.")
    block = query_block or _BLOCK_AFFINITIES // num_keys
    if isinstance(block, int) and isinstance(num_queries, int):
        fits = query_block is None and num_queries * num_keys <= _MAX_WHOLE_AFFINITIES
        return num_queries if fits else max(1, min(block, num_queries))
    return tf.clip_by_value(block, 1, num_queries)


def _split_blocks(tensor, num_blocks, block):
    """[B, N, C] -> [num_blocks, B, block, C], the last block filled up with zeros."""
    missing = num_blocks * block - _num_positions(tensor)
    padded = tf.pad(tensor, [[0, 0], [0, missing], [0, 0]])
    blocks = tf.reshape(padded, [-1, num_blocks, block, tensor.shape[2]])
    return tf.transpose(blocks, [1, 0, 2, 3])


def _join_blocks(blocks, num_positions):
    """[num_blocks, B, block, C] -> [B, N, C], the inverse of `_split_blocks`."""
    batch, channels = tf.shape(blocks)[1], blocks.shape[3]
    joined = tf.reshape(tf.transpose(blocks, [1, 0, 2, 3]), [batch, -1, channels])
    return joined[:, :num_positions]
