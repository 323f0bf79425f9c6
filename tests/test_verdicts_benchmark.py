"""What benchmarks/verdicts.py computes from its records."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[1]
HARD, LEVELS = "Hard negatives among the proposals", "Levels of the pyramid"


def _training(dataset, row, seed, ap, steps=250):
    return {"dataset": dataset, "row": row, "seed": seed, "steps": steps, "AP": ap}


def _report(dataset, seed, hard, levels, batches=4):
    return {
        **{"dataset": dataset, "seed": seed, "steps": 250, "batches": batches},
        "measured": {
            "hard_shares": {"random": 0.25, "iou_balanced": 0.25 + hard},
            "level_shares": [levels / 10, 0.1],
            "inlier_count_share": 0.9,
            "inlier_gradient_share": 0.75,
        },
    }


def _old_report(dataset, seed, hard, levels):
    """As the first records are; the thresholds in them have no effect."""
    # Without a value, the verdict turns on another number.
    of_hard = ("more hard picks if balanced", hard) if hard else ("more hard ones among", 0.9)
    gauges = {HARD: (*of_hard, 0.01), LEVELS: ("share of P2, as a multiple", levels, 9.0)}
    report = _report(dataset, seed, 0, levels)
    del report["measured"]
    return {
        **report,
        "gauges": {
            title: {"label": label, "value": value, "threshold": threshold}
            for title, (label, value, threshold) in gauges.items()
        },
    }


@pytest.fixture
def report(tmp_path):
    """Sampling gains with the number, but for one run; the pyramid has too few runs to say."""
    reports, trainings = [], []
    hard_and_gains = ((0.02, -0.03), (0.05, 0.01), (0.2, 0.05), (0.3, 0.02), (0.4, 0.08))
    for seed, (hard, gain) in enumerate(hard_and_gains):
        write = (_report, _old_report)[seed % 2]
        reports.append(write("shapes", seed, hard, levels=2.0 + seed))
        # Nor are reports on other numbers of batches.
        reports.append(_report("shapes", seed, 0.9, levels=9.0, batches=2))
        trainings.append(_training("shapes", "baseline", seed, 0.4))
        trainings.append(_training("shapes", "IoU-balanced sampling", seed, 0.4 + gain))
        # Neither other images nor other numbers of steps are a pair.
        trainings.append(_training("others", "balanced L1", seed, 0.9))
        trainings.append(_training("shapes", "balanced L1", seed, 0.9, steps=9))
    trainings.append(_training("shapes", "balanced pyramid", 2, 0.5))
    reports.append(_old_report("shapes", 9, None, levels=2.0))
    trainings.append(_training("shapes", "baseline", 9, 0.4))
    trainings.append(_training("shapes", "IoU-balanced sampling", 9, 0.1))
    paths = {"records": reports, "trainings": trainings}
    arguments = []
    for name, records in paths.items():
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        arguments.append(f"--{name}={path}")
    plot = tmp_path / "verdicts.svg"
    printed = subprocess.run(
        [sys.executable, ROOT / "benchmarks/verdicts.py", "--report", f"--plot={plot}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return printed.stdout.splitlines(), plot.read_text()


def test_the_table_pairs_reports_with_gains_of_the_same_images_and_seed(report):
    """Of ranks 1 2 3 4 5 and 1 2 4 3 5: 1 - 6 * 2 / (5 * 24) = 0.9.

    The last run of the first component has no number.
    """
    lines, _ = report
    assert lines[2:] == [
        f"| IoU-balanced sampling | {HARD} | 0.1 "
        "| +0.90 (p = 0.037, 5 runs) | 3 of 3 | 1 of 2 | 1 |",
        f"| balanced pyramid | {LEVELS} | 3 | - | 1 of 1 | 0 of 0 | 0 |",
        "| balanced L1 | Inliers and outliers of the box errors | 0.5 | - | 0 of 0 | 0 of 0 | 0 |",
    ]


def test_the_picture_is_drawn(report):
    _, picture = report
    assert "</svg>" in picture
