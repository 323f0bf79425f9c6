"""Histograms with equal-width bins that include their upper edge."""

import numpy as np
import tensorflow as tf


def bin_indices(values: tf.Tensor, width: float, num_bins: int) -> tf.Tensor:
    """Returns the bin of each value.

    Bin k is `(k * width, (k + 1) * width]`. The first bin also holds 0, and the last holds
    everything above.

    Args:
      values: float `[...]`, at least 0.
      width: the width of a bin.
      num_bins: how many bins there are.

    Returns:
      int32 `[...]`, in `[0, num_bins)`.
    """
    values = tf.cast(values, tf.float32)
    # Multiplied in float64: in float32, 3 * 0.05 is not the float nearest to 0.15.
    inner_edges = (np.arange(1, num_bins) * width).astype(np.float32)
    flat = tf.searchsorted(inner_edges, tf.reshape(values, [-1]), side="left")
    return tf.reshape(flat, tf.shape(values))


def histogram(values: tf.Tensor, amounts: tf.Tensor, width: float, num_bins: int) -> tf.Tensor:
    """Adds up the amounts of the values in each bin.

    Args:
      values: float `[...]`, at least 0.
      amounts: bool or float, of the same shape: how much each value counts.
      width: see `bin_indices`.
      num_bins: see `bin_indices`.

    Returns:
      float32 `[num_bins]`.
    """
    bins = tf.reshape(bin_indices(values, width, num_bins), [-1])
    amounts = tf.reshape(tf.cast(amounts, tf.float32), [-1])
    return tf.math.unsorted_segment_sum(amounts, bins, num_bins)
