"""The non-local block compared with a direct implementation of its formula."""

import functools

import tensorflow as tf

from comparison import Comparison
from libra_tf.layers import NonLocal2D
from libra_tf.mixins.non_local import MODES

CHANNELS = 256
# The finest level of an 800x1333 image: 67,200 positions.
HUGE_MAP = (1, 200, 336, CHANNELS)


def comparisons():
    """Yields each mode, forward and backward, on a map at stride 8 of a 640x640 image."""
    shape = (1, 80, 80, CHANNELS)
    for mode in MODES:
        contestants = {"NonLocal2D": functools.partial(train, NonLocal2D(mode), shape)}
        if mode != "concatenation":
            contestants["formula"] = functools.partial(train, PlainNonLocal(mode), shape)
        yield Comparison(f"{mode} forward+backward, 80x80x{CHANNELS}", contestants)


def huge_map_comparisons():
    """Yields one training step of each mode on the huge map; the formula would need 18 GB."""
    for mode in MODES:
        yield Comparison(
            f"{mode} forward+backward, {'x'.join(map(str, HUGE_MAP[1:]))}",
            {"NonLocal2D": functools.partial(train, NonLocal2D(mode), HUGE_MAP)},
            slow=True,
        )


class PlainNonLocal(tf.Module):
    """Direct implementation of the formula: keeps the whole affinity matrix for the backward pass.

    Args:
      mode: "embedded_gaussian", "gaussian" or "dot_product".
    """

    def __init__(self, mode):
        super().__init__()
        self._mode = mode
        scales = {"g": 0.01, "theta": 0.01, "phi": 0.01, "out": 0.0}
        self._kernels = {
            name: tf.Variable(scale * tf.random.stateless_normal([CHANNELS] * 2, [0, index]))
            for index, (name, scale) in enumerate(scales.items())
        }

    def __call__(self, x):
        """Applies the block to [B, H, W, C]."""
        shape = tf.shape(x)
        flat = tf.reshape(x, [shape[0], -1, CHANNELS])
        theta = phi = flat
        if self._mode != "gaussian":
            theta, phi = flat @ self._kernels["theta"], flat @ self._kernels["phi"]
        affinities = tf.matmul(theta, phi, transpose_b=True)
        if self._mode == "dot_product":
            affinities /= tf.cast(tf.shape(flat)[1], tf.float32)
        else:
            affinities = tf.nn.softmax(affinities)
        return x + tf.reshape(
            affinities @ (flat @ self._kernels["g"]) @ self._kernels["out"], shape
        )


def train(layer, shape):
    """Returns a call that computes the gradients of all weights and of the input."""
    x = tf.random.stateless_normal(shape, [0, 1])
    layer(x[:, :4, :4])

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(value, [x, *layer.trainable_variables])

    return lambda: gradients(x)[0].numpy()
