"""Pairwise affinities of the non-local block and their application.

Wang et al., Non-local Neural Networks, CVPR 2018, section 3.2. Each function computes

    y_i = sum_j f(theta_i, phi_j) g_j / C

over the N query positions i and the M key positions j of a map, for one pairwise function f. It
never holds all N x M affinities of a large map, only those of one block of queries. The gradients
are written by hand: they hold two matrices of the size of a block, where automatic differentiation
holds four. If there is only one block, they cannot be differentiated again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from libra_tf.ops.resampling import Size

# Most affinities of an image that are kept for the gradient: 64 MiB of float32, a map of 64 x 64.
_MAX_WHOLE_AFFINITIES = 2**24
# Affinities of a block of a larger map: 8 MiB, which fits in a processor's cache.
_BLOCK_AFFINITIES = 2**21

_ONCE = "The gradient of a non-local block cannot be differentiated again."

# Gradients of a pairwise function with respect to queries, keys and values.
_Gradients: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
_GradientFunction: TypeAlias = Callable[[tf.Tensor], _Gradients]


def non_local_gaussian(
    theta: tf.Tensor,
    phi: tf.Tensor,
    g: tf.Tensor,
    scale: float = 1.0,
    query_block: int | None = None,
) -> tf.Tensor:
    """Applies the (embedded) Gaussian: y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j.

    The affinities and their softmax are in float32: a dot product over a few hundred channels
    overflows float16.

    Args:
      theta: float `[B, N, C]`, the queries: an embedding of x, or x itself.
      phi: float `[B, M, C]`, the keys.
      g: float `[B, M, D]`, the values.
      scale: what to multiply the dot products by.
      query_block: how many queries to handle at a time, at least 1. With fewer than N, the
        affinities of a block are not kept for the gradient but computed again. None: all queries,
        if N and M are known when the graph is built and the affinities of an image take at most 64
        MiB; otherwise as many as take 8 MiB.

    Returns:
      `[B, N, D]`, in the dtype of `g`.

    Raises:
      ValueError: if `query_block` is not positive.
    """
    theta = tf.cast(theta, tf.float32) * scale
    return _apply_by_blocks(_GAUSSIAN, theta, tf.cast(phi, tf.float32), g, query_block)


def non_local_dot_product(theta: tf.Tensor, phi: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """Applies the dot product: y_i = sum_j (theta_i . phi_j) g_j / M.

    By associativity this is theta (phi^T g) / M, which is linear in the number of positions. It is
    computed in float32: the sum over the positions overflows float16.

    Args:
      theta: float `[B, N, C]`, the queries.
      phi: float `[B, M, C]`, the keys.
      g: float `[B, M, D]`, the values.

    Returns:
      `[B, N, D]`, in the dtype of `g`.
    """
    theta, phi, values = (tf.cast(tensor, tf.float32) for tensor in (theta, phi, g))
    context = tf.matmul(phi, values, transpose_a=True) / tf.cast(tf.shape(phi)[1], tf.float32)
    return tf.cast(tf.matmul(theta, context), g.dtype)


def non_local_concatenation(
    theta: tf.Tensor,
    phi: tf.Tensor,
    g: tf.Tensor,
    projection: tf.Tensor,
    query_block: int | None = None,
) -> tf.Tensor:
    """Applies the concatenation: y_i = sum_j ReLU(w . [theta_i, phi_j]) g_j / M.

    w . [theta_i, phi_j] is the outer sum w_1 . theta_i + w_2 . phi_j, so the pairs are never
    concatenated. The affinities are computed in float32.

    Args:
      theta: float `[B, N, C]`, the queries.
      phi: float `[B, M, C]`, the keys.
      g: float `[B, M, D]`, the values.
      projection: float `[2 * C, 1]`, the weights w: first those of the queries, then the keys'.
      query_block: as in `non_local_gaussian`.

    Returns:
      `[B, N, D]`, in the dtype of `g`.

    Raises:
      ValueError: if `query_block` is not positive.
    """
    query_weights, key_weights = tf.split(tf.cast(projection, tf.float32), 2)
    queries = tf.tensordot(tf.cast(theta, tf.float32), query_weights, 1)
    keys = tf.tensordot(tf.cast(phi, tf.float32), key_weights, 1)
    # Dividing here is cheaper than dividing each pair: ReLU(a) / M = ReLU(a / M).
    num_keys = tf.cast(tf.shape(phi)[1], tf.float32)
    return _apply_by_blocks(_CONCATENATION, queries / num_keys, keys / num_keys, g, query_block)


class _Pairwise(NamedTuple):
    """A pairwise function and its gradient.

    Attributes:
      affinities: maps queries `[B, n, C]` and keys `[B, M, C]` to affinities `[B, n, M]`.
      gradient: maps affinities, their gradient `[B, n, M]`, the sums over j of the products of the
        two `[B, n, 1]`, queries and keys to the gradients of the queries and of the keys.
    """

    affinities: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    gradient: Callable[..., tuple[tf.Tensor, tf.Tensor]]


def _gaussian_affinities(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True))


def _gaussian_gradient(
    affinities: tf.Tensor,
    of_affinities: tf.Tensor,
    products: tf.Tensor,
    queries: tf.Tensor,
    keys: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    of_logits = affinities * (of_affinities - products)
    return tf.matmul(of_logits, keys), tf.matmul(of_logits, queries, transpose_a=True)


def _concatenation_affinities(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(queries + tf.linalg.matrix_transpose(keys))


def _concatenation_gradient(
    affinities: tf.Tensor,
    of_affinities: tf.Tensor,
    products: tf.Tensor,
    queries: tf.Tensor,
    keys: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    del products, queries, keys
    of_sums = tf.where(affinities > 0, of_affinities, tf.zeros_like(of_affinities))
    return tf.reduce_sum(of_sums, 2, keepdims=True), tf.reduce_sum(of_sums, 1)[..., None]


_GAUSSIAN = _Pairwise(_gaussian_affinities, _gaussian_gradient)
_CONCATENATION = _Pairwise(_concatenation_affinities, _concatenation_gradient)


def _apply_by_blocks(
    pairwise: _Pairwise,
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    query_block: int | None,
) -> tf.Tensor:
    """Applies a pairwise function, in several blocks of queries if the map is too large for one.

    The affinities of a single block are kept for the gradient; those of several are computed again.

    Args:
      pairwise: the function.
      queries: float32 `[B, N, C]`.
      keys: float32 `[B, M, C]`.
      values: float `[B, M, D]`.
      query_block: as in `non_local_gaussian`.

    Returns:
      `[B, N, D]`, in the dtype of `values`.
    """
    num_queries, num_keys = _num_positions(queries), _num_positions(keys)
    block = _block_size(num_queries, num_keys, query_block)

    @tf.custom_gradient
    def apply_whole(
        queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, _GradientFunction]:
        affinities = pairwise.affinities(queries, keys)
        outputs = _weighted_sum(affinities, values)

        def gradient(upstream: tf.Tensor) -> _Gradients:
            tensors = queries, keys, values, outputs, upstream
            kept = tf.raw_ops.PreventGradient(input=affinities, message=_ONCE)
            return _block_gradient(pairwise, kept, *tensors)

        return outputs, gradient

    @tf.custom_gradient
    def apply_blocks(
        queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, _GradientFunction]:
        num_blocks = -(-num_queries // block)
        query_blocks = _split_blocks(queries, num_blocks, block)

        def step(index: tf.Tensor, outputs: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            affinities = pairwise.affinities(query_blocks[index], keys)
            return index + 1, outputs.write(index, _weighted_sum(affinities, values))

        blocks = tf.TensorArray(values.dtype, num_blocks)
        _, blocks = _sequential_loop(num_blocks, step, (blocks,))
        outputs = _join_blocks(blocks.stack(), num_queries)

        def gradient(upstream: tf.Tensor) -> _Gradients:
            tensors = queries, keys, values, outputs, upstream
            return _gradient_by_blocks(pairwise, *tensors, num_blocks, block)

        return outputs, gradient

    if isinstance(block, int) and isinstance(num_queries, int) and block >= num_queries:
        return apply_whole(queries, keys, values)
    return apply_blocks(queries, keys, values)


def _weighted_sum(affinities: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.cast(affinities, values.dtype), values)


def _block_gradient(
    pairwise: _Pairwise,
    affinities: tf.Tensor,
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    outputs: tf.Tensor,
    upstream: tf.Tensor,
) -> _Gradients:
    """Returns the gradient of a block's queries and its share of those of keys and values."""
    of_values = tf.matmul(tf.cast(affinities, values.dtype), upstream, transpose_a=True)
    of_affinities = tf.cast(tf.matmul(upstream, values, transpose_b=True), tf.float32)
    # sum_j f_ij dL/df_ij = y_i . dL/dy_i, without another pass over the pairs.
    products = tf.cast(outputs, tf.float32) * tf.cast(upstream, tf.float32)
    products = tf.reduce_sum(products, axis=2, keepdims=True)
    return *pairwise.gradient(affinities, of_affinities, products, queries, keys), of_values


