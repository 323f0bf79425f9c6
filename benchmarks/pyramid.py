"""The balanced feature pyramid compared with direct implementations in two frameworks."""

import functools
import time

import numpy as np
import tensorflow as tf

from comparison import Comparison
from libra_tf.layers import BalancedFeaturePyramid
from non_local import CHANNELS, PlainNonLocal

try:
    import pytorch
except ImportError:
    pytorch = None

STRIDES = {"2": 4, "3": 8, "4": 16, "5": 32, "6": 64}
REFINE_LEVEL = "4"
PASSES = {False: "forward", True: "forward+backward"}
# Milliseconds of MMDetection's BFP on another machine: forward; forward and backward.
MMDETECTION = {(2, 640): (142, 307), (1, 1024): (303, 665)}


def comparisons():
    """Yields forward, and forward with backward, for each image size."""
    rate = _matrix_product_rate()
    for (batch, size), milliseconds in MMDETECTION.items():
        for with_gradient in (False, True):
            yield Comparison(
                f"{PASSES[with_gradient]}, {size}x{size} batch {batch}",
                _contestants(_shapes(batch, size), with_gradient),
                {"MMDetection BFP": milliseconds[with_gradient]},
                functools.partial(_share_of_rate, rate, batch, size, with_gradient),
            )


def _shapes(batch, size):
    return {key: (batch, size // s, size // s, CHANNELS) for key, s in STRIDES.items()}


def _contestants(shapes, with_gradient):
    contestants = {
        "BalancedFeaturePyramid": functools.partial(
            _build, lambda: BalancedFeaturePyramid(REFINE_LEVEL), shapes, with_gradient
        ),
        "formula in TensorFlow": functools.partial(_build, PlainPyramid, shapes, with_gradient),
    }
    if pytorch:
        contestants["formula in PyTorch"] = functools.partial(
            pytorch.build_pyramid, shapes, REFINE_LEVEL, with_gradient
        )
    return contestants


class PlainPyramid(tf.Module):
    """Direct implementation of the formula, for sizes that divide each other."""

    def __init__(self):
        super().__init__()
        self._refine = PlainNonLocal("embedded_gaussian")

    def __call__(self, levels):
        """Balances a dict of levels."""
        size = tf.shape(levels[REFINE_LEVEL])[1:3]
        gathered = [
            tf.nn.max_pool2d(level, ratio, ratio, "VALID")
            if (ratio := STRIDES[REFINE_LEVEL] // STRIDES[key]) > 0
            else tf.image.resize(level, size, "nearest")
            for key, level in levels.items()
        ]
        balanced = self._refine(tf.add_n(gathered) / len(gathered))
        return {
            key: level
            + (
                tf.nn.max_pool2d(balanced, ratio, ratio, "VALID")
                if (ratio := STRIDES[key] // STRIDES[REFINE_LEVEL]) > 0
                else tf.image.resize(balanced, tf.shape(level)[1:3], "nearest")
            )
            for key, level in levels.items()
        }


def _build(make_layer, shapes, with_gradient):
    layer = make_layer()
    levels = {key: tf.random.stateless_normal(shape, [0, 1]) for key, shape in shapes.items()}
    layer(levels)
    cotangents = {key: tf.ones_like(level) for key, level in levels.items()}

    @tf.function
    def forward(levels):
        return layer(levels)

    @tf.function
    def forward_and_backward(levels):
        with tf.GradientTape() as tape:
            tape.watch(levels)
            outputs = layer(levels)
        return tape.gradient(outputs, [levels, *layer.trainable_variables], cotangents)[0]

    compute = forward_and_backward if with_gradient else forward
    return lambda: compute(levels)[REFINE_LEVEL].numpy()


def _matrix_product_rate():
    """Returns the floating point operations per second of a large float32 matrix product."""
    size = 2048
    a, b = (tf.random.stateless_normal([size, size], [0, seed]) for seed in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        tf.matmul(a, b).numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / np.median(seconds)


def _share_of_rate(rate, batch, size, with_gradient, name, seconds):
    del name
    positions = (size // STRIDES[REFINE_LEVEL]) ** 2
    products = 4 * positions * CHANNELS**2 + 2 * positions**2 * CHANNELS
    operations = 2 * batch * products * (3 if with_gradient else 1)
    return f"{operations / seconds / rate:.0%} of a matrix product's {rate / 1e9:.0f} GFLOP/s"
