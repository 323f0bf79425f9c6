"""Scores against precision, as scikit-learn has it."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve

from libra_tf.evaluation import calibration

pytestmark = pytest.mark.one_lane

SCORES = hnp.arrays(
    float, st.integers(1, 60), elements=st.one_of(st.floats(0, 1), st.sampled_from([0.1, 0.3, 0.5]))
)


def check(scores, is_true, num_bins):
    measured = calibration.measure(scores, is_true, num_bins)
    precision, mean_score = calibration_curve(is_true, scores, n_bins=num_bins, pos_label=True)
    bins = measured["bins"]
    np.testing.assert_allclose([b["precision"] for b in bins], precision)
    np.testing.assert_allclose([b["mean_score"] for b in bins], mean_score)
    weights = np.array([b["count"] for b in bins]) / len(scores)
    error = weights @ np.abs(precision - mean_score)
    assert measured["expected_calibration_error"] == pytest.approx(error)
    assert sum(b["count"] for b in bins) == len(scores)
    assert all(b["low"] <= b["mean_score"] <= b["high"] + 1e-12 for b in bins)


@hypothesis.given(SCORES, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_curve_is_that_of_scikit_learn(scores, num_bins, random):
    check(scores, np.array([random.random() < 0.5 for _ in scores]), num_bins)


def test_perfect_and_wrong_scores():
    sure = np.array([1.0, 1.0, 0.0])
    assert calibration.measure(sure, sure == 1)["expected_calibration_error"] == 0
    assert calibration.measure(sure, sure == 0)["expected_calibration_error"] == 1


def test_no_detections():
    empty = calibration.measure(np.zeros(0), np.zeros(0, bool))
    assert empty == {"bins": [], "expected_calibration_error": None}
