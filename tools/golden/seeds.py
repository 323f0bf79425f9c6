"""Random numbers that depend only on the name of what they are drawn for."""

import numpy as np


def generator(name: str) -> np.random.Generator:
    """Returns a generator seeded with a name."""
    return np.random.default_rng(list(name.encode()))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draws standard normal numbers, float32."""
    return rng.standard_normal(shape, np.float32)
