"""The report matches anchors as MMDetection's training labels them."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.balance import samples
from libra_tf.dataloaders import mmdetection_labels
from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors

pytestmark = pytest.mark.one_lane


def test_kinds_are_the_labels():
    anchors = mmdetection_anchors.AnchorGenerator(3, 5, 3, [2.0, 1.0, 0.5], 4.0)([128, 160])
    boxes = tf.constant([[4.0, 6, 60, 70], [30, 20, 80, 100], [0, 0, 12, 9]])
    # Padded to 96x128, within a batch of 128x160.
    size = tf.constant([90, 110])
    labels = mmdetection_labels.label_retinanet(
        anchors, tf.constant([96, 128]), boxes, tf.constant([1, 2, 3]), 0.5, 0.4
    )
    padded_boxes = tf.concat([boxes, -tf.ones([2, 4])], axis=0)
    flat = tf.concat([tf.reshape(level, [-1, 4]) for level in anchors.values()], axis=0)
    is_valid = mmdetection_anchors.is_valid(anchors, size)
    matches = samples.match_mmdetection_anchors(flat, padded_boxes, 0.5, 0.4, 0.0, is_valid)
    is_positive = labels["box_weights"].numpy() > 0
    np.testing.assert_array_equal(matches.kinds.numpy() == samples.POSITIVE, is_positive)
    counts = labels["cls_weights"].numpy() > 0
    np.testing.assert_array_equal(matches.kinds.numpy() >= 0, counts)
    assert {-2, -1, 0, 1} == set(matches.kinds.numpy())
    classes = np.concatenate([x.numpy().ravel() for x in labels["cls_targets"].values()])
    np.testing.assert_array_equal(matches.instances.numpy()[is_positive] + 1, classes[is_positive])
