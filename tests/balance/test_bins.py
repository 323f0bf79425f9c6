import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from libra_tf.balance import bins


@pytest.mark.parametrize(("width", "num_bins"), [(0.05, 20), (0.1, 21), (1.0, 20)])
def test_each_bin_holds_its_upper_edge_and_nothing_above(width, num_bins):
    edges = np.array([float(f"{k * width:.2f}") for k in range(1, num_bins)], np.float32)
    expected = np.arange(num_bins - 1)
    np.testing.assert_array_equal(bins.bin_indices(edges, width, num_bins), expected)
    above = np.nextafter(edges, np.float32(np.inf))
    np.testing.assert_array_equal(bins.bin_indices(above, width, num_bins), expected + 1)


def test_the_outer_bins_hold_zero_and_everything_above():
    values = tf.constant([[0.0, 1.0], [7.0, np.inf]])
    np.testing.assert_array_equal(bins.bin_indices(values, 0.05, 20), [[0, 19], [19, 19]])


@hypothesis.given(st.lists(st.tuples(st.floats(0, 3, width=32), st.integers(0, 9)), min_size=1))
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_histogram_adds_up_amounts(pairs):
    values, amounts = np.float32(pairs).T
    counts = bins.histogram(values, amounts, 0.1, 20).numpy()
    by_hand = np.zeros(20)
    edges = np.append(np.float32(np.arange(1, 20) / 10), np.inf)
    for value, amount in zip(values, amounts, strict=True):
        by_hand[next(k for k in range(20) if value <= edges[k])] += amount
    np.testing.assert_array_equal(counts, by_hand)


def test_a_bool_counts_once():
    counts = bins.histogram([0.2, 0.2, 0.7], [True, True, False], 0.5, 2)
    np.testing.assert_array_equal(counts, [2, 0])
