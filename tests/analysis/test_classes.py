"""What each class gets of a classification loss."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf.analysis import classes
from libra_tf.analysis.detector import ClassHead
from libra_tf.analysis.samples import Candidates
from libra_tf.balance.samples import IGNORED, NEGATIVE, POSITIVE
from libra_tf.data import annotations

pytestmark = pytest.mark.one_lane

_EXAMPLES = settings(max_examples=20, deadline=None)
_LOGITS = st.floats(-6, 6, width=32)


def measure(head, slopes):
    measured = classes.gradients_of_classes(head, slopes)
    return classes.ClassGradients(*(tensor.numpy() for tensor in measured))


@_EXAMPLES
@given(st.data(), st.integers(1, 6), st.integers(2, 5))
def test_gradients_of_softmax(data, number, num_classes):
    """The derivative of cross-entropy is the probability, less 1 for the class itself."""
    logits = data.draw(hnp.arrays(np.float32, [2, number, num_classes], elements=_LOGITS))
    shape = [2, number]
    targets = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, num_classes - 1)))
    with tf.GradientTape() as tape:
        scores = tf.Variable(logits)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, scores)
    head = ClassHead("frcnn_cls", [scores], [tf.cast(targets, tf.float32)])
    measured = measure(head, [tape.gradient(loss, scores)])
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=-1).reshape(
        -1, num_classes
    )
    for category in range(num_classes):
        is_of_class = targets.reshape(-1) == category
        score = probabilities[:, category]
        assert measured.sampled[category] == is_of_class.sum()
        assert measured.positives[category] == pytest.approx(
            (1 - score[is_of_class]).sum(), abs=1e-4
        )
        assert measured.negatives[category] == pytest.approx(score[~is_of_class].sum(), abs=1e-4)


@_EXAMPLES
@given(st.data(), st.integers(1, 3), st.integers(2, 4))
def test_gradients_of_sigmoids_on_several_levels(data, num_anchors, num_classes):
    """Anchors of one place lie side by side; -1 and 0 are no class of an object."""
    levels = [(2, 2, 1), (1, 1, 2)]
    logits = [
        data.draw(hnp.arrays(np.float32, [*level, num_anchors * num_classes], elements=_LOGITS))
        for level in levels
    ]
    targets = [
        data.draw(
            hnp.arrays(np.int32, [*level, num_anchors], elements=st.integers(-1, num_classes - 1))
        )
        for level in levels
    ]
    slopes = [scipy.special.expit(x) for x in logits]
    head = ClassHead("cls", [tf.constant(x) for x in logits], [tf.constant(x) for x in targets])
    measured = measure(head, [tf.constant(x) for x in slopes])
    expected = np.zeros([2, num_classes])
    for level, of_level in zip(slopes, targets, strict=True):
        by_anchor = level.reshape([*of_level.shape, num_classes])
        for index, target in np.ndenumerate(of_level):
            for category in range(num_classes):
                expected[int(target != category), category] += by_anchor[index][category]
    np.testing.assert_allclose(measured.positives, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured.negatives, expected[1], rtol=1e-4, atol=1e-5)


def test_a_cascade_adds_its_stages_and_counts_what_the_first_samples():
    stage = classes.ClassGradients(*(tf.constant(x) for x in ([1, 2], [3.0, 4.0], [5.0, 6.0])))
    other = stage._replace(sampled=tf.constant([7, 8]))
    both = classes.add_stages([stage, other])
    assert both.sampled.numpy().tolist() == [1, 2]
    assert both.positives.numpy().tolist() == [6, 8]
    assert both.negatives.numpy().tolist() == [10, 12]


def _candidates(kinds, categories):
    number = len(kinds)
    zeros = np.zeros(number)
    return Candidates(
        np.zeros([number, 4]),
        zeros,
        np.array(kinds),
        np.zeros(number, np.int64),
        np.array(categories),
        zeros,
        zeros,
        num_instances=1,
    )


def test_the_tally_of_a_few_images():
    tally = classes.ClassTally({1: "cat", 2: "dog", 3: "emu"})
    found = _candidates([POSITIVE, POSITIVE, NEGATIVE, IGNORED], [1, 2, 2, 2])
    tally.add_image(np.array([2, 2, 1]), {"proposals": found})
    tally.add_image(np.array([2]), {"proposals": _candidates([POSITIVE], [2])})
    gradients = classes.ClassGradients(
        np.array([9, 1, 2, 0]), np.array([9.0, 1, 3, 0]), np.array([9.0, 2, 3, 0])
    )
    result = tally.result(gradients, {"cat": 0.25, "emu": -1.0})
    assert list(result["by_class"]) == ["emu", "cat", "dog"]
    assert result["by_class"]["dog"] == {
        "objects": 3,
        "images": 2,
        "positives": {"proposals": 2},
        "sampled": 2,
        "gradient_share": 0.75,
        "positive_over_negative": 1.0,
        "AP": None,
    }
    assert [row["AP"] for row in result["by_class"].values()] == [None, 0.25, None]
    assert result["by_class"]["emu"]["positive_over_negative"] is None
    assert result["num_images"] == 2 and result["num_objects"] == 4
    # The class without objects is none of the rarest.
    assert result["rarest"] == {"classes": ["cat"], "even": 0.5, "objects": 0.25, "gradient": 0.25}


def test_ids_without_a_class_are_left_out():
    """COCO's ids have gaps; an id without a name that has objects is a class."""
    tally = classes.ClassTally({1: "cat", 2: "2", 3: "dog", 4: "4", 5: "5", 6: "emu"})
    found = _candidates([POSITIVE, POSITIVE], [1, 4])
    tally.add_image(np.array([3, 3, 3, 1, 4]), {"anchors": found})
    result = tally.result(classes.ClassGradients(*np.ones([3, 7])), {})
    assert list(result["by_class"]) == ["emu", "cat", "4", "dog"]
    assert result["rarest"]["classes"] == ["cat"]
    assert result["rarest"]["even"] == pytest.approx(1 / 3)
    assert result["rarest"]["objects"] == 0.2


def test_classes_that_share_a_name_are_told_apart():
    names = annotations.distinct({1: "mouse", 2: "cat", 3: "mouse"})
    assert names == {1: "mouse (1)", 2: "cat", 3: "mouse (3)"}
    tally = classes.ClassTally(names)
    tally.add_image(np.array([1, 3, 3, 2]), {"anchors": _candidates([], [])})
    by_class = tally.result(classes.ClassGradients(*np.ones([3, 4])), {})["by_class"]
    assert {name: row["objects"] for name, row in by_class.items()} == {
        "mouse (1)": 1,
        "cat": 1,
        "mouse (3)": 2,
    }


def test_images_without_objects_have_no_shares():
    tally = classes.ClassTally({1: "cat", 2: "dog"})
    tally.add_image(np.array([], np.int64), {"anchors": _candidates([], [])})
    result = tally.result(classes.ClassGradients(*np.zeros([3, 3])), {})
    assert result["rarest"] == {"classes": [], "even": None, "objects": None, "gradient": None}
    assert result["by_class"]["cat"]["sampled"] is None
