"""The objective level: which errors the gradient of a box loss comes from.

Paper section 3.3. The error of a coordinate is x = prediction - target, in the units of the box
coder. Inliers are the coordinates with |x| < beta, outliers all others.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.balance import bins, boxes
from libra_tf.configs import components

ALPHAS = (0.2, 0.3, 0.5, 0.7, 1.0)
GAMMAS = (1.0, 1.5, 2.0)
# Of errors in units of beta; the last bin holds everything above 2.
_ERROR_STEP = 0.1
_NUM_ERROR_BINS = 21


def shares_of_gradient(errors: np.ndarray, slopes: np.ndarray, beta: float) -> dict[str, Any]:
    """Returns how the gradient of a box loss divides between inliers and outliers.

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
    """Returns the size of the derivative of the balanced L1 loss at each error.

    Args:
      errors: float array `[...]`.
      alpha: see `libra_tf.ops.balanced_l1`.
      gamma: see `libra_tf.ops.balanced_l1`.
      beta: see `libra_tf.ops.balanced_l1`.
      form: see `libra_tf.ops.balanced_l1`.

    Returns:
      float32 array `[...]`.
    """
    loss = boxes.BoxLoss(
        beta, components.BalancedL1(alpha=alpha, gamma=gamma, beta=beta, form=form)
    )
    return loss.slopes(tf.constant(errors, tf.float32)).numpy()


def balanced_l1_grid(errors: np.ndarray, beta: float, form: str = "paper") -> list[dict[str, Any]]:
    """Returns what the balanced L1 loss would make of measured errors, by alpha and gamma.

    Args:
      errors: float array `[E]`.
      beta: see `libra_tf.ops.balanced_l1`.
      form: see `libra_tf.ops.balanced_l1`.

    Returns:
      For each pair: `alpha`, `gamma`, the results of `shares_of_gradient`, and `over_smooth_l1`,
      the sum of the slopes over that of smooth L1 with its knee at `beta` (slope |x| / beta, at
      most 1).
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
    """Returns where the errors are and where their gradient is.

    Args:
      errors: float array `[E]`.
      slopes: float array `[E]`, the size of the loss's derivative at each.
      beta: where outliers begin. The bins are a tenth of it wide; the last holds everything above
        2 beta.

    Returns:
      `edges` (the lower ones, of |x|), and for each bin `count_share` and `gradient_share`.
    """
    relative = np.abs(errors) / beta
    indices = bins.bin_indices(relative, _ERROR_STEP, _NUM_ERROR_BINS).numpy()
    counts = np.bincount(indices, minlength=_NUM_ERROR_BINS)
    gradient = np.bincount(indices, weights=np.abs(slopes), minlength=_NUM_ERROR_BINS)
    return {
        "edges": (np.arange(_NUM_ERROR_BINS) * beta / 10).tolist(),
        "count_share": (counts / max(counts.sum(), 1)).tolist(),
        "gradient_share": (gradient / (gradient.sum() or 1)).tolist(),
    }
