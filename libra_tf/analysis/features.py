"""The feature level: what each pyramid level brings, and how far the attention reaches.

Paper section 3.2: the levels of a pyramid are integrated at one of them, refined there, and given
back to each.
"""

from typing import Any

import numpy as np


class Moments:
    """Mean and covariance of the channels of feature maps, over images and positions."""

    def __init__(self):
        self._count = 0
        self._sum = 0.0
        self._products = 0.0
        # Near the mean, so that little of it is left to cancel in the covariance.
        self._shift = None

    def add(self, features: np.ndarray) -> None:
        """Takes maps `[B, H, W, C]` into account."""
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
    """How many directions the features really use: exp of the entropy of the singular values.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. From 1, all channels one multiple of
    another, to C, uncorrelated with equal variance. 0 for features that do not vary.

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
    """How much of the integrated map each level is.

    The integrated map is the mean of the L levels, b = 1/L sum_l g_l. `share` of level l is
    <g_l, b> / (L <b, b>): the shares add up to 1, and a level that points away from the others has
    a negative one. `magnitude` is |g_l| / sum_k |g_k|, with Frobenius norms.

    Args:
      gathered: the levels at the size of one of them, float arrays of one shape.

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
    """How far the positions of a map look.

    Args:
      attention: float array `[H * W, H * W]`, each row of which sums to 1.
      height: H.
      width: W.

    Returns:
      `entropy`: float array `[H * W]`, the entropy of each row divided by log(H * W): 0 looks at
      one position, 1 at all alike. `distance`: float array `[H * W]`, the mean Euclidean distance
      of what each position looks at, in cells. `uniform_distance`: the mean of the same if every
      position looked at all alike.
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
