import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from libra_tf.analysis import objective

pytestmark = pytest.mark.one_lane

some_errors = st_numpy.arrays(np.float32, st.integers(1, 50), elements=st.floats(-3, 3, width=32))


def test_shares_counted_by_hand():
    errors = np.array([0.1, -0.2, 0.9, -1.5, 2.0])
    shares = objective.shares_of_gradient(errors, [0.1, -0.2, 0.9, -1, 1], beta=1.0)
    assert shares["inlier_count_share"] == pytest.approx(3 / 5)
    assert shares["inlier_gradient_share"] == pytest.approx(1.2 / 3.2)
    assert shares["inlier_over_outlier"] == pytest.approx(0.4 / 1.0)


def test_nothing_to_divide():
    shares = objective.shares_of_gradient(np.zeros(0), np.zeros(0), 1.0)
    assert shares["inlier_count_share"] is None
    assert (
        objective.shares_of_gradient(np.ones(2) / 2, np.ones(2), 1.0)["inlier_over_outlier"] is None
    )


@hypothesis.given(some_errors)
@hypothesis.settings(max_examples=30, deadline=None)
def test_slopes_are_the_papers(errors):
    """Equation 7: alpha ln(b |x| + 1) below the knee at 1, gamma above."""
    alpha, gamma = 0.5, 1.5
    b = np.exp(gamma / alpha) - 1
    magnitude = np.abs(errors.astype(np.float64))
    expected = np.where(magnitude < 1, alpha * np.log(b * magnitude + 1), gamma)
    slopes = objective.balanced_l1_slopes(errors, alpha, gamma, 1.0)
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-6)


def test_a_smaller_alpha_gives_inliers_more():
    errors = np.random.default_rng(0).normal(size=500)
    grid = {
        (row["alpha"], row["gamma"]): row["inlier_gradient_share"]
        for row in objective.balanced_l1_grid(errors, beta=1.0)
    }
    for gamma in objective.GAMMAS:
        shares = [grid[alpha, gamma] for alpha in objective.ALPHAS]
        assert shares == sorted(shares, reverse=True)
    smooth = objective.shares_of_gradient(errors, np.minimum(np.abs(errors), 1), 1.0)
    assert min(grid.values()) > smooth["inlier_gradient_share"]


@hypothesis.given(some_errors, st.floats(0.1, 2))
@hypothesis.settings(max_examples=30, deadline=None)
def test_the_histogram_holds_all(errors, beta):
    histogram = objective.error_histogram(errors, np.ones_like(errors), beta)
    assert sum(histogram["count_share"]) == pytest.approx(1)
    np.testing.assert_allclose(histogram["count_share"], histogram["gradient_share"])
    inliers = objective.shares_of_gradient(errors, np.ones_like(errors), beta)
    # Where a share is on an edge, floats may put it on either side.
    if not np.isclose(np.abs(errors), beta).any():
        assert sum(histogram["count_share"][:10]) == pytest.approx(inliers["inlier_count_share"])


def test_a_histogram_of_errors_counted_by_hand():
    errors = np.array([0, 0.04, -0.06, 0.5, -1.1, 9])
    histogram = objective.error_histogram(errors, np.array([0, 1, 1, -2, 2, 2]), beta=0.5)
    assert histogram["edges"] == pytest.approx(np.arange(21) * 0.05)
    shares = {0: (2, 1), 1: (1, 1), 9: (1, 2), 20: (2, 4)}
    for index in range(21):
        count, gradient = shares.get(index, (0, 0))
        assert histogram["count_share"][index] == pytest.approx(count / 6)
        assert histogram["gradient_share"][index] == pytest.approx(gradient / 8)
