import numpy as np
import pytest
import tensorflow as tf

from libra_tf import ops
from libra_tf.balance import boxes
from libra_tf.compat import keras
from libra_tf.configs import components, maskrcnn, retinanet

ERRORS = np.array([-2.5, -0.7, -0.05, 0.02, 0.3, 0.95, 1.05, 4.0], np.float32)


@pytest.mark.parametrize("beta", [0.11, 1.0])
def test_slope_of_balanced_l1_is_that_of_its_value(beta):
    constants = components.BalancedL1(alpha=0.7, gamma=1.2, beta=beta)
    loss = boxes.BoxLoss(beta, constants)
    step = 1e-4
    above, below = (
        ops.balanced_l1(0.0, tf.constant(ERRORS + d, tf.float64), **constants.as_dict())
        for d in (step, -step)
    )
    expected = np.abs(above - below) / (2 * step)
    np.testing.assert_allclose(loss.slopes(tf.constant(ERRORS)), expected, rtol=2e-3)


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_slope_of_huber_is_that_of_its_value(delta):
    step, expected = 1e-3, []
    for error in ERRORS.astype(np.float64):
        above, below = (
            float(keras.losses.huber([[0.0]], [[error + d]], delta)[0]) for d in (step, -step)
        )
        expected.append(abs(above - below) / (2 * step))
    slopes = boxes.BoxLoss(delta).slopes(tf.constant(ERRORS))
    np.testing.assert_allclose(slopes, expected, rtol=1e-2)


def test_the_loss_of_a_run():
    losses = retinanet.Losses()
    losses.balanced_l1.beta = 0.3
    losses.box_loss = "huber"
    assert boxes.box_loss(losses, 0.1) == boxes.BoxLoss(0.1, None)
    losses.box_loss = "balanced_l1"
    assert boxes.box_loss(losses, 0.1) == boxes.BoxLoss(0.3, losses.balanced_l1)
    assert boxes.box_loss(maskrcnn.Losses(), 1.0).balanced_l1 is not None


def test_anchors_are_told_apart_by_their_weights():
    """Two levels, of 1x2 and 1x1 positions, with one anchor each."""
    targets = {"3": tf.zeros([1, 1, 2, 4]), "4": tf.ones([1, 1, 1, 4])}
    outputs = {"4": tf.fill([1, 1, 1, 4], 3.0), "3": tf.fill([1, 1, 2, 4], 0.5)}
    errors = boxes.of_anchors(outputs, targets, tf.constant([[0.0, 1.0, 1.0]]))
    np.testing.assert_array_equal(errors.errors[0][0, 0, :, 0], [0.5, 0.5])
    np.testing.assert_array_equal(errors.errors[1][0, 0, 0], [2, 2, 2, 2])
    np.testing.assert_array_equal(errors.is_positive[0][0, 0], [[False] * 4, [True] * 4])
    np.testing.assert_array_equal(errors.is_positive[1][0, 0], [[True] * 4])


def test_positives_of_an_rpn_have_targets():
    targets = {"3": tf.constant([0.0, 0, 0, 0, 0, 0.2, 0, 0], shape=[1, 1, 1, 8])}
    errors = boxes.of_rpn({"3": tf.ones([1, 1, 1, 8])}, targets)
    np.testing.assert_array_equal(errors.is_positive[0][0, 0, 0], [False] * 4 + [True] * 4)
    np.testing.assert_allclose(errors.errors[0][0, 0, 0], [1, 1, 1, 1, 1, 0.8, 1, 1])


def test_positives_of_mmdetections_rpn_are_sampled():
    """Two anchors with targets, of which one is sampled, and a sampled negative."""
    targets = {"3": tf.reshape(tf.constant([0.2] * 8 + [0.0] * 4), [1, 1, 1, 12])}
    sampled = {"3": tf.constant([-1, 1, 0], shape=[1, 1, 1, 3])}
    errors = boxes.of_rpn({"3": tf.ones([1, 1, 1, 12])}, targets, sampled)
    expected = [False] * 4 + [True] * 4 + [False] * 4
    np.testing.assert_array_equal(errors.is_positive[0][0, 0, 0], expected)


def test_only_the_box_of_the_class_counts():
    """Three classes, the background among them; a negative, and a positive of class 2."""
    outputs = tf.reshape(tf.range(24.0), [1, 2, 12])
    targets = tf.constant([[[0.0] * 4, [1.0, 2, 3, 4]]])
    errors = boxes.of_rois(outputs, targets, tf.constant([[0, 2]]), class_agnostic=False)
    is_positive = errors.is_positive[0].numpy()
    np.testing.assert_array_equal(is_positive[0, 0], [False] * 12)
    np.testing.assert_array_equal(is_positive[0, 1], [False] * 8 + [True] * 4)
    np.testing.assert_array_equal(errors.errors[0].numpy()[is_positive], [19, 19, 19, 19])


def test_a_class_agnostic_head_has_one_box():
    outputs, targets = tf.ones([1, 2, 4]), tf.zeros([1, 2, 4])
    errors = boxes.of_rois(outputs, targets, tf.constant([[0.0, 2.0]]), class_agnostic=True)
    np.testing.assert_array_equal(errors.is_positive[0][0], [[False] * 4, [True] * 4])
    np.testing.assert_array_equal(errors.errors[0], outputs)
