"""Every op in the places a user puts it: compiled, on several replicas, in a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf import ops
from libra_tf.losses import BalancedL1Loss

LARGE = 1e4
IOUS = tf.random.stateless_uniform([2, 40], [0, 1])
CANDIDATES = IOUS < 0.8
INSTANCES = tf.cast(IOUS * 6, tf.int32)
MAP = tf.random.stateless_normal([2, 9, 7, 4], [0, 2])
POSITIONS = tf.reshape(MAP, [2, -1, 4])
BOXES = tf.constant([[[0.3, 0.2, 6.1, 5.7], [2.2, 1.1, 8.4, 6.3]]] * 2)
PROJECTION = tf.random.stateless_normal([8, 1], [0, 3])

# By name, the function and its inputs; every sampler has a seed.
SAMPLERS = {
    "sample_random": (lambda c: ops.sample_random(c, 10, seed=3), [CANDIDATES]),
    "sample_iou_balanced": (
        lambda i, c: ops.sample_iou_balanced(i, c, 10, floor_threshold=0.1, seed=3),
        [IOUS, CANDIDATES],
    ),
    "sample_instance_balanced": (
        lambda i, c: ops.sample_instance_balanced(i, c, 10, 6, seed=3),
        [INSTANCES, CANDIDATES],
    ),
    "sample_class_balanced": (
        lambda i, k, c: ops.sample_class_balanced(i, k, c, 10, seed=3),
        [INSTANCES, tf.constant([[1, 1, 1, 2, 2, 3], [5, 4, 3, 2, 1, -1]]), CANDIDATES],
    ),
}
DIFFERENTIABLE = {
    "balanced_l1": (lambda a, b: ops.balanced_l1(a, b, beta=0.3), [MAP, MAP[::-1]]),
    "BalancedL1Loss": (BalancedL1Loss(reduction="none"), [MAP, MAP[::-1]]),
    "adaptive_max_pool2d": (lambda x: ops.adaptive_max_pool2d(x, (4, 5)), [MAP]),
    "add_nearest2d": (ops.add_nearest2d, [MAP, MAP[:, ::3]]),
    "resize_nearest2d": (lambda x: ops.resize_nearest2d(x, (20, 11)), [MAP]),
    "roi_align": (lambda x: ops.roi_align(x, BOXES, 1.0, output_size=3), [MAP]),
    "non_local_gaussian": (
        lambda t, p, g: ops.non_local_gaussian(t, p, g, query_block=16),
        [POSITIONS] * 3,
    ),
    "non_local_dot_product": (ops.non_local_dot_product, [POSITIONS] * 3),
    "non_local_concatenation": (
        lambda t, p, g: ops.non_local_concatenation(t, p, g, PROJECTION, query_block=16),
        [POSITIONS] * 3,
    ),
}
ALL = {**SAMPLERS, **DIFFERENTIABLE}


def names(functions):
    """By far the slowest one is tried in one lane only."""
    return [
        pytest.param(name, marks=pytest.mark.one_lane) if name == "roi_align" else name
        for name in functions
    ]


def test_every_op_is_here():
    assert set(ops.__all__) <= set(ALL)


@pytest.mark.parametrize("name", names(ALL))
def test_compiled(name):
    function, inputs = ALL[name]
    # A new wrapper, because jit_compile=True on the same function would find its old trace.
    compiled = tf.function(lambda *x: function(*x), jit_compile=True)(*inputs)
    np.testing.assert_allclose(compiled, function(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", names(ALL))
def test_on_two_replicas(name, two_devices):
    function, inputs = ALL[name]
    per_replica = two_devices.run(tf.function(lambda *x: function(*x)), inputs)
    for result in two_devices.experimental_local_results(per_replica):
        np.testing.assert_allclose(result, function(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", names(ALL))
def test_in_a_saved_model(name, tmp_path):
    function, inputs = ALL[name]
    module = tf.Module()
    signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs]
    module.apply = tf.function(lambda *x: function(*x), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path))
    restored = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(restored.apply(*inputs), function(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", names(DIFFERENTIABLE))
@pytest.mark.parametrize(
    ("jit_compile", "dtype"),
    [
        (True, tf.bfloat16),
        (False, tf.float16),
        pytest.param(False, tf.bfloat16, marks=pytest.mark.slow),
        pytest.param(True, tf.float16, marks=pytest.mark.slow),
    ],
)
def test_large_values_in_half_precision(name, dtype, jit_compile):
    """Finite just where the exact result fits into the type."""
    function, inputs = DIFFERENTIABLE[name]
    large = [tf.cast(tf.clip_by_value(LARGE * x, -LARGE, LARGE), dtype) for x in inputs]

    @tf.function(jit_compile=jit_compile)
    def apply(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
        return y, tape.gradient(y, tensors)

    y, gradients = apply(*large)
    exact = function(*(tf.cast(x, tf.float32) for x in large)).numpy()
    fits = np.abs(exact) < y.dtype.max
    values = tf.cast(y, tf.float32).numpy()
    # An overflow is NaN rather than infinity where float16 products of both signs are summed.
    np.testing.assert_array_equal(np.isfinite(values), fits)
    if fits.all():
        for gradient in gradients:
            assert not np.isnan(tf.cast(gradient, tf.float32)).any()
