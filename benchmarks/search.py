"""Searches learning rate and loss weight for a baseline and for Libra alike, on held-out images.

    python benchmarks/search.py --dataset=FOLDER --detector=retinanet_lite0
    python benchmarks/search.py --report

What `benchmarks/ablation.py` compares should be equally well tuned. So its first and its last row
get the same search here: every learning rate with the usual weight, then half and twice that weight
with the best rate. A fifth of the folder's `train` is held out, drawn once at random, and AP is
that on it; `val` is not looked at. Finished trainings are recorded and not repeated; a training
that was stopped resumes.
"""

import json
import os
import pathlib
import random
from typing import Any

from absl import app, flags

from libra_tf.cli import program
from libra_tf.cli.errors import UsageError
from rows import DETECTORS
from trainings import METRICS, ROOT, arguments, read, schedule, train_once

LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01)
WEIGHT_FACTORS = (0.5, 2.0)
_RATE = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
# Key of the weight of the box loss, and its value in the baseline and in the Libra experiment.
_BOX_LOSS_WEIGHT = {
    "retinanet_lite0": ("task.losses.box_loss_weight", 50.0, 4.0),
    "fasterrcnn_lite0": ("task.losses.frcnn_box_weight", 1.0, 1.0),
}

_DATASET = flags.DEFINE_string(
    "dataset", None, "Folder with `images` and `annotations/instances_train.json`, in COCO format."
)
_DETECTOR = flags.DEFINE_enum(
    "detector", "retinanet_lite0", list(_BOX_LOSS_WEIGHT), "What to train."
)
_STEPS = flags.DEFINE_integer("steps", 400, "Steps of 8 images per training.", lower_bound=1)
_INPUT_SIZE = flags.DEFINE_integer("input_size", 224, "Height and width of the input.")
_RECORDS = flags.DEFINE_string(
    "records", str(ROOT / "benchmarks/records/search.jsonl"), "Records of finished trainings."
)
_RUNS = flags.DEFINE_string("runs", str(ROOT / "runs/search"), "Folder of the trainings.")
_REPORT = flags.DEFINE_bool("report", False, "Only print the table of the recorded trainings.")


def main(_: list[str]) -> int:
    """Runs the missing trainings and prints the table."""
    return program.exit_status(_search_and_report)


def _search_and_report() -> None:
    if not _REPORT.value:
        _search()
    print("\n".join(table()))


def _search() -> None:
    if _DATASET.value is None:
        raise UsageError("--dataset=FOLDER is missing: the folder in COCO format to train on")
    rows = DETECTORS[_DETECTOR.value].rows
    held_out = hold_out(_DATASET.value, os.path.join(_RUNS.value, "held_out", _dataset_name()))
    _, *weights = _BOX_LOSS_WEIGHT[_DETECTOR.value]
    for row, weight in zip((next(iter(rows)), list(rows)[-1]), weights, strict=True):
        by_rate = {rate: _train(held_out, row, rate, weight) for rate in LEARNING_RATES}
        best = max(by_rate, key=lambda rate: by_rate[rate]["AP"])
        for factor in WEIGHT_FACTORS:
            _train(held_out, row, best, weight * factor)


def _dataset_name() -> str:
    return os.path.basename(os.path.abspath(_DATASET.value))


def hold_out(dataset: str, folder: str) -> str:
    """Splits the `train` of a data set into four fifths to train on and a fifth to measure on.

    Args:
      dataset: folder in COCO format.
      folder: folder for the new data set, whose images are those of `dataset`.

    Returns:
      `folder`.

    Raises:
      UsageError: if there is no `train`, or if the folder was made from another data set.
    """
    source, target = pathlib.Path(dataset).resolve(), pathlib.Path(folder)
    all_of_train = source / "annotations/instances_train.json"
    if not all_of_train.exists():
        raise UsageError(
            f"--dataset={dataset} has no annotations/instances_train.json: the search takes only "
            "the first layout of docs/data.md"
        )
    (target / "annotations").mkdir(parents=True, exist_ok=True)
    _link(target / "images", source / "images")
    annotations = json.loads(all_of_train.read_text())
    images = sorted(annotations["images"], key=lambda image: image["id"])
    random.Random(0).shuffle(images)
    number = len(images) // 5
    for split, part in (("val", images[:number]), ("train", images[number:])):
        ids = {image["id"] for image in part}
        objects = [a for a in annotations["annotations"] if a["image_id"] in ids]
        text = json.dumps({**annotations, "images": part, "annotations": objects})
        (target / f"annotations/instances_{split}.json").write_text(text)
    return folder


def _link(link: pathlib.Path, images: pathlib.Path) -> None:
    if not os.path.lexists(link):
        link.symlink_to(images)
    elif link.resolve() != images.resolve():
        # Both data sets have the same name, so their records could not be told apart either.
        raise UsageError(
            f"{link} leads to {link.resolve()}, not to {images}: delete {link.parent}, or give "
            "other --runs and --records"
        )


def _train(dataset: str, row: str, rate: float, weight: float) -> dict[str, Any]:
    """Trains once, and returns the record."""
    name = _DETECTOR.value
    key = {
        "detector": name,
        "row": row,
        "learning_rate": rate,
        "box_loss_weight": weight,
        "dataset": _dataset_name(),
        "steps": _STEPS.value,
        "input_size": _INPUT_SIZE.value,
    }
    detector = DETECTORS[name]
    overrides = [
        *detector.overrides,
        *detector.rows[row],
        f"{_RATE}={rate}",
        f"{_BOX_LOSS_WEIGHT[name][0]}={weight}",
    ]
    flags_of_run = arguments(
        detector.experiment, dataset, 0, overrides, schedule(_INPUT_SIZE.value, _STEPS.value)
    )
    train_once(_RECORDS.value, _RUNS.value, key, flags_of_run)
    return next(record for record in read(_RECORDS.value) if key.items() <= record.items())


def table() -> list[str]:
    """Returns the lines of a Markdown table with a row for each recorded training."""
    lines = [
        f"| detector, row | learning rate | weight of the box loss | {' | '.join(METRICS)} |",
        f"| --- | --- | --- |{' --- |' * len(METRICS)}",
    ]
    for record in read(_RECORDS.value):
        settings = f"{record['learning_rate']:g} | {record['box_loss_weight']:g}"
        metrics = " | ".join(format(record[metric], ".3f") for metric in METRICS)
        lines.append(f"| {record['detector']}, {record['row']} | {settings} | {metrics} |")
    return lines


if __name__ == "__main__":
    app.run(main)
