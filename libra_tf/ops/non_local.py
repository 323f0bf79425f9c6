"""Pairwise affinities of the non-local block and their application.

Wang et al., Non-local Neural Networks, CVPR 2018, section 3.2. Each function computes

    y_i = sum_j f(theta_i, phi_j) g_j / C

over the N query positions i and the M key positions j of a map, for one pairwise function f, and
never holds more of the N x M affinities than one block of queries.
"""

import tensorflow as tf

# Affinities held at a time and image: 32 MiB of float32, or a whole map of 53 x 53 positions.
_MAX_BLOCK_AFFINITIES = 2**23


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
        affinities of a block are computed again for the gradient rather than kept. None: as many
        as keep the block's affinities of an image within 32 MiB.

    Returns:
      Tensor [B, N, D] of the dtype of `g`.

    Raises:
      ValueError: If `query_block` is not positive.
    """

    def apply_block(theta, phi, g):
        logits = tf.matmul(theta, phi, transpose_b=True)
        return tf.matmul(tf.cast(tf.nn.softmax(logits), g.dtype), g)

    theta = tf.cast(theta, tf.float32) * scale
    return _apply_by_blocks(apply_block, theta, tf.cast(phi, tf.float32), g, query_block)


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
    num_keys = tf.cast(tf.shape(phi)[1], tf.float32)

    def apply_block(queries, keys, g):
        affinities = tf.nn.relu(queries + tf.linalg.matrix_transpose(keys)) / num_keys
        return tf.matmul(tf.cast(affinities, g.dtype), g)

    return _apply_by_blocks(apply_block, queries, keys, g, query_block)


def _apply_by_blocks(apply_block, queries, keys, values, query_block):
    """Applies a pairwise function to blocks of queries, recomputing each block for its gradient.

    Args:
      apply_block: Function of a block of queries, all keys and all values; its result is
        [B, block, D].
      queries: Tensor [B, N, C].
      keys: Tensor [B, M, C].
      values: Tensor [B, M, D].
      query_block: Positive int or None, see `non_local_gaussian`.

    Returns:
      Tensor [B, N, D].
    """
    num_queries, num_keys = _num_positions(queries), _num_positions(keys)
    block = _block_size(num_queries, num_keys, query_block)
    if isinstance(block, int) and isinstance(num_queries, int) and block >= num_queries:
        return apply_block(queries, keys, values)
    num_blocks = -(-num_queries // block)

    @tf.custom_gradient
    def apply(queries, keys, values):
        query_blocks = _split_blocks(queries, num_blocks, block)

        def step(index, outputs):
            return index + 1, outputs.write(index, apply_block(query_blocks[index], keys, values))

        outputs = tf.TensorArray(values.dtype, num_blocks)
        _, outputs = _sequential_loop(num_blocks, step, (outputs,))

        def gradient(upstream):
            return _gradient_by_blocks(apply_block, queries, keys, values, upstream, block)

        return _join_blocks(outputs.stack(), num_queries), gradient

    return apply(queries, keys, values)


def _gradient_by_blocks(apply_block, queries, keys, values, upstream, block):
    """Gradients of `_apply_by_blocks` with respect to queries, keys and values."""
    num_queries = _num_positions(queries)
    num_blocks = -(-num_queries // block)
    query_blocks = _split_blocks(queries, num_blocks, block)
    upstream_blocks = _split_blocks(upstream, num_blocks, block)

    def step(index, query_gradients, key_gradient, value_gradient):
        queries = query_blocks[index]
        with tf.GradientTape() as tape:
            tape.watch([queries, keys, values])
            outputs = apply_block(queries, keys, values)
        of_queries, of_keys, of_values = tape.gradient(
            outputs, [queries, keys, values], upstream_blocks[index]
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
    return _join_blocks(of_queries.stack(), num_queries), of_keys, tf.cast(of_values, values.dtype)


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
    block = query_block or _MAX_BLOCK_AFFINITIES // num_keys
    if isinstance(block, int) and isinstance(num_queries, int):
        return max(1, min(block, num_queries))
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
