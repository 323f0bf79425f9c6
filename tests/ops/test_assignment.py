"""MMDetection's assignment; test_verify_training.py compares it with MMDetection's numbers."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from official.vision.ops import iou_similarity

from libra_tf.ops import assignment

POSITIVE, NEGATIVE = 0.5, 0.4
IOUS = st.sampled_from([0.0, 0.2, 0.4])


def draw(seed, num_boxes, num_objects, num_padded=0):
    """Boxes on a coarse grid, so that ties and IoUs of 0 and 1 occur, and padded objects."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 8, [num_boxes + num_objects, 2])
    rows = np.concatenate([corners, corners + rng.integers(1, 5, corners.shape)], axis=1) * 8.0
    objects = np.concatenate([rows[num_boxes:], np.full([num_padded, 4], -1)])
    return rows[:num_boxes].astype(np.float32), objects.astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 6))
def test_iou_is_model_gardens(seed, num_boxes, num_objects):
    boxes, objects = draw(seed, num_boxes, num_objects)
    found = assignment.pairwise_iou(tf.constant(boxes), tf.constant(objects))
    expected = iou_similarity.IouSimilarity()(tf.constant(boxes), tf.constant(objects))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 6), st.one_of(st.none(), IOUS))
def test_contract(seed, num_boxes, num_objects, least):
    boxes, objects = draw(seed, num_boxes, num_objects, num_padded=2)
    is_valid = np.random.default_rng(seed).uniform(size=num_boxes) < 0.8
    assigned, max_ious = (
        x.numpy()
        for x in assignment.assign_max_iou(
            tf.constant(boxes),
            tf.constant(objects),
            POSITIVE,
            NEGATIVE,
            least,
            tf.constant(is_valid),
        )
    )
    ious = assignment.pairwise_iou(tf.constant(boxes), tf.constant(objects)).numpy()
    ious = np.where(is_valid[:, None], ious, 0)[:, :num_objects]
    np.testing.assert_array_equal(max_ious, ious.max(axis=1, initial=0))
    assert (assigned[~is_valid] == assignment.IGNORED).all()
    assert (assigned <= num_objects).all()

    best = ious[is_valid].max(axis=0, initial=-1)
    claimed = np.zeros(num_boxes, int)
    for number, value in enumerate(best, start=1):
        if least is not None and value >= least:
            claimed[is_valid & (ious[:, number - 1] == value)] = number
    is_claimed = claimed > 0
    np.testing.assert_array_equal(assigned[is_claimed], claimed[is_claimed])
    others = is_valid & ~is_claimed
    is_positive = others & (max_ious >= POSITIVE)
    assert (assigned[is_positive] > 0).all()
    own = ious[is_positive, assigned[is_positive] - 1]
    np.testing.assert_array_equal(own, max_ious[is_positive])
    in_between = (max_ious >= NEGATIVE) & (max_ious < POSITIVE)
    assert (assigned[others & in_between] == assignment.IGNORED).all()
    assert (assigned[others & (max_ious < NEGATIVE)] == assignment.NEGATIVE).all()


def test_batches_are_single_images():
    rows = [draw(seed, 20, 3, 1) for seed in range(3)]
    boxes, objects = (tf.constant(np.stack(x)) for x in zip(*rows, strict=True))
    together, _ = assignment.assign_max_iou(boxes, objects, POSITIVE, NEGATIVE, 0.0)
    for index, row in enumerate(rows):
        alone, _ = assignment.assign_max_iou(*map(tf.constant, row), POSITIVE, NEGATIVE, 0.0)
        np.testing.assert_array_equal(together[index], alone)
