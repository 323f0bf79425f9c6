"""The feature level: the share of each pyramid level, and how far the attention reaches.

Paper section 3.2: the levels of a pyramid are integrated at the size of one of them, refined there,
and added back to each level.
"""

from typing import Any

import numpy as np


class Moments:
    """Mean and covariance of the channels of feature maps, over images and positions."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._products = 0.0
        # Subtracted from all rows: near the mean, so that less cancels in the covariance.
        self._shift = None

    def add(self, features: np.ndarray) -> None:
        """Adds feature maps.

        Args:
          features: float array `[B, H, W, C]`.
        """
        rows = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
        if self._shift is None:
            self._shift = rows.mean(0)
        rows = rows - self._shift
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._products = self._products + rows.T @ rows

    def covariance(self) -> np.ndarray:
        """Returns the covariance `[C, C]` over all positions seen."""
        mean = self._sum / self._count
        return self._products / self._count - np.outer(mean, mean)

    def result(self) -> dict[str, float | int]:
        """Returns `variance`, its mean over the channels, `effective_rank` and `channels`."""
        covariance = self.covariance()
        return {
            "variance": float(np.trace(covariance) / len(covariance)),
            "effective_rank": effective_rank(covariance),
            "channels": len(covariance),
        }


def effective_rank(covariance: np.ndarray) -> float:
    """Returns how many directions the features really use: exp of the singular values' entropy.

    It is 1 where all channels are multiples of one another, C where they are uncorrelated with
    equal variance, and 0 for features that do not vary.

    Reference: Roy and Vetterli, "The effective rank", EUSIPCO 2007.

    Args:
      covariance: float array `[C, C]`.
    """
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None))
    total = singular.sum()
    if total == 0:
        return 0.0
    shares = singular / total
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def level_shares(gathered: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns how much each level contributes to the integrated map.

    The integrated map is the mean of the L levels, b = 1/L sum_l g_l. The `share` of level l is
    <g_l, b> / (L <b, b>): the shares add up to 1, and a level that points away from the others has
    a negative one. `magnitude` is |g_l| / sum_k |g_k|, with Frobenius norms.

    Args:
      gathered: the levels resized to one of them, float arrays of the same shape.

    Returns:
      Float arrays `[L]` by name.
    """
    flat = np.stack([np.asarray(level, np.float64).ravel() for level in gathered])
    mean = flat.mean(0)
    energy = mean @ mean
    norms = np.linalg.norm(flat, axis=1)
    even = np.full(len(flat), 1 / len(flat))
    return {
        "share": flat @ mean / (len(flat) * energy) if energy > 0 else even,
        "magnitude": norms / norms.sum() if norms.sum() > 0 else even,
    }


def attention_reach(attention: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Returns how far each position of a map attends.

    Args:
      attention: float array `[H * W, H * W]` whose rows sum to 1.
      height: H.
      width: W.

    Returns:
      `entropy`: float array `[H * W]`, the entropy of each row divided by log(H * W): 0 for a look
      at one position, 1 for an equal look at all. `distance`: float array `[H * W]`, the mean
      Euclidean distance that each position looks, in cells. `uniform_distance`: the mean of
      these distances if every position looked equally at all.
    """
    attention = np.asarray(attention, np.float64)
    rows, columns = np.divmod(np.arange(height * width), width)
    distances = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    logs = np.log(np.where(attention > 0, attention, 1))
    largest = np.log(height * width) if height * width > 1 else 1.0
    return {
        "entropy": -(attention * logs).sum(1) / largest,
        "distance": (attention * distances).sum(1),
        "uniform_distance": float(distances.mean()),
    }
