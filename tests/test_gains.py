"""What benchmarks/dials.py computes from its records."""

import json
import math
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gains
from libra_tf.data import shapes
from libra_tf.data.dials import Dials

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[1]

_RESULTS = {
    1.0: {"baseline": {0: 0.30, 1: 0.40, 2: 0.20}, "sampling": {0: 0.34, 1: 0.42, 2: 0.26}},
    0.0: {"baseline": {0: 0.50}, "sampling": {0: 0.49, 1: 0.60}},
}


def test_table():
    """Differences 0.04, 0.02 and 0.06: their mean is 0.04, their deviation 0.02."""
    assert gains.table("look_alikes", _RESULTS, "baseline", ["sampling", "pyramid"]) == [
        "| look_alikes | baseline AP | gain of sampling | gain of pyramid |",
        "| --- | --- | --- | --- |",
        "| 0 | 0.500 | -0.010 | - |",
        "| 1 | 0.300 ± 0.058 | +0.040 ± 0.012 | - |",
    ]


def test_a_seed_without_its_pair_does_not_count():
    gain = gains.gain({0: 0.5, 1: 0.9}, {0: 0.4, 2: 0.1})
    assert (gain.value, gain.seeds) == (pytest.approx(0.1), 1)
    assert math.isnan(gain.error)


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=2), st.floats(-0.5, 0.5))
def test_what_all_pairs_gain_is_the_gain_without_error(baseline, difference):
    """However much the seeds differ among themselves."""
    row = {seed: value + difference for seed, value in baseline.items()}
    gain = gains.gain(row, baseline)
    assert gain.value == pytest.approx(difference, abs=1e-9)
    assert gain.error == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.integers(2, 4))
def test_errors_shrink_with_the_root_of_the_number_of_seeds(values, times):
    once, often = gains.mean(values), gains.mean(values * times)
    number = len(values)
    factor = math.sqrt((number - 1) / (number * times - 1))
    assert often.value == pytest.approx(once.value)
    assert often.error == pytest.approx(once.error * factor, abs=1e-9)


def test_picture_has_a_panel_for_each_dial_and_a_line_for_each_component():
    results = {"look_alikes": _RESULTS, "size_spread": {0.0: {}, 1.0: {}}}
    figure = gains.picture(results, "baseline", ["sampling", "pyramid"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["look alikes", "size spread"]
    lines = {bars.get_label(): bars.lines[0] for bars in figure.axes[0].containers}
    assert list(lines) == ["sampling", "pyramid"]
    assert lines["sampling"].get_xdata() == pytest.approx([0, 1])
    assert lines["sampling"].get_ydata() == pytest.approx([-0.01, 0.04])


def test_the_report_finds_the_records_of_each_setting(tmp_path):
    """All dials share the trainings at 0; other numbers of steps do not count."""
    plain = shapes.folder_name(1024, 128, 128)
    turned = shapes.folder_name(1024, 128, 128, Dials(size_spread=0.5))
    records = [
        {"dataset": dataset, "row": row, "seed": 0, "steps": steps, "AP": ap}
        for dataset, row, steps, ap in (
            (plain, "baseline", 250, 0.5),
            (plain, "balanced L1", 250, 0.6),
            (plain, "IoU-balanced RPN", 250, 0.3),
            (turned, "baseline", 250, 0.3),
            (turned, "balanced pyramid", 250, 0.35),
            (turned, "balanced L1", 9, 0.9),
        )
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, ROOT / "benchmarks/dials.py", "--report", f"--records={path}"]
    flags = ["--dials=look_alikes", "--dials=size_spread", "--settings=0", "--settings=0.5"]
    plot = tmp_path / "gains.svg"
    report = subprocess.run(
        [*command, *flags, f"--plot={plot}"], capture_output=True, text=True, check=True
    )
    assert [line for line in report.stdout.splitlines() if line.startswith("| 0")] == [
        "| 0 | 0.500 | - | - | +0.100 |",
        "| 0.5 | - | - | - | - |",
        "| 0 | 0.500 | - | - | +0.100 |",
        "| 0.5 | 0.300 | - | +0.050 | - |",
        "| 0 | 0.500 | -0.200 | - | - |",
    ]
    assert "</svg>" in plot.read_text()
