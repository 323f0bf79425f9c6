"""Measures what balancing classes gains where some are rare.

    python benchmarks/class_balance.py                         hours on two cores
    python benchmarks/class_balance.py --detectors=retinanet   one detector's rows
    python benchmarks/class_balance.py --ratios=5 --ratios=20  other ratios
    python benchmarks/class_balance.py --report                tables of the records

The built-in shapes are drawn with a number of objects that falls from class to class by the same
factor; a ratio is how many objects of the first class there are for one of the last. Only training
images are so. The validation images are the same for all ratios and have every class about as
often, a hundred objects or more of each: with few objects, the AP of a rare class would be little
more than chance. So the AP is not that of images like the training images, where a rare class has
more false positives for each of its objects.

The rare classes are the rarer half, the frequent ones the other. Which shapes they are stays the
same, and some shapes are easier than others: compare rows, not rare with frequent classes. A gain
is a mean of differences between trainings with the same seed, given with its standard error.

Finished trainings are recorded and not repeated; a training that was stopped resumes. One seed
comes after the other, so the table is fair at any time.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

import gains
from libra_tf.data import shapes
from libra_tf.data.dials import Dials
from libra_tf.data.shape_images import CLASS_NAMES
from libra_tf.data.shapes import DEMO_SHAPES
from rows import BASELINE
from trainings import ROOT, read, train_on_shapes

# With all classes as frequent as each other, each is in more than half of the images: then nothing
# is repeated.
_ROWS = {
    BASELINE: (),
    "repeat-factor sampling": ("task.train_data.repeat_threshold=0.5",),
    "weights, effective number": ("task.losses.class_weighting=effective_number",),
    "weights, inverse frequency": ("task.losses.class_weighting=inverse_frequency",),
}
# By detector, its experiment and its rows.
DETECTORS = {
    "retinanet": ("libra_retinanet_demo", _ROWS),
    "fasterrcnn": (
        "libra_fasterrcnn_demo",
        {**_ROWS, "class-balanced RoIs": ("task.model.roi_sampler.class_balanced=true",)},
    ),
}
_HALF = len(CLASS_NAMES) // 2
# By column, whose AP is averaged.
GROUPS = {
    "all": tuple(CLASS_NAMES.values()),
    "rare": tuple(CLASS_NAMES.values())[_HALF:],
    "frequent": tuple(CLASS_NAMES.values())[:_HALF],
}

_DETECTORS = flags.DEFINE_multi_enum(
    "detectors", list(DETECTORS), list(DETECTORS), "What to train."
)
_RATIOS = flags.DEFINE_multi_float(
    "ratios", [50], "Objects of the commonest class for one of the rarest.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings per row and ratio.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 450, "Steps of 8 images per training.", lower_bound=1)
_RECORDS = flags.DEFINE_string(
    "records",
    str(ROOT / "benchmarks/records/class_balance.jsonl"),
    "Records of finished trainings.",
)
_RUNS = flags.DEFINE_string(
    "runs", str(ROOT / "runs/class_balance"), "Folder of the trainings and their images."
)
_REPORT = flags.DEFINE_bool("report", False, "Only print the table of the recorded trainings.")


def main(_: list[str]) -> None:
    """Runs the missing trainings and prints the table."""
    settings = list(itertools.product(_RATIOS.value, _DETECTORS.value))
    if not _REPORT.value:
        for seed in range(_SEEDS.value):
            for ratio, name in settings:
                _train(ratio, name, seed)
    records = [record for record in read(_RECORDS.value) if record["steps"] == _STEPS.value]
    print("\n".join(table(settings, records)))


def _train(ratio: float, name: str, seed: int) -> None:
    """Trains all rows of a detector with a seed, unless recorded."""
    experiment, rows = DETECTORS[name]
    for row, overrides in rows.items():
        train_on_shapes(
            _RECORDS.value,
            _RUNS.value,
            Dials(class_ratio=ratio),
            experiment,
            {"detector": name, "row": row},
            overrides,
            seed,
            _STEPS.value,
        )


def table(settings: Sequence[tuple[float, str]], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each ratio, detector and way.

    Args:
      settings: ratios and detectors.
      records: finished trainings, all with the same number of steps.
    """
    heads = [f"AP, {group}" for group in GROUPS] + [f"gain, {group}" for group in GROUPS]
    lines = [
        f"| ratio | detector | row | {' | '.join(heads)} | seeds |",
        f"| --- | --- | --- |{' --- |' * (len(heads) + 1)}",
    ]
    for ratio, name in settings:
        dataset = shapes.folder_name(**DEMO_SHAPES, dials=Dials(class_ratio=ratio))
        by_row = {
            row: [
                r
                for r in records
                if (r["dataset"], r["detector"], r["row"]) == (dataset, name, row)
            ]
            for row in DETECTORS[name][1]
        }
        for row, of_row in by_row.items():
            cells = _cells(of_row, by_row[BASELINE], is_baseline=row == BASELINE)
            lines.append(f"| {ratio:g} | {name} | {row} | {' | '.join(cells)} | {len(of_row)} |")
    return lines


def _cells(
    of_row: Sequence[Mapping[str, Any]],
    of_baseline: Sequence[Mapping[str, Any]],
    is_baseline: bool,
) -> list[str]:
    precisions, differences = [], []
    for group in GROUPS:
        row, baseline = _by_seed(of_row, group), _by_seed(of_baseline, group)
        precisions.append(gains.mean(list(row.values())).cell())
        differences.append("" if is_baseline else gains.gain(row, baseline).cell("+.3f"))
    return precisions + differences


def _by_seed(records: Sequence[Mapping[str, Any]], group: str) -> dict[int, float]:
    """Returns the mean AP of a group of classes, by seed."""
    return {
        record["seed"]: statistics.mean(
            record[f"Precision mAP ByCategory/{name}"] for name in GROUPS[group]
        )
        for record in records
    }


if __name__ == "__main__":
    app.run(main)
