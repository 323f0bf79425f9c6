import numpy as np
import pytest
import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.losses import BalancedL1Loss
from tests import arguments


@pytest.mark.parametrize("reduction", ["none", "sum", "sum_over_batch_size"])
def test_reduces_as_huber_does(reduction):
    """Near 0 both losses are multiples of x^2."""
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.normal(size=(2, 5, 3, 4)).astype(np.float32) * 1e-6
    weights = rng.uniform(size=(5, 3)).astype(np.float32)
    loss = BalancedL1Loss(reduction=reduction)(y_true, y_pred, sample_weight=weights)
    huber = keras.losses.Huber(reduction=reduction)(y_true, y_pred, sample_weight=weights)
    np.testing.assert_allclose(loss, 0.5 * np.expm1(3.0) * huber, rtol=2e-3)


@pytest.mark.parametrize(
    ("reduction", "theirs"), [("none", "none"), ("sum_over_batch_size", "mean"), ("sum", "sum")]
)
def test_matches_mmdetection(golden_blocks, reduction, theirs):
    golden = np.load(golden_blocks / "balanced_l1_a0.5_g1.5_b0.11.npz")
    loss = BalancedL1Loss(beta=0.11, form="mmdet", reduction=reduction)
    # One element per row: MMDetection has no mean over the last axis.
    actual = loss(golden["s0_target"][..., None], golden["s0_pred"][..., None])
    np.testing.assert_allclose(actual, golden[f"s0_loss_{theirs}"], rtol=1e-5)


def test_config_round_trip():
    loss = BalancedL1Loss(0.4, 1.2, 0.2, "mmdet", reduction="sum", name="box")
    assert arguments.kept(loss, BalancedL1Loss()) == arguments.names(BalancedL1Loss)
    assert loss.get_config()["reduction"] == "sum"
    restored = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(restored, BalancedL1Loss)
    assert restored.get_config() == loss.get_config()
    assert keras.utils.get_registered_name(BalancedL1Loss) == "libra_tf>BalancedL1Loss"


def test_half_precision_predictions():
    loss = BalancedL1Loss()(tf.zeros([2, 4], tf.float16), tf.fill([2, 4], tf.float16.max))
    assert np.isfinite(loss.numpy())


def test_fits_a_line():
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
    model.compile(keras.optimizers.SGD(0.1), BalancedL1Loss(), jit_compile=True)
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    history = model.fit(x, 2 * x + 1, epochs=60, verbose=0).history["loss"]
    assert history[-1] < 0.02 * history[0]


def test_bad_arguments():
    with pytest.raises(ValueError, match="gamma"):
        BalancedL1Loss(gamma=0)
