"""Trains with each Libra component alone, with all and with none, and tabulates the AP.

    python benchmarks/ablation.py --dataset=FOLDER                        hours on two cores
    python benchmarks/ablation.py --dataset=FOLDER --detectors=retinanet  one detector's rows
    python benchmarks/ablation.py --report                                tables of the records

The detectors with `lite0` in their name start from ImageNet weights and have the paper's numbers of
proposals and RoIs; they are for photographs.

Every training is one deterministic command of `run.py`; rows differ only in the overrides. Finished
trainings are recorded in a file, one JSON line each, and are not repeated. A training that was
stopped resumes from its last checkpoint. Each data set, input size and number of steps has its own
tables. The baseline and the last row, with all components, come first, each seed after the other;
then the single components. So a table with fewer seeds is fair as well. docs/results.md has the
results.
"""

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

import gains
from rows import DETECTORS
from trainings import (
    METRICS,
    ROOT,
    SIZE_METRICS,
    arguments,
    mean_and_spread,
    read,
    schedule,
    train_once,
)

_DATASET = flags.DEFINE_string(
    "dataset", None, "Folder to train on, in any layout of docs/data.md."
)
_DETECTORS = flags.DEFINE_multi_enum(
    "detectors", ["retinanet", "fasterrcnn"], list(DETECTORS), "What to train."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings per row.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 300, "Steps of 8 images per training.", lower_bound=1)
_INPUT_SIZE = flags.DEFINE_integer("input_size", 192, "Height and width of the input.")
_RECORDS = flags.DEFINE_string(
    "records",
    str(ROOT / "benchmarks/records/ablation.jsonl"),
    "Records of finished trainings.",
)
_RUNS = flags.DEFINE_string("runs", str(ROOT / "runs/ablation"), "Folder of the trainings.")
_REPORT = flags.DEFINE_bool("report", False, "Only print the tables of the recorded trainings.")


def main(_: list[str]) -> None:
    """Runs the missing trainings and prints a table per detector."""
    if not _REPORT.value:
        if _DATASET.value is None:
            sys.exit("error: --dataset=FOLDER is missing: the data set to train on (docs/data.md)")
        for name in _DETECTORS.value:
            baseline, *single, everything = DETECTORS[name].rows
            for rows in ((baseline, everything), single):
                for seed, row in itertools.product(range(_SEEDS.value), rows):
                    _train_once(name, row, seed)
    records = read(_RECORDS.value)
    for setting in sorted({_setting(record) for record in records}):
        of_setting = [record for record in records if _setting(record) == setting]
        for name in DETECTORS:
            if any(record["detector"] == name for record in of_setting):
                print("\n".join(table(name, of_setting)), end="\n\n")


def _train_once(name: str, row: str, seed: int) -> None:
    setting = {
        "dataset": os.path.basename(os.path.abspath(_DATASET.value)),
        "steps": _STEPS.value,
        "input_size": _INPUT_SIZE.value,
    }
    key = {"detector": name, "row": row, "seed": seed, **setting}
    detector = DETECTORS[name]
    flags_of_row = arguments(
        detector.experiment,
        _DATASET.value,
        seed,
        [*detector.overrides, *detector.rows[row]],
        schedule(_INPUT_SIZE.value, _STEPS.value),
    )
    baseline = next(iter(detector.rows))
    compared = None if row == baseline else {**key, "row": baseline}
    train_once(_RECORDS.value, _RUNS.value, key, flags_of_row, compared)


def _setting(record: Mapping[str, Any]) -> tuple[str, int, int]:
    return record["dataset"], record["input_size"], record["steps"]


def table(name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a Markdown table with the mean and spread of each row, and its gain on the baseline.

    Args:
      name: a key of `DETECTORS`.
      records: finished trainings, all with the same data set, input size and number of steps.

    Returns:
      The lines of the table. A spread is the sample standard deviation over the seeds. A gain is
      the mean difference from the baseline with the same seed, with the standard error of the
      mean. AP by the size of the objects is there if it was recorded. The last column counts the
      trainings that are better than the baseline by more than other images could explain, of those
      that were compared image by image.
    """
    by_row = {
        row: {r["seed"]: r for r in records if (r["detector"], r["row"]) == (name, row)}
        for row in DETECTORS[name].rows
    }
    baseline = next(iter(by_row.values()))
    dataset, size, steps = _setting(records[0])
    title = f"{name}, {dataset}, {size}x{size}, {steps} steps"
    recorded = {key for runs in by_row.values() for run in runs.values() for key in run}
    metrics = [metric for metric in METRICS + SIZE_METRICS if metric in recorded]
    columns = [title, *metrics, "AP gained on the baseline", "seeds"]
    is_compared = "gained" in recorded
    if is_compared:
        columns.append("of these, more than chance")
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row, runs in by_row.items():
        cells = [
            mean_and_spread([run[metric] for run in runs.values() if metric in run])
            for metric in metrics
        ]
        gain = gains.gain(_precisions(runs), _precisions(baseline))
        cells += ["" if runs is baseline else gain.cell("+.3f"), str(len(runs))]
        if is_compared:
            intervals = [run["gained"] for run in runs.values() if "gained" in run]
            better = sum(interval["low"] > 0 for interval in intervals)
            cells.append(f"{better} of {len(intervals)}" if intervals else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def _precisions(runs: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    return {seed: run["AP"] for seed, run in runs.items()}


if __name__ == "__main__":
    app.run(main)
