"""Balanced L1 compared with Keras' Huber: the loss and its gradient."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from comparison import Comparison
from libra_tf.compat import keras
from libra_tf.losses import BalancedL1Loss

try:
    import pytorch
except ImportError:
    pytorch = None

SHAPE = (100_000, 4)


def comparisons() -> Iterator[Comparison]:
    """Yields the comparison in graph mode and with XLA."""
    for jit_compile in (False, True):
        contestants = {
            name: functools.partial(_value_and_gradient, loss, jit_compile)
            for name, loss in (
                ("BalancedL1Loss", BalancedL1Loss),
                ("Keras Huber", keras.losses.Huber),
            )
        }
        if pytorch:
            contestants["formula in PyTorch"] = functools.partial(pytorch.build_balanced_l1, SHAPE)
        yield Comparison(
            f"loss and gradient, {SHAPE[0]:,} x {SHAPE[1]}{', XLA' if jit_compile else ''}",
            contestants,
        )


def _value_and_gradient(
    loss_class: type[keras.losses.Loss], jit_compile: bool
) -> Callable[[], np.ndarray]:
    loss = loss_class()
    y_true, y_pred = (tf.random.stateless_normal(SHAPE, [0, seed]) for seed in range(2))

    @tf.function(jit_compile=jit_compile)
    def compute(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred)
        return value, tape.gradient(value, y_pred)

    return lambda: compute(y_true, y_pred)[1].numpy()
