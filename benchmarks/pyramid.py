"""The balanced feature pyramid compared with direct implementations in two frameworks."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping

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
# Batch, and height and width of the images.
SIZES = ((2, 640), (1, 1024))


def comparisons() -> Iterator[Comparison]:
    """Yields forward, and forward with backward, for each image size."""
    rate = _matrix_product_rate()
    for batch, size in SIZES:
        for with_gradient in (False, True):
            yield Comparison(
                f"{PASSES[with_gradient]}, {size}x{size} batch {batch}",
                _contestants(_shapes(batch, size), with_gradient),
                note=functools.partial(_share_of_rate, rate, batch, size, with_gradient),
            )


def _shapes(batch: int, size: int) -> dict[str, tuple[int, int, int, int]]:
    return {key: (batch, size // s, size // s, CHANNELS) for key, s in STRIDES.items()}


def _contestants(
    shapes: Mapping[str, tuple[int, ...]], with_gradient: bool
) -> dict[str, Callable[[], Callable[[], object]]]:
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

    def __call__(self, levels: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Balances the levels, `[B, H, W, C]`."""
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


def _build(
    make_layer: Callable[[], tf.Module],
    shapes: Mapping[str, tuple[int, ...]],
    with_gradient: bool,
) -> Callable[[], np.ndarray]:
    layer = make_layer()
    levels = {key: tf.random.stateless_normal(shape, [0, 1]) for key, shape in shapes.items()}
    layer(levels)
    cotangents = {key: tf.ones_like(level) for key, level in levels.items()}

    @tf.function
    def forward(levels: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return layer(levels)

    @tf.function
    def forward_and_backward(levels: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(levels)
            outputs = layer(levels)
        return tape.gradient(outputs, [levels, *layer.trainable_variables], cotangents)[0]

    compute = forward_and_backward if with_gradient else forward
    return lambda: compute(levels)[REFINE_LEVEL].numpy()


def _matrix_product_rate() -> float:
    """Returns the floating point operations per second of a large float32 matrix product."""
    size = 2048
    a, b = (tf.random.stateless_normal([size, size], [0, seed]) for seed in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        tf.matmul(a, b).numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / np.median(seconds)


def _share_of_rate(
    rate: float, batch: int, size: int, with_gradient: bool, name: str, seconds: float
) -> str:
    del name
    positions = (size // STRIDES[REFINE_LEVEL]) ** 2
    products = 4 * positions * CHANNELS**2 + 2 * positions**2 * CHANNELS
    operations = 2 * batch * products * (3 if with_gradient else 1)
    return f"{operations / seconds / rate:.0%} of a matrix product's {rate / 1e9:.0f} GFLOP/s"
