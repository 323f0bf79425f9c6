"""Batch norms whose statistics stay while scale and shift are trained."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.modeling.mmdetection import norms

pytestmark = pytest.mark.one_lane


def test_trains_scale_and_shift_alone():
    layer = norms.norm_class(False)(trainable=False, epsilon=1e-5)
    images = tf.random.stateless_normal([2, 3, 3, 4], [0, 0], mean=2.0, stddev=3.0)
    with tf.GradientTape() as tape:
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(outputs**2)
    assert [v.name.split("/")[-1] for v in layer.trainable_variables] == ["gamma:0", "beta:0"]
    np.testing.assert_allclose(outputs, images / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))
    np.testing.assert_array_equal(layer.moving_variance, np.ones(4))
    scale, shift = tape.gradient(loss, layer.trainable_variables)
    np.testing.assert_allclose(scale, tf.reduce_sum(2 * outputs**2, axis=[0, 1, 2]), rtol=1e-4)
    np.testing.assert_allclose(shift, tf.reduce_sum(2 * outputs, axis=[0, 1, 2]), rtol=1e-4)
    layer.trainable = False
    assert not layer.trainable_variables


def test_trainable_statistics_move():
    layer = norms.norm_class(True)()
    layer(tf.random.stateless_normal([2, 3, 3, 4], [0, 0], mean=2.0), training=True)
    assert np.all(layer.moving_mean.numpy() != 0)