def _gradient_by_blocks(
    pairwise: _Pairwise,
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    outputs: tf.Tensor,
    upstream: tf.Tensor,
    num_blocks: Size,
    block: Size,
) -> _Gradients:
    """Returns all gradients, computing the affinities of each block again."""
    query_blocks, output_blocks, upstream_blocks = (
        _split_blocks(tensor, num_blocks, block) for tensor in (queries, outputs, upstream)
    )

    def step(
        index: tf.Tensor,
        query_gradients: tf.TensorArray,
        key_gradient: tf.Tensor,
        value_gradient: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.Tensor, tf.Tensor]:
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

    # Summed over the blocks in float32: half precision would lose small terms.
    start = (
        tf.TensorArray(queries.dtype, num_blocks),
        tf.zeros_like(keys),
        tf.zeros_like(values, tf.float32),
    )
    _, of_queries, of_keys, of_values = _sequential_loop(num_blocks, step, start)
    of_queries = _join_blocks(of_queries.stack(), _num_positions(queries))
    return of_queries, of_keys, tf.cast(of_values, values.dtype)


def _sequential_loop(
    num_steps: Size, step: Callable[..., tuple], variables: Sequence[tf.Tensor | tf.TensorArray]
) -> tuple:
    """Runs `step` `num_steps` times, never in parallel: the memory of the steps would add up."""
    return tf.while_loop(
        lambda index, *_: index < num_steps,
        step,
        (tf.constant(0), *variables),
        parallel_iterations=1,
        maximum_iterations=num_steps,
    )


