"""Matching as in Model Garden, and quotas. The draws are tested in tests/ops."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling.layers import roi_sampler
from official.vision.ops import anchor

from libra_tf.balance import quotas, samples

pytestmark = pytest.mark.one_lane

PADDING = tf.fill([3, 4], -1.0)


def random_boxes(number, seed, largest=40.0):
    corners, sides = tf.random.stateless_uniform([2, number, 2], [seed, number])
    return tf.concat([60 * corners, 60 * corners + 2 + largest * sides], axis=-1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.7, 0.3)])
def test_anchors_match_as_the_labels_of_training(seed, thresholds):
    """Some objects are below the threshold, one overlaps no anchor: they claim an anchor."""
    anchors = random_boxes(200, seed)
    objects = tf.concat([random_boxes(5, seed), [[400.0, 400, 410, 410]]], axis=0)
    labeler = anchor.AnchorLabeler(*thresholds)
    classes, _, _, cls_weights, box_weights = labeler.label_anchors(
        {"3": tf.reshape(anchors, [1, 200, 4])}, objects, tf.range(1, 7)[:, tf.newaxis]
    )
    matches = samples.match_anchors(anchors, tf.concat([objects, PADDING], 0), *thresholds)
    is_positive = matches.kinds == samples.POSITIVE
    np.testing.assert_array_equal(is_positive, box_weights > 0)
    np.testing.assert_array_equal(matches.kinds == samples.IGNORED, cls_weights == 0)
    matched = tf.where(is_positive, matches.instances + 1, -1)
    np.testing.assert_array_equal(matched, tf.reshape(classes["3"], [-1]))
    # An anchor that is positive only because an object claimed it.
    assert float(tf.reduce_min(matches.ious[is_positive])) < thresholds[1]


def test_anchors_of_an_image_without_objects_are_negative():
    matches = samples.match_anchors(random_boxes(30, 0), PADDING, 0.5, 0.4)
    np.testing.assert_array_equal(matches.kinds, [samples.NEGATIVE] * 30)
    np.testing.assert_array_equal(matches.ious, np.zeros(30))


def test_padding_changes_no_match():
    anchors, objects = random_boxes(100, 1), random_boxes(3, 1)
    alone = samples.match_anchors(anchors, objects, 0.5, 0.4)
    padded = samples.match_anchors(anchors, tf.concat([objects, PADDING], 0), 0.5, 0.4)
    tf.nest.map_structure(np.testing.assert_array_equal, alone, padded)


def test_proposals_match_by_the_thresholds_of_the_sampler():
    sampler = roi_sampler.ROISampler(
        foreground_iou_threshold=0.75,
        background_iou_high_threshold=0.5,
        background_iou_low_threshold=0.1,
    )
    objects = tf.constant([[0.0, 0, 10, 10], [20, 20, 30, 30], [-1, -1, -1, -1]])
    proposals = tf.constant(
        [
            [0.0, 0, 10, 8],
            [20, 20, 30, 26],
            [20, 20, 30, 22],
            [0, 0, 1, 5],
            [50, 50, 60, 60],
            [-1, -1, -1, -1],
        ]
    )
    matches = samples.match_proposals(proposals, objects, sampler)
    np.testing.assert_array_equal(
        matches.kinds,
        [samples.POSITIVE, samples.IGNORED, samples.NEGATIVE] + 3 * [samples.NO_CANDIDATE],
    )
    np.testing.assert_allclose(matches.ious, [0.8, 0.6, 0.2, 0.05, 0, 0])
    np.testing.assert_array_equal(matches.instances[:3], [0, 1, 1])


def test_proposals_of_an_image_without_objects_are_no_candidates():
    matches = samples.match_proposals(random_boxes(5, 0), PADDING, roi_sampler.ROISampler())
    np.testing.assert_array_equal(matches.kinds, [samples.NO_CANDIDATE] * 5)
    np.testing.assert_array_equal(matches.ious, np.zeros(5))


QUOTA = quotas.Quota(num_samples=12, positive_fraction=0.25, negative_iou=0.5)


@pytest.mark.parametrize(
    ("limit", "num_positives", "expected"),
    [(0, 0, 12), (0, 2, 10), (0, 9, 9), (5, 0, 5), (5, 1, 5), (5, 2, 10), (5, 9, 9)],
)
def test_a_quota_of_negatives(limit, num_positives, expected):
    quota = dataclasses.replace(QUOTA, max_negatives_per_positive=limit)
    assert int(quota.num_negatives(tf.range(20) < num_positives)) == expected


def test_picks_have_their_number_of_the_right_kind():
    kinds = tf.constant([samples.POSITIVE] * 9 + [samples.NEGATIVE] * 40 + [samples.IGNORED] * 9)
    matches = samples.Matches(tf.linspace(1.0, 0.0, 58), kinds, tf.range(58) % 3)
    negatives = samples.pick_negatives(matches, QUOTA, seed=3)
    assert set(negatives) == {"random", "iou_balanced", "mmdet"}
    for mask in negatives.values():
        np.testing.assert_array_equal(kinds[mask], [samples.NEGATIVE] * 9)
    positives = samples.pick_positives(matches, QUOTA, 3, seed=3)
    counts = {
        name: samples.count_by_instance(mask, matches.instances, 3).numpy()
        for name, mask in positives.items()
    }
    np.testing.assert_array_equal(counts["all"], [3, 3, 3])
    assert counts["random"].sum() == counts["instance_balanced"].sum() == 3
    for mask in positives.values():
        assert set(kinds[mask].numpy()) == {samples.POSITIVE}


@pytest.mark.slow
def test_compiled_and_eager_measures_agree():
    """Static shapes, as a step on a TPU needs them."""
    anchors, objects = random_boxes(80, 2), tf.concat([random_boxes(4, 2), PADDING], 0)

    def measure(anchors, objects):
        matches = samples.match_anchors(anchors, objects, 0.5, 0.4)
        return matches, samples.pick_negatives(matches, QUOTA, tf.constant([0, 1]))

    compiled = tf.function(measure, jit_compile=True)
    matches, picks = measure(anchors, objects)
    of_compiled, picks_of_compiled = compiled(anchors, objects)
    np.testing.assert_allclose(matches.ious, of_compiled.ious, rtol=1e-6)
    tf.nest.map_structure(
        np.testing.assert_array_equal,
        (matches.kinds, matches.instances, picks["random"]),
        (of_compiled.kinds, of_compiled.instances, picks_of_compiled["random"]),
    )
