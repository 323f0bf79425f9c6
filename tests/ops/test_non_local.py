import numpy as np
import pytest
import tensorflow as tf

from libra_tf import ops

RNG = np.random.default_rng(0)
THETA, PHI, G = (
    RNG.normal(size=(2, n, c)).astype(np.float32) for n, c in ((11, 3), (7, 3), (7, 5))
)
PROJECTION = RNG.normal(size=(6, 1)).astype(np.float32)


def softmax_by_hand(theta, phi, g):
    logits = 0.5 * theta @ phi.transpose(0, 2, 1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ g


def dot_product_by_hand(theta, phi, g):
    return theta @ phi.transpose(0, 2, 1) @ g / phi.shape[1]


def concatenation_by_hand(theta, phi, g):
    n, m = theta.shape[1], phi.shape[1]
    pairs = np.concatenate(
        [np.repeat(theta[:, :, None], m, 2), np.repeat(phi[:, None], n, 1)], axis=-1
    )
    return np.maximum(pairs @ PROJECTION[:, 0], 0) @ g / m


def gaussian(theta, phi, g, query_block=None):
    return ops.non_local_gaussian(theta, phi, g, 0.5, query_block)


def concatenation(theta, phi, g, query_block=None):
    return ops.non_local_concatenation(theta, phi, g, PROJECTION, query_block)


@pytest.mark.parametrize(
    ("apply", "by_hand"),
    [
        (gaussian, softmax_by_hand),
        (ops.non_local_dot_product, dot_product_by_hand),
        (concatenation, concatenation_by_hand),
    ],
)
def test_matches_the_formula(apply, by_hand):
    np.testing.assert_allclose(apply(THETA, PHI, G), by_hand(THETA, PHI, G), rtol=1e-5, atol=1e-6)


def with_gradients(apply, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = apply(*tensors)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    return [y, *tape.gradient(loss, tensors)]


@pytest.mark.parametrize("apply", [gaussian, concatenation])
@pytest.mark.parametrize("query_block", [1, 4, 11, 50])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_blocks_change_nothing(apply, query_block, jit_compile):
    tensors = [tf.constant(t) for t in (THETA, PHI, G)]
    whole = with_gradients(apply, tensors)
    blocked = tf.function(
        lambda *t: with_gradients(lambda *u: apply(*u, query_block), list(t)),
        jit_compile=jit_compile,
    )(*tensors)
    for expected, actual in zip(whole, blocked, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("apply", [gaussian, ops.non_local_dot_product, concatenation])
def test_sizes_known_at_run_time_only(apply):
    signature = [tf.TensorSpec([None, None, t.shape[2]]) for t in (THETA, PHI, G)]
    dynamic = tf.function(lambda *t: with_gradients(apply, list(t)), input_signature=signature)
    tensors = [tf.constant(t) for t in (THETA, PHI, G)]
    for expected, actual in zip(with_gradients(apply, tensors), dynamic(*tensors), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("apply", [gaussian, ops.non_local_dot_product, concatenation])
def test_no_overflow_in_float16(apply):
    large = [tf.constant(200 * np.abs(t), tf.float16) for t in (THETA, PHI)]
    values = tf.constant(1e-3 * G, tf.float16)
    expected = apply(*(tf.cast(t, tf.float32) for t in (*large, values)))
    actual = apply(*large, values)
    assert actual.dtype == tf.float16
    np.testing.assert_allclose(tf.cast(actual, tf.float32), expected, rtol=1e-2, atol=1e-3)


def test_a_large_map_is_handled_in_blocks():
    """Nothing in the graph of a large map holds all its pairs."""
    positions = 6000

    @tf.function(input_signature=[tf.TensorSpec([1, positions, 2])])
    def train(x):
        return with_gradients(
            lambda a, b, c: ops.non_local_gaussian(a, b, c), [x + 0, x + 1, x + 2]
        )

    graph = train.get_concrete_function().graph
    graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    sizes = [
        output.shape.num_elements() or 0
        for g in graphs
        for operation in g.get_operations()
        for output in operation.outputs
        if output.shape.rank is not None
    ]
    assert 2**20 < max(sizes) <= 2**21


@pytest.mark.parametrize("apply", [gaussian, concatenation])
def test_bad_query_block(apply):
    with pytest.raises(ValueError, match="query_block"):
        apply(THETA, PHI, G, 0)
