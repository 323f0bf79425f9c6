"""Trains in float32 and in bfloat16, with several seeds, and tabulates the AP of both.

    python benchmarks/precision.py --dataset=FOLDER     the built-in shapes, and a folder
    python benchmarks/precision.py --report             the table of the records

A pair of trainings differs in `runtime.mixed_precision_dtype` alone. Finished trainings are
recorded and not repeated; a training that was stopped resumes. A CPU without bfloat16 emulates it,
which takes many times longer.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from absl import app, flags

import gains
from trainings import METRICS, ROOT, mean_and_spread, read, schedule, train_once

SHAPES = "shapes"
PRECISIONS = ("float32", "bfloat16")

_DATASET = flags.DEFINE_string("dataset", None, "A folder to train on, beside the shapes.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Pairs of trainings per row.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 300, "Steps per training on the folder.", lower_bound=1)
_INPUT_SIZE = flags.DEFINE_integer("input_size", 192, "Height and width of the folder's input.")
_RECORDS = flags.DEFINE_string(
    "records",
    str(ROOT / "benchmarks/records/precision.jsonl"),
    "Records of finished trainings.",
)
_RUNS = flags.DEFINE_string("runs", str(ROOT / "runs/precision"), "Folder of the trainings.")
_REPORT = flags.DEFINE_bool("report", False, "Only print the table of the recorded trainings.")


def main(_: list[str]) -> None:
    """Runs the missing trainings and prints the table."""
    if not _REPORT.value:
        for seed in range(_SEEDS.value):
            for row in _rows():
                for precision in PRECISIONS:
                    _train(*row, precision, seed)
    print("\n".join(table()))


def _rows() -> Iterator[tuple[str, str]]:
    """Yields the experiments to train and their data sets."""
    yield "libra_retinanet_demo", SHAPES
    yield "libra_fasterrcnn_demo", SHAPES
    if _DATASET.value:
        yield "libra_retinanet_small", _DATASET.value


def _train(experiment: str, dataset: str, precision: str, seed: int) -> None:
    key = {
        "experiment": experiment,
        "dataset": os.path.basename(os.path.abspath(dataset)),
        "precision": precision,
        "seed": seed,
    }
    overrides = [f"runtime.mixed_precision_dtype={precision}"]
    arguments = [f"--experiment={experiment}", f"--seed={seed}"]
    if dataset != SHAPES:
        key |= {"steps": _STEPS.value, "input_size": _INPUT_SIZE.value}
        overrides += schedule(_INPUT_SIZE.value, _STEPS.value)
        arguments.append(f"--dataset={dataset}")
    arguments.append(f"--params_override={','.join(overrides)}")
    train_once(_RECORDS.value, _RUNS.value, key, arguments)


def table() -> list[str]:
    """Returns the lines of a Markdown table with a row for each experiment, data and precision.

    A spread is the sample standard deviation over the seeds. The difference is the mean of those
    from float32 with the same seed, with its standard error.
    """
    records = read(_RECORDS.value)
    settings = sorted({_setting(record) for record in records}, reverse=True)
    lines = [
        f"| experiment, data | precision | {' | '.join(METRICS)} | AP minus float32's | seeds |",
        f"| --- |{' --- |' * (len(METRICS) + 3)}",
    ]
    for setting in settings:
        runs = {
            precision: {
                record["seed"]: record
                for record in records
                if (_setting(record), record["precision"]) == (setting, precision)
            }
            for precision in PRECISIONS
        }
        for precision, by_seed in runs.items():
            cells = [mean_and_spread([r[metric] for r in by_seed.values()]) for metric in METRICS]
            wide = runs["float32"]
            gain = gains.gain(_precisions(by_seed), _precisions(wide))
            cells += ["" if by_seed is wide else gain.cell("+.3f"), str(len(by_seed))]
            lines.append(f"| {_title(*setting)} | {precision} | {' | '.join(cells)} |")
    return lines


def _setting(record: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Returns what both trainings of a pair share; the shapes have the experiment's schedule."""
    schedule_of_folder = record.get("input_size", 0), record.get("steps", 0)
    return record["experiment"], record["dataset"], *schedule_of_folder


def _title(experiment: str, dataset: str, input_size: int, steps: int) -> str:
    title = f"{experiment}, {dataset}"
    return f"{title}, {input_size}x{input_size}, {steps} steps" if steps else title


def _precisions(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    return {seed: run["AP"] for seed, run in by_seed.items()}


if __name__ == "__main__":
    app.run(main)
