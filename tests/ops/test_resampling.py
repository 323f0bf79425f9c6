import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf import compat, ops

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def max_pool_by_hand(x, output_size):
    """Cell by cell, from the definition."""
    (_, height, width, _), (rows, columns) = x.shape, output_size
    result = np.empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            cell = x[
                :,
                i * height // rows : -(-(i + 1) * height // rows),
                j * width // columns : -(-(j + 1) * width // columns),
            ]
            result[:, i, j] = cell.max((1, 2))
    return result


def nearest_by_hand(x, output_size):
    (_, height, width, _), (rows, columns) = x.shape, output_size
    return x[:, np.arange(rows) * height // rows][:, :, np.arange(columns) * width // columns]


@given(SIZES, SIZES, st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_size_to_any_size(size, output_size, seed):
    x = np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)
    pooled = ops.adaptive_max_pool2d(x, output_size)
    resized = ops.resize_nearest2d(x, output_size)
    np.testing.assert_array_equal(pooled, max_pool_by_hand(x, output_size))
    np.testing.assert_array_equal(resized, nearest_by_hand(x, output_size))


@given(SIZES, SIZES, st.booleans())
@settings(deadline=None, max_examples=40)
def test_adding_is_resizing_and_adding(coarse_size, size, divides):
    if divides:
        size = tuple(c * s for c, s in zip(coarse_size, (s % 4 + 1 for s in size), strict=True))
    x = tf.random.stateless_normal([2, *size, 3], [0, 0])
    coarse = tf.random.stateless_normal([2, *coarse_size, 3], [0, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(coarse)
        added = ops.add_nearest2d(x, coarse)
        expected = x + ops.resize_nearest2d(coarse, size)
    np.testing.assert_array_equal(added, expected)
    of_coarse = tape.gradient(expected, coarse, x)
    np.testing.assert_allclose(tape.gradient(added, coarse, x), of_coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.one_lane
@pytest.mark.parametrize("axis", [1, 2])
def test_every_pair_of_sizes_up_to_24(axis):
    """Along one axis at a time: the maximum over a rectangle is that over rows, then columns."""
    rng = np.random.default_rng(axis)
    for size in range(1, 25):
        x = np.moveaxis(rng.normal(size=(size, 1, 2, 3)).astype(np.float32), 0, axis)
        for output in range(1, 25):
            output_size = (output, 2) if axis == 1 else (2, output)
            pooled = ops.adaptive_max_pool2d(x, output_size)
            np.testing.assert_array_equal(pooled, max_pool_by_hand(x, output_size))


def test_matches_tensorflow_addons():
    """Only sizes that divide: TensorFlow Addons pools no others."""
    if not compat.IS_ADDONS_LANE:
        pytest.skip("TensorFlow Addons cannot be imported here")
    from tensorflow_addons.layers import AdaptiveMaxPooling2D

    rng = np.random.default_rng(0)
    for size, output_size in (((12, 18), (4, 3)), ((40, 35), (8, 7)), ((5, 6), (5, 1))):
        x = rng.normal(size=(2, *size, 3)).astype(np.float32)
        expected = AdaptiveMaxPooling2D(output_size)(x)
        np.testing.assert_array_equal(ops.adaptive_max_pool2d(x, output_size), expected)


@pytest.mark.parametrize("output_size", [(4, 3), (3, 3), (5, 2)])
def test_ties_give_the_gradient_to_one_input(output_size):
    x = tf.zeros([1, 8, 6, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled = ops.adaptive_max_pool2d(x, output_size)
    gradient = tape.gradient(pooled, x).numpy()
    assert set(gradient.ravel()) <= set(range(5))
    assert gradient.sum() == np.prod(output_size)


@pytest.mark.parametrize(
    ("size", "output_size"),
    [((8, 6), (4, 3)), ((4, 3), (8, 6)), ((9, 7), (4, 5)), ((4, 5), (9, 7))],
)
def test_gradients_are_those_of_the_definition(size, output_size):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(1, *size, 2)))
    cotangent = rng.normal(size=(1, *output_size, 2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        pooled = tf.reduce_sum(ops.adaptive_max_pool2d(x, output_size) * cotangent)
        resized = tf.reduce_sum(ops.resize_nearest2d(x, output_size) * cotangent)
    for by_hand, value in ((max_pool_by_hand, pooled), (nearest_by_hand, resized)):
        expected = np.zeros(x.shape)
        step = 1e-6
        for position in np.ndindex(*x.shape):
            moved = x.numpy()
            moved[position] += step
            change = by_hand(moved, output_size) - by_hand(x.numpy(), output_size)
            expected[position] = (change * cotangent).sum() / step
        np.testing.assert_allclose(tape.gradient(value, x), expected, atol=1e-6)


def test_static_sizes_give_static_shapes():
    @tf.function(input_signature=[tf.TensorSpec([None, 9, 8, 3])])
    def shapes(x):
        for output_size in ((3, 4), (5, 5), (18, 16), (20, 11)):
            assert ops.adaptive_max_pool2d(x, output_size).shape[1:] == (*output_size, 3)
            assert ops.resize_nearest2d(x, output_size).shape[1:] == (*output_size, 3)
        return x

    shapes.get_concrete_function()


def test_sizes_known_at_run_time_only():
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([2], tf.int32)]
    )
    def both(x, size):
        size = tf.unstack(size)
        return ops.adaptive_max_pool2d(x, size), ops.resize_nearest2d(x, size)

    for size, output_size in (((8, 8), (4, 2)), ((5, 9), (7, 4)), ((6, 6), (6, 6))):
        x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
        pooled, resized = both(x, output_size)
        np.testing.assert_array_equal(pooled, max_pool_by_hand(x, output_size))
        np.testing.assert_array_equal(resized, nearest_by_hand(x, output_size))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision(dtype):
    x = tf.cast(tf.random.stateless_normal([1, 9, 7, 2], [0, 1]), dtype)
    for output_size in ((3, 7), (4, 5), (18, 14)):
        for resize in (ops.adaptive_max_pool2d, ops.resize_nearest2d):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = resize(x, output_size)
            assert y.dtype == tape.gradient(y, x).dtype == dtype
            widened = resize(tf.cast(x, tf.float32), output_size)
            np.testing.assert_array_equal(tf.cast(y, tf.float32), widened)


def test_compiles():
    @tf.function(jit_compile=True)
    def compiled(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = [
                resize(x, size)
                for resize in (ops.adaptive_max_pool2d, ops.resize_nearest2d)
                for size in ((4, 5), (3, 7), (18, 14))
            ]
        return y, tape.gradient(y, x)

    x = tf.random.stateless_normal([1, 9, 7, 2], [0, 1])
    for a, b in zip(
        tf.nest.flatten(compiled(x)), tf.nest.flatten(compiled.python_function(x)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("resize", [ops.adaptive_max_pool2d, ops.resize_nearest2d])
def test_bad_arguments(resize):
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        resize(tf.zeros([3, 3]), (1, 1))
    with pytest.raises(ValueError, match="output_size"):
        resize(tf.zeros([1, 3, 3, 1]), (0, 1))
    with pytest.raises(ValueError, match="output_size"):
        resize(tf.zeros([1, 3, 3, 1]), (1, 1, 1))
