"""Trainings that a benchmark makes once: each is recorded when it ends, and resumes if stopped."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from libra_tf.data import make_shapes, shapes
from libra_tf.data.dials import Dials
from libra_tf.data.shapes import DEMO_SHAPES

ROOT = pathlib.Path(__file__).resolve().parents[1]
METRICS = ("AP", "AP50", "AP75")
# Of small, medium and large objects.
SIZE_METRICS = ("APs", "APm", "APl")
_EVALUATION = "evaluation.json"
_DATASET = "--dataset="


def schedule(input_size: int, steps: int) -> list[str]:
    """Returns the overrides of a short training with one evaluation, at its end.

    Args:
      input_size: height and width of the input in pixels.
      steps: number of steps.
    """
    return [
        f"task.model.input_size=[{input_size},{input_size},3]",
        f"trainer.train_steps={steps}",
        f"trainer.validation_interval={steps}",
        f"trainer.checkpoint_interval={min(steps, 100)}",
    ]


def arguments(
    experiment: str, dataset: str, seed: int, row: Sequence[str], schedule: Sequence[str]
) -> list[str]:
    """Returns the flags of `run.py` for a training of a row, in float32 on every machine.

    Args:
      experiment: its name.
      dataset: folder of the data set.
      seed: the seed.
      row: the overrides of the row.
      schedule: those of the schedule; see `schedule`.
    """
    overrides = [*row, "runtime.mixed_precision_dtype=float32", *schedule]
    return [
        f"--experiment={experiment}",
        f"{_DATASET}{dataset}",
        f"--seed={seed}",
        f"--params_override={','.join(overrides)}",
    ]


def train_once(
    records: str,
    runs: str,
    key: Mapping[str, Any],
    arguments: Sequence[str],
    baseline: Mapping[str, Any] | None = None,
) -> None:
    """Trains with `run.py` and records the result, unless the records have it already.

    Args:
      records: file with a JSON line for every finished training.
      runs: folder for the folders of the trainings.
      key: what tells this training from the others; it is recorded and names the folder.
      arguments: of `run.py`, without the mode and the folder. All but the data set, whose path
        differs from machine to machine, are recorded, as is whether oneDNN was on.
      baseline: key of a training on the same data to compare with. The record then has the
        difference of AP as `gained` (see `libra_tf.evaluation.comparison.compare`), unless the
        folder of the baseline is gone.
    """
    if _is_trained(records, key, arguments):
        return
    # Now, because a folder that cannot be made would cost the training.
    make_folder_of(records)
    model_dir = folder(runs, key)
    print(f"training {model_dir.name}: {model_dir}", flush=True)
    command = [sys.executable, str(ROOT / "run.py"), "--mode=train_and_eval", *arguments]
    is_compared = baseline is not None and (folder(runs, baseline) / _EVALUATION).exists()
    if is_compared:
        command.append(f"--compare={folder(runs, baseline)}")
    subprocess.run([*command, f"--model_dir={model_dir}"], check=True)
    results = json.loads((model_dir / "results.json").read_text())
    per_class = {k: v for k, v in results.items() if k.startswith("Precision mAP ByCategory/")}
    metrics = {metric: results[metric] for metric in METRICS + SIZE_METRICS}
    how = {"arguments": _without_dataset(arguments), "onednn": _has_onednn()}
    record = {**key, **how, **metrics, **per_class}
    if is_compared:
        evaluation = json.loads((model_dir / _EVALUATION).read_text())
        record["gained"] = evaluation["compared"]["kinds"]["bbox"]["differences"]["AP"]
    append(records, record)


def _is_trained(records: str, key: Mapping[str, Any], arguments: Sequence[str]) -> bool:
    """Returns whether a training is recorded; exits if that was another with the same key.

    Records of earlier versions lack the arguments and are taken for the training itself.

    Args:
      records: see `train_once`.
      key: see `train_once`.
      arguments: see `train_once`.
    """
    wanted = _without_dataset(arguments)
    found = [record for record in read(records) if key.items() <= record.items()]
    for record in found:
        if record.get("arguments", wanted) != wanted:
            sys.exit(
                f"error: {records} has another training as {dict(key)}: its arguments are "
                f"{' '.join(record['arguments'])}, and those of this one {' '.join(wanted)}; "
                "give another --records and another --runs"
            )
    return bool(found)


def _without_dataset(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith(_DATASET)]


def _has_onednn() -> bool:
    """Returns whether `run.py` computes with oneDNN, which it does unless told not to."""
    return os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"


def train_on_shapes(
    records: str,
    runs: str,
    dials: Dials,
    experiment: str,
    row: Mapping[str, str],
    overrides: Sequence[str],
    seed: int,
    steps: int,
) -> None:
    """Trains a row on the shapes of the demo, drawn with dials; see `train_once`.

    Args:
      records: see `train_once`.
      runs: see `train_once`; its folder `images` gets the shapes.
      dials: how the shapes are drawn.
      experiment: name of the experiment.
      row: what tells this row from the others, for the key.
      overrides: those of the row.
      seed: the seed.
      steps: number of steps.
    """
    name = shapes.folder_name(**DEMO_SHAPES, dials=dials)
    key = {"dataset": name, **row, "seed": seed, "steps": steps}
    images = os.path.join(runs, "images", name)
    flags_of_row = arguments(
        experiment, images, seed, overrides, schedule(DEMO_SHAPES["image_size"], steps)
    )
    # Drawing takes a while, and a recorded training needs no images.
    if not _is_trained(records, key, flags_of_row):
        make_shapes(images, **DEMO_SHAPES, dials=dials)
        train_once(records, runs, key, flags_of_row)


def folder(runs: str, key: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder of a training.

    Args:
      runs: see `train_once`.
      key: see `train_once`.
    """
    return pathlib.Path(runs) / "-".join(map(str, key.values())).replace(" ", "_")


def read(records: str) -> list[dict[str, Any]]:
    """Returns the recorded trainings, oldest first; none if there is no such file.

    Args:
      records: the file.
    """
    if not os.path.exists(records):
        return []
    with open(records) as file:
        return [json.loads(line) for line in file]


def is_recorded(records: str, key: Mapping[str, Any]) -> bool:
    """Returns whether there is a record with all that a key holds.

    Args:
      records: the file.
      key: names and values.
    """
    return any(key.items() <= record.items() for record in read(records))


def append(records: str, record: Mapping[str, Any]) -> None:
    """Records something as a further line.

    Args:
      records: the file; it is made, with its folder, if there is none.
      record: what JSON can hold.
    """
    make_folder_of(records)
    with open(records, "a") as file:
        file.write(json.dumps(record) + "\n")


def make_folder_of(path: str) -> None:
    """Makes the folder of a file, unless it is there.

    Args:
      path: of the file.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)


def mean_and_spread(values: Sequence[float], sign: str = ".3f") -> str:
    """Returns the mean with the sample standard deviation, as a cell of a table.

    Args:
      values: one per seed.
      sign: how to format the mean.
    """
    if not values:
        return "-"
    mean = format(statistics.mean(values), sign)
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean
