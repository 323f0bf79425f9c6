"""What benchmarks/class_balance.py computes from its records."""

import json
import pathlib
import subprocess
import sys

import pytest

from libra_tf.data import shapes
from libra_tf.data.dials import Dials

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PREFIX = "Precision mAP ByCategory/"


def _record(dataset, row, seed, precisions, steps=450):
    names = ("circle", "square", "triangle", "star")
    by_class = {_PREFIX + name: ap for name, ap in zip(names, precisions, strict=True)}
    key = {"dataset": dataset, "detector": "retinanet", "row": row, "seed": seed, "steps": steps}
    return {**key, **by_class}


def test_the_table_compares_trainings_with_the_same_seed(tmp_path):
    """Triangle and star are rare; other ratios and numbers of steps do not count."""
    rare = shapes.folder_name(1024, 128, 128, Dials(class_ratio=50))
    even = shapes.folder_name(1024, 128, 128)
    repeated = "repeat-factor sampling"
    records = [
        _record(rare, "baseline", 0, [0.8, 0.6, 0.2, 0.0]),
        _record(rare, "baseline", 1, [0.8, 0.6, 0.4, 0.2]),
        # Rare classes gain 0.2 and 0.1, frequent ones lose 0.1 and 0.
        _record(rare, repeated, 0, [0.7, 0.5, 0.4, 0.2]),
        _record(rare, repeated, 1, [0.8, 0.6, 0.5, 0.3]),
        _record(rare, "weights, effective number", 2, [0.9, 0.9, 0.9, 0.9]),
        _record(rare, repeated, 2, [1.0, 1.0, 1.0, 1.0], steps=9),
        _record(even, repeated, 0, [1.0, 1.0, 1.0, 1.0]),
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, ROOT / "benchmarks/class_balance.py", "--report"]
    report = subprocess.run(
        [*command, f"--records={path}", "--detectors=retinanet"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert report.stdout.splitlines()[2:] == [
        "| 50 | retinanet | baseline | 0.450 ± 0.050 | 0.200 ± 0.100 | "
        "0.700 ± 0.000 |  |  |  | 2 |",
        "| 50 | retinanet | repeat-factor sampling | 0.500 ± 0.050 | 0.350 ± 0.050 | "
        "0.650 ± 0.050 | +0.050 ± 0.000 | +0.150 ± 0.050 | -0.050 ± 0.050 | 2 |",
        # Nothing to compare the third seed with.
        "| 50 | retinanet | weights, effective number | 0.900 | 0.900 | 0.900 | - | - | - | 1 |",
        "| 50 | retinanet | weights, inverse frequency | - | - | - | - | - | - | 0 |",
    ]
