"""What the benchmarks compute from the times they measure."""

import pytest

from benchmarks import side_by_side

pytestmark = pytest.mark.one_lane


def test_ratios_compare_the_same_precision_and_the_fastest_ones():
    seconds = {
        "ours in float32": 2.0,
        "ours in bfloat16": 1.0,
        "MMDetection in float32": 3.0,
        "MMDetection in bfloat16": 6.0,
    }
    assert side_by_side.ratios(seconds).splitlines() == [
        "bfloat16 / float32: ours 0.50, MMDetection 2.00",
        "MMDetection / ours: 1.50 in float32, 6.00 in bfloat16, 3.00 with each at its fastest",
    ]


def test_ratios_of_one_precision():
    seconds = {"ours in float32": 2.0, "Model Garden in float32": 3.0}
    assert side_by_side.ratios(seconds) == "Model Garden / ours: 1.50 in float32"
