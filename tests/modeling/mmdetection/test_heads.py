"""The heads start from MMDetection's initial weights."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.modeling.mmdetection import heads

pytestmark = pytest.mark.one_lane

FEATURES = {"3": tf.zeros([1, 2, 2, 64]), "4": tf.zeros([1, 1, 1, 64])}


def deviations(layers):
    return [float(np.std(layer.kernel)) for layer in tf.nest.flatten(layers)]


@pytest.mark.parametrize("kind", ["retinanet", "rpn"])
def test_dense_heads(kind):
    keras.utils.set_random_seed(0)
    if kind == "retinanet":
        head = heads.RetinaNetHead(3, 4, 5, 9, num_convs=2, num_filters=64)
        head(FEATURES)
        hidden = [*head._cls_convs, *head._box_convs]
    else:
        head = heads.RPNHead(3, 4, 9, num_filters=64)
        head(FEATURES)
        hidden = list(head._convs)
    layers = [*hidden, head._classifier, head._box_regressor]
    # The smallest of them has 576 weights.
    np.testing.assert_allclose(deviations(layers), [0.01] * len(layers), rtol=0.15)


def test_head_of_the_rois():
    keras.utils.set_random_seed(0)
    head = heads.DetectionHead(5, num_fcs=2, fc_dims=128)
    head(tf.zeros([1, 1, 7, 7, 4]))
    # Xavier's: uniform, with a variance of 2 / (inputs + outputs).
    expected = [np.sqrt(2 / (196 + 128)), np.sqrt(2 / (128 + 128)), 0.01, 0.001]
    layers = [*head._fcs, head._classifier, head._box_regressor]
    np.testing.assert_allclose(deviations(layers), expected, rtol=0.15)
