import numpy as np
import pytest
import tensorflow as tf

from libra_tf import ops
from libra_tf.configs import components
from libra_tf.modeling import box_losses

RNG = np.random.default_rng(0)
CONFIG = components.BalancedL1(alpha=0.5, gamma=1.5, beta=0.5)


def elementwise(targets, outputs):
    return ops.balanced_l1(targets, outputs, alpha=0.5, gamma=1.5, beta=0.5).numpy()


def test_retinanet_box_loss_is_the_weighted_mean_over_positives():
    shapes = {"3": [2, 4, 4, 8], "4": [2, 2, 2, 8]}
    targets = {k: RNG.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    outputs = {k: RNG.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    weights = RNG.integers(0, 2, [2, 40]).astype(np.float32)
    flat = [
        np.concatenate([levels[k].reshape(2, -1, 4) for k in ("3", "4")], axis=1)
        for levels in (targets, outputs)
    ]
    expected = (elementwise(*flat).mean(-1) * weights).sum() / (weights.sum() + 1)
    actual = box_losses.retinanet_box_loss(CONFIG, targets, outputs, weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("normalizer", ["positives", "sampled_rois"])
def test_roi_box_loss_normalizers(normalizer, class_agnostic):
    batch, num_rois, num_classes = 2, 16, 3
    classes = RNG.integers(0, num_classes, [batch, num_rois])
    targets = RNG.normal(size=[batch, num_rois, 4]).astype(np.float32)
    per_class = RNG.normal(size=[batch, num_rois, num_classes, 4]).astype(np.float32)
    if class_agnostic:
        outputs = chosen = per_class[:, :, 0]
    else:
        outputs = per_class.reshape(batch, num_rois, -1)
        chosen = np.take_along_axis(per_class, classes[..., None, None], axis=2)[:, :, 0]
    summed = (elementwise(targets, chosen) * (classes > 0)[..., None]).sum()
    divisor = {"positives": 4 * (classes > 0).sum() + 0.01, "sampled_rois": batch * num_rois}
    loss = box_losses.BalancedFastrcnnBoxLoss(CONFIG, class_agnostic, normalizer)
    actual = loss(tf.constant(outputs), tf.constant(classes), tf.constant(targets))
    np.testing.assert_allclose(actual, summed / divisor[normalizer], rtol=1e-3)


def test_the_normalizers_agree_when_a_quarter_of_the_rois_are_positive():
    classes = tf.constant([[1, 0, 0, 0] * 8])
    targets, outputs = (tf.constant(RNG.normal(size=[1, 32, 4]), tf.float32) for _ in range(2))
    positives, sampled = (
        box_losses.BalancedFastrcnnBoxLoss(CONFIG, True, name)(outputs, classes, targets)
        for name in ("positives", "sampled_rois")
    )
    np.testing.assert_allclose(positives, sampled, rtol=1e-3)


def test_mmdetections_roi_loss(golden_blocks):
    """MMDetection: summed over positives and coordinates, divided by the sampled RoIs."""
    golden = np.load(golden_blocks / "balanced_l1_a0.5_g1.5_b1.0.npz")
    size = golden["grid_diff"].size // 4 * 4
    outputs = tf.reshape(tf.constant(golden["grid_diff"][:size], tf.float32), [1, -1, 4])
    classes = tf.ones([1, size // 4], tf.int32)
    config = components.BalancedL1(form="mmdet")
    loss = box_losses.BalancedFastrcnnBoxLoss(config, True, "sampled_rois")
    expected = golden["grid_loss_f64"][:size].sum() / (size // 4)
    np.testing.assert_allclose(loss(outputs, classes, tf.zeros_like(outputs)), expected, rtol=1e-5)
