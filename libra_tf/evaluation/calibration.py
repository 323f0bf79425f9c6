"""Whether scores mean what they say: of the detections with a score of 0.8, are 80 % right?

The expected calibration error is that of Naeini et al., AAAI 2015, eq. 2, applied to detections as
in Kuppers et al., CVPR Workshops 2020, section 3, with the score alone.
"""

from typing import Any

import numpy as np


def measure(scores: np.ndarray, is_true: np.ndarray, num_bins: int = 10) -> dict[str, Any]:
    """Compares scores with the precision of the detections that have them.

    Args:
      scores: `[N]`, in [0, 1].
      is_true: `[N]`, bool, whether each detection has found an object.
      num_bins: how many bins of equal width to divide [0, 1] into.

    Returns:
      `bins`: those with detections, ascending, each with `low`, `high`, `count`, `mean_score` and
      `precision`; `expected_calibration_error`: the mean distance of `mean_score` and `precision`,
      weighted by `count`; None without detections.
    """
    scores, is_true = np.asarray(scores, float), np.asarray(is_true, bool)
    edges = np.linspace(0, 1, num_bins + 1)
    # A score on an edge belongs to the bin below it, as in scikit-learn.
    bins = np.searchsorted(edges[1:-1], scores)
    counts = np.bincount(bins, minlength=num_bins)
    sums = np.bincount(bins, scores, num_bins)
    hits = np.bincount(bins, is_true, num_bins)
    filled = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(counts[i]),
            "mean_score": float(sums[i] / counts[i]),
            "precision": float(hits[i] / counts[i]),
        }
        for i in np.flatnonzero(counts)
    ]
    error = float(np.abs(sums - hits).sum() / len(scores)) if len(scores) else None
    return {"bins": filled, "expected_calibration_error": error}