def _num_positions(tensor: tf.Tensor) -> Size:
    """Returns the size of the second axis."""
    return tf.shape(tensor)[1] if tensor.shape[1] is None else tensor.shape[1]


def _block_size(num_queries: Size, num_keys: Size, query_block: int | None) -> Size:
    """Returns how many queries to handle at a time, as an int if all sizes are known."""
    if query_block is not None and query_block < 1:
        raise ValueError(f"`query_block` must be a positive int or None, got {query_block}.")
    block = query_block or _BLOCK_AFFINITIES // num_keys
    if isinstance(block, int) and isinstance(num_queries, int):
        fits = query_block is None and num_queries * num_keys <= _MAX_WHOLE_AFFINITIES
        return num_queries if fits else max(1, min(block, num_queries))
    return tf.clip_by_value(block, 1, num_queries)


def _split_blocks(tensor: tf.Tensor, num_blocks: Size, block: Size) -> tf.Tensor:
    """`[B, N, C]` -> `[num_blocks, B, block, C]`, the last block padded with zeros."""
    missing = num_blocks * block - _num_positions(tensor)
    padded = tf.pad(tensor, [[0, 0], [0, missing], [0, 0]])
    blocks = tf.reshape(padded, [-1, num_blocks, block, tensor.shape[2]])
    return tf.transpose(blocks, [1, 0, 2, 3])


def _join_blocks(blocks: tf.Tensor, num_positions: Size) -> tf.Tensor:
    """`[num_blocks, B, block, C]` -> `[B, N, C]`, the inverse of `_split_blocks`."""
    batch, channels = tf.shape(blocks)[1], blocks.shape[3]
    joined = tf.reshape(tf.transpose(blocks, [1, 0, 2, 3]), [batch, -1, channels])
    return joined[:, :num_positions]
