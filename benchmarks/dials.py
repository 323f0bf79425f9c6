"""Measures what each Libra component gains as the imbalance that it is for gets worse.

    python benchmarks/dials.py                            hours on two cores
    python benchmarks/dials.py --dials=look_alikes        one of the dials
    python benchmarks/dials.py --report --settings=0 --settings=1 --plot=dials.svg
                                                          tables and picture of the records

The built-in shapes are drawn with one dial turned at a time (`libra_tf/data/dials.py`). At each of
its settings, Faster R-CNN is trained without Libra's components and with each of them alone. Every
setting has the same rows and seeds, so a gain is a mean of differences between trainings with the
same seed, given with its standard error. At 0, there are more rows: IoU-balanced sampling of
the RPN's anchors, which is no part of Libra R-CNN, and half the weight of the box loss.

Finished trainings are recorded and not repeated; a training that was stopped resumes. All dials
share the trainings at 0. The ends of the dials come first, one seed after the other, so the tables
are fair at any time.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

import gains
from libra_tf.data import shapes
from libra_tf.data.dials import AT_ZERO, Dials
from libra_tf.data.shapes import DEMO_SHAPES
from rows import BASELINE, FASTERRCNN_ROWS
from trainings import ROOT, make_folder_of, read, train_on_shapes

# Of each dial, the component for the same imbalance.
MATCHING = {
    "look_alikes": "IoU-balanced sampling",
    "size_spread": "balanced pyramid",
    "unclear_borders": "balanced L1",
}
COMPONENTS = tuple(MATCHING.values())
# Trained at 0 alone.
OTHERS = {
    "IoU-balanced RPN": (
        *FASTERRCNN_ROWS[BASELINE],
        "task.model.rpn_sampler.type=iou_balanced",
    ),
    "baseline at half the weight": (
        *FASTERRCNN_ROWS[BASELINE],
        "task.losses.frcnn_box_weight=0.5",
    ),
    "balanced L1 at half the weight": (
        *FASTERRCNN_ROWS["balanced L1"],
        "task.losses.frcnn_box_weight=0.5",
    ),
}

_DIALS = flags.DEFINE_multi_enum("dials", list(MATCHING), list(MATCHING), "What to turn.")
_SETTINGS = flags.DEFINE_multi_float(
    "settings", [0, 0.25, 0.5, 1], "Settings of each dial.", lower_bound=0, upper_bound=1
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings per row and setting.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 250, "Steps of 8 images per training.", lower_bound=1)
_RECORDS = flags.DEFINE_string(
    "records",
    str(ROOT / "benchmarks/records/dials.jsonl"),
    "Records of finished trainings.",
)
_RUNS = flags.DEFINE_string(
    "runs", str(ROOT / "runs/dials"), "Folder of the trainings and their images."
)
_REPORT = flags.DEFINE_bool("report", False, "Only print the tables of the recorded trainings.")
_PLOT = flags.DEFINE_string("plot", None, "SVG file to draw the gains in.")


def main(_: list[str]) -> None:
    """Runs the missing trainings and prints a table per dial."""
    if _PLOT.value:
        make_folder_of(_PLOT.value)
    if not _REPORT.value:
        ends = {min(_SETTINGS.value), max(_SETTINGS.value)}
        for settings in (sorted(ends), [s for s in _SETTINGS.value if s not in ends]):
            for seed, dial, setting in itertools.product(
                range(_SEEDS.value), _DIALS.value, settings
            ):
                _train(Dials(**{dial: setting}), seed)
    records = [record for record in read(_RECORDS.value) if record["steps"] == _STEPS.value]
    results = {dial: results_of(dial, _SETTINGS.value, records) for dial in _DIALS.value}
    for dial, of_dial in results.items():
        title = f"{dial} (for {MATCHING[dial]})"
        print("\n".join(gains.table(title, of_dial, BASELINE, COMPONENTS)), end="\n\n")
    at_zero = results_of(next(iter(MATCHING)), [0.0], records)
    print("\n".join(gains.table("all dials", at_zero, BASELINE, tuple(OTHERS))))
    if _PLOT.value:
        gains.picture(results, BASELINE, COMPONENTS).savefig(_PLOT.value)


def _train(dials: Dials, seed: int) -> None:
    """Trains all rows with a seed on the shapes with these dials, unless recorded."""
    rows = {row: FASTERRCNN_ROWS[row] for row in (BASELINE, *COMPONENTS)}
    if dials == AT_ZERO:
        rows |= OTHERS
    for row, overrides in rows.items():
        train_on_shapes(
            _RECORDS.value,
            _RUNS.value,
            dials,
            "libra_fasterrcnn_demo",
            {"row": row},
            overrides,
            seed,
            _STEPS.value,
        )


def results_of(
    dial: str, settings: Sequence[float], records: Sequence[Mapping[str, Any]]
) -> dict[float, dict[str, dict[int, float]]]:
    """Sorts the records of a dial.

    Args:
      dial: its name.
      settings: of the dial.
      records: finished trainings, all with the same number of steps.

    Returns:
      By setting, row and seed: the AP.
    """
    results = {}
    for setting in settings:
        name = shapes.folder_name(**DEMO_SHAPES, dials=Dials(**{dial: setting}))
        rows = results.setdefault(setting, {})
        for record in records:
            if record["dataset"] == name:
                rows.setdefault(record["row"], {})[record["seed"]] = record["AP"]
    return results


if __name__ == "__main__":
    app.run(main)
