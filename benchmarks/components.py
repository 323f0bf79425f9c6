"""Times the three components against alternatives, and measures their peak memory.

    python benchmarks/components.py                       the default groups: 15 min on two cores
    python benchmarks/components.py --groups=sampling     one of them
    python benchmarks/components.py --groups=huge_map     takes minutes; not a default group

With `pip install torch`, MMDetection's formulas are measured in the same run.
"""

import measuring  # isort: skip, sets what TensorFlow reads at import

import loss
import non_local
import pyramid
import sampling

GROUPS = {
    "sampling": sampling.comparisons,
    "pyramid": pyramid.comparisons,
    "non_local": non_local.comparisons,
    "loss": loss.comparisons,
    "huge_map": non_local.huge_map_comparisons,
}

if __name__ == "__main__":
    measuring.run(GROUPS, default=["sampling", "pyramid", "non_local", "loss"])
