"""The objective level: which errors and which losses the gradient comes from.

Paper section 3.3. The error of a coordinate is x = prediction - target in the units of the box
coder. Inliers have |x| < beta, outliers the rest.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf import ops

ALPHAS = (0.2, 0.3, 0.5, 0.7, 1.0)
GAMMAS = (1.0, 1.5, 2.0)


def shares_of_gradient(errors: np.ndarray, slopes: np.ndarray, beta: float) -> dict[str, Any]:
    """How the gradient of a box loss divides between inliers and outliers.

    Args:
      errors: float array `[E]`, x of every coordinate of every positive candidate.
      slopes: float array `[E]`, the size of the loss's derivative at each.
      beta: where outliers begin.

    Returns:
      `inlier_count_share` of the coordinates, `inlier_gradient_share` of the sum of the slopes,
      and the mean slope of an inlier over that of an outlier, `inlier_over_outlier`. None where
      there is nothing to divide by.
    """
    inliers = np.abs(errors) < beta
    slopes = np.abs(np.asarray(slopes, np.float64))
    total = slopes.sum()
    both = inliers.any() and not inliers.all() and slopes[~inliers].sum() > 0
    return {
        "num_coordinates": int(errors.size),
        "inlier_count_share": float(inliers.mean()) if errors.size else None,
        "inlier_gradient_share": float(slopes[inliers].sum() / total) if total > 0 else None,
        "inlier_over_outlier": (
            float(slopes[inliers].mean() / slopes[~inliers].mean()) if both else None
        ),
    }


def balanced_l1_slopes(
    errors: np.ndarray, alpha: float, gamma: float, beta: float, form: str = "paper"
) -> np.ndarray:
    """The size of the derivative of the balanced L1 loss at each error."""
    errors = tf.constant(errors, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(errors)
        loss = ops.balanced_l1(tf.zeros_like(errors), errors, alpha, gamma, beta, form)
    return np.abs(tape.gradient(loss, errors).numpy())


def huber_slopes(errors: np.ndarray, delta: float) -> np.ndarray:
    """The size of the derivative of the Huber loss, which is smooth L1 where delta is 1."""
    return np.minimum(np.abs(errors), delta)


def balanced_l1_grid(errors: np.ndarray, beta: float, form: str = "paper") -> list[dict[str, Any]]:
    """What the balanced L1 loss would make of measured errors, for a grid of alpha and gamma.

    Args:
      errors: float array `[E]`.
      beta: as in the loss.
      form: as in the loss.

    Returns:
      For each pair, `alpha`, `gamma`, what `shares_of_gradient` says, and `over_smooth_l1`, the
      sum of the slopes over that of smooth L1 with its knee at `beta` (slope |x| / beta, at most
      1).
    """
    smooth = np.minimum(np.abs(errors) / beta, 1).sum()
    rows = []
    for alpha in ALPHAS:
        for gamma in GAMMAS:
            slopes = balanced_l1_slopes(errors, alpha, gamma, beta, form)
            rows.append(
                {
                    "alpha": alpha,
                    "gamma": gamma,
                    **shares_of_gradient(errors, slopes, beta),
                    "over_smooth_l1": float(slopes.sum() / smooth) if smooth > 0 else None,
                }
            )
    return rows


def error_histogram(errors: np.ndarray, slopes: np.ndarray, beta: float) -> dict[str, Any]:
    """Where the errors are and where their gradient is.

    Args:
      errors: float array `[E]`.
      slopes: float array `[E]`.
      beta: where outliers begin; the bins are a tenth of it, and the last holds all from 2 beta.

    Returns:
      `edges` (lower, of |x|), and by bin the `count_share` and the `gradient_share`.
    """
    bins = np.minimum((np.abs(errors) / beta * 10).astype(np.int64), 20)
    counts = np.bincount(bins, minlength=21)
    gradient = np.bincount(bins, weights=np.abs(slopes), minlength=21)
    return {
        "edges": (np.arange(21) * beta / 10).tolist(),
        "count_share": (counts / max(counts.sum(), 1)).tolist(),
        "gradient_share": (gradient / (gradient.sum() or 1)).tolist(),
    }
