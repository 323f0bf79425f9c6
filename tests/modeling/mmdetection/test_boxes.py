"""Anchors, box coder and suppression against MMDetection's numbers."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.modeling.mmdetection import boxes
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator

pytestmark = pytest.mark.one_lane

YX_FROM_XY = [1, 0, 3, 2]
# What the level is, and Model Garden's scales and size.
ANCHORS = {"rpn": (2, 1, 8.0), "retina": (3, 3, 4.0)}
IMAGE_SHAPE = tf.constant([300.0, 350.0])


def read(golden_blocks, name):
    with np.load(golden_blocks / f"extras_{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", ANCHORS)
def test_anchors(golden_blocks, kind):
    numbers = read(golden_blocks, "anchors")
    first, num_scales, anchor_size = ANCHORS[kind]
    generator = AnchorGenerator(first, first + 4, num_scales, [2.0, 1.0, 0.5], anchor_size)
    for index in range(5):
        height, width = numbers["sizes"][index]
        level = first + index
        anchors = generator([tf.constant(side * 2**level) for side in (int(height), int(width))])
        anchors = tf.reshape(anchors[str(level)], [-1, 4])
        expected = numbers[f"{kind}_grid{index}"][:, YX_FROM_XY]
        np.testing.assert_allclose(anchors, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "name"), [(None, "std1"), ([10.0, 10.0, 5.0, 5.0], "std0102")], ids=["1", "0.1"]
)
def test_decode(golden_blocks, weights, name):
    numbers = read(golden_blocks, "coder")
    rois, deltas = (numbers[key][:, YX_FROM_XY] for key in ("rois", "deltas"))
    decoded = boxes.decode(tf.constant(deltas), tf.constant(rois), IMAGE_SHAPE, weights)
    expected = numbers[f"dec_{name}_clip_300x350"][:, YX_FROM_XY]
    np.testing.assert_allclose(decoded, expected, rtol=1e-5, atol=1e-3)


def test_decode_limits_how_much_smaller_a_box_gets():
    anchor = tf.constant([[0.0, 0.0, 1000.0, 1000.0]])
    decoded = boxes.decode(tf.constant([[0.0, 0.0, -20.0, -20.0]]), anchor, [1000.0, 1000.0])
    np.testing.assert_allclose(decoded[0, 2:] - decoded[0, :2], [16, 16], rtol=1e-3)


def test_swap_xy():
    values = np.arange(16).reshape(8, 2)
    swapped = boxes.swap_xy(values, axis=0)
    assert swapped[:, 0].tolist() == [2, 0, 6, 4, 10, 8, 14, 12]
    np.testing.assert_array_equal(boxes.swap_xy(values.T, axis=-1), swapped.T)
    np.testing.assert_array_equal(boxes.swap_xy(swapped, axis=0), values)


@pytest.mark.parametrize("seed", range(3))
def test_suppress(golden_blocks, seed):
    numbers = read(golden_blocks, f"nms_s{seed}")
    candidates = numbers["mc_boxes"].reshape(1, -1, 5, 4)[..., YX_FROM_XY]
    # Their background is the last class.
    scores = numbers["mc_scores"][np.newaxis, :, :5]
    found, found_scores, labels, count = boxes.suppress(candidates, scores, 100, 0.5, 0.05)
    expected = numbers["mc_dets"]
    assert int(count[0]) == len(expected)
    np.testing.assert_allclose(found_scores[0], expected[:, 4], rtol=1e-6)
    np.testing.assert_array_equal(labels[0], numbers["mc_labels"])
    np.testing.assert_allclose(found[0], expected[:, YX_FROM_XY], rtol=1e-5)


def test_boxes_without_area_take_no_place_from_others():
    """Clipped boxes have none if they lay beyond the image."""
    empty = [[0.0, 50.0, 40.0, 50.0], [60.0, 0.0, 60.0, 30.0]]
    candidates = tf.constant([*empty, [0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 80.0, 80.0]])
    scores = tf.constant([boxes.NO_SCORE] * 2 + [0.6, 0.4])
    inputs = (candidates[tf.newaxis, :, tf.newaxis], scores[tf.newaxis, :, tf.newaxis])
    found, found_scores, counts = boxes.suppress_compilable(*inputs, 2, 0.7)
    expected, expected_scores, _, _ = boxes.suppress(*inputs, 2, 0.7, boxes.NO_SCORE / 2)
    assert int(counts[0]) == 2
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_scores, expected_scores)
