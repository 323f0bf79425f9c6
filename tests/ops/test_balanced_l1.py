import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import integrate

from libra_tf import ops

CONSTANTS = ["a0.2_g1.0_b1.0", "a0.5_g1.5_b0.11", "a0.5_g1.5_b1.0", "a0.5_g2.0_b0.5"]
ERRORS = npst.arrays(np.float32, 32, elements=st.floats(-(2.0**100), 2.0**100, width=32))


def value_and_gradient(error, *args, **kwargs):
    error = tf.constant(error)
    with tf.GradientTape() as tape:
        tape.watch(error)
        value = ops.balanced_l1(tf.zeros_like(error), error, *args, **kwargs)
    return value.numpy(), tape.gradient(value, error).numpy()


@pytest.mark.parametrize("constants", CONSTANTS)
def test_matches_mmdetection(golden_blocks, constants):
    golden = np.load(golden_blocks / f"balanced_l1_{constants}.npz")
    args = (float(golden["alpha"]), float(golden["gamma"]), float(golden["beta"]))
    value, gradient = value_and_gradient(golden["grid_diff"], *args, form="mmdet")
    np.testing.assert_allclose(value, golden["grid_loss_f64"], rtol=1e-5)
    np.testing.assert_allclose(gradient, golden["grid_grad_f64"], rtol=1e-5)


@pytest.mark.parametrize("beta", [0.11, 1.0, 3.0])
@pytest.mark.parametrize("end", [1e-3, 0.05, 0.9, 2.5, 4.0])
def test_is_the_integral_of_the_papers_gradient(beta, end):
    alpha, gamma = 0.5, 1.5
    b = np.exp(gamma / alpha) - 1

    def slope(x):
        return alpha * np.log(b * x / beta + 1) if x < beta else gamma

    expected, _ = integrate.quad(slope, 0, end, points=[min(beta, end)], epsrel=1e-12)
    value, gradient = value_and_gradient(np.float64([end, -end]), alpha, gamma, beta)
    np.testing.assert_allclose(value, [expected] * 2, rtol=1e-10)
    np.testing.assert_allclose(gradient, [slope(end), -slope(end)], rtol=1e-10)


@given(ERRORS)
@settings(deadline=None, max_examples=30)
def test_is_finite_symmetric_and_bounded(error):
    value, gradient = value_and_gradient(error)
    mirrored_value, mirrored_gradient = value_and_gradient(-error)
    assert np.isfinite(value).all() and (value >= 0).all()
    assert (np.abs(gradient) <= 1.5).all()
    np.testing.assert_array_equal(value, mirrored_value)
    np.testing.assert_array_equal(gradient, -mirrored_gradient)


@pytest.mark.parametrize("form", ["paper", "mmdet"])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
def test_extremes_of_each_type(dtype, form):
    error = tf.cast([0.0, float(dtype.max), float(dtype.min), 1e-7], dtype)
    value, gradient = value_and_gradient(error, beta=0.11, form=form)
    assert value.dtype == np.float32
    assert np.isfinite(value).all()
    np.testing.assert_allclose(gradient[:3].astype(np.float32), [0, 1.5, -1.5])


def test_nan_stays_nan():
    assert np.isnan(ops.balanced_l1([0.0], [np.nan]).numpy()).all()


def test_tiny_errors_keep_their_relative_precision():
    error = np.float32([1e-12, 1e-8, 1e-4])
    value, gradient = value_and_gradient(error)
    b = np.expm1(3.0)
    np.testing.assert_allclose(gradient, 0.5 * b * error, rtol=1e-3)
    np.testing.assert_allclose(value, 0.25 * b * error.astype(np.float64) ** 2, rtol=1e-3)


def test_gradient_reaches_the_targets_with_the_opposite_sign():
    y_true, y_pred = tf.constant([[0.3], [2.0]]), tf.constant([[0.1, 0.4, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch([y_true, y_pred])
        loss = ops.balanced_l1(y_true, y_pred)
    of_true, of_pred = tape.gradient(loss, [y_true, y_pred])
    _, gradient = value_and_gradient((y_pred - y_true).numpy())
    np.testing.assert_allclose(of_true, -gradient.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(of_pred, gradient.sum(0, keepdims=True), rtol=1e-6)


def test_second_derivative():
    error = tf.constant([-0.5, 0.2, 3.0])
    with tf.GradientTape() as outer:
        outer.watch(error)
        with tf.GradientTape() as inner:
            inner.watch(error)
            value = ops.balanced_l1(tf.zeros_like(error), error)
        gradient = inner.gradient(value, error)
    b = np.expm1(3.0)
    expected = [0.5 * b / (1 + b * 0.5), 0.5 * b / (1 + b * 0.2), 0]
    np.testing.assert_allclose(outer.gradient(gradient, error), expected, rtol=1e-5)


def test_compiles():
    error = tf.linspace(-3.0, 3.0, 50)

    @tf.function(jit_compile=True)
    def compiled(error):
        with tf.GradientTape() as tape:
            tape.watch(error)
            value = ops.balanced_l1(tf.zeros_like(error), error)
        return value, tape.gradient(value, error)

    for actual, expected in zip(compiled(error), value_and_gradient(error), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"alpha": 0}, "alpha"),
        ({"gamma": -1}, "gamma"),
        ({"beta": float("nan")}, "beta"),
        ({"alpha": 0.01, "gamma": 1.5}, "increase `alpha`"),
        ({"form": "smooth"}, "form"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        ops.balanced_l1([0.0], [1.0], **kwargs)
