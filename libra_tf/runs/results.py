"""The results of a run: `results.json` and the closing table."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import rich.markup
import rich.table
import tensorflow as tf

from libra_tf.runs import run_files

_FILE_NAME = "results.json"
_COLUMNS = {
    "AP": "Precision mAP ByCategory",
    "AP50": "Precision mAP ByCategory@50IoU",
    "AP75": "Precision mAP ByCategory@75IoU",
    "APs": "Precision mAP ByCategory (small)",
    "APm": "Precision mAP ByCategory (medium)",
    "APl": "Precision mAP ByCategory (large)",
}


class Results:
    """Every evaluation of a run, kept in `MODEL_DIR/results.json`.

    The file holds `experiment`, `dataset`, `evaluations` (one entry per evaluation, oldest first)
    and, beside them, the keys of the newest evaluation. An entry holds every metric under its
    name (`AP`, `AP50`, ...) and

    * `step`: training step of the weights;
    * `seconds`: since this run started;
    * `images_per_second`: training speed since the evaluation before, None if nothing was trained;
    * `eval_seconds`, `eval_images_per_second`: of the evaluation itself.

    Args:
      model_dir: folder of the run; evaluations it already holds are kept.
      experiment: name of the experiment.
      dataset: folder of the data set or pattern of its files.

    Raises:
      UsageError: if the file is there and cannot be read.
    """

    def __init__(self, model_dir: str, experiment: str, dataset: str):
        self.path = os.path.join(model_dir, _FILE_NAME)
        self._header = {"experiment": experiment, "dataset": dataset}
        self._started = time.monotonic()
        self._evaluations = self._read()

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Entries of all evaluations, oldest first."""
        return self._evaluations

    def _read(self) -> list[dict[str, Any]]:
        if not tf.io.gfile.exists(self.path):
            return []
        remedy = "move it away: only the record of earlier evaluations is lost"
        with run_files.explained(self.path, remedy), tf.io.gfile.GFile(self.path) as file:
            return list(json.load(file)["evaluations"])

    def add(self, step: int, metrics: Mapping[str, Any], speed: Mapping[str, float | None]) -> None:
        """Appends an evaluation and writes the file, which is never seen half-written.

        Args:
          step: training step of the weights.
          metrics: scalars by name; what is not a scalar, such as pictures, is left out.
          speed: `images_per_second`, `eval_seconds` and `eval_images_per_second`.
        """
        entry = {"step": step, "seconds": time.monotonic() - self._started, **speed}
        for name, value in metrics.items():
            if tf.rank(value) == 0:
                entry[name] = float(value)
        self._evaluations = [*self._evaluations, entry]
        document = {**self._header, **entry, "evaluations": self._evaluations}
        with run_files.written_whole(self.path) as path, tf.io.gfile.GFile(path, "w") as file:
            file.write(json.dumps(document, indent=2) + "\n")


def table(evaluation: Mapping[str, Any]) -> rich.table.Table:
    """Returns the closing table: AP, AP50, AP75 and small, medium, large, of all and per class.

    Args:
      evaluation: an entry of `Results.evaluations`.
    """
    result = rich.table.Table(title=f"COCO metrics at step {evaluation['step']}")
    result.add_column("class")
    for column in _COLUMNS:
        result.add_column(column, justify="right")
    result.add_row("all", *(_cell(evaluation.get(column)) for column in _COLUMNS))
    prefix = _COLUMNS["AP"] + "/"
    for name in (key.removeprefix(prefix) for key in evaluation if key.startswith(prefix)):
        cells = (_cell(evaluation.get(f"{key}/{name}")) for key in _COLUMNS.values())
        result.add_row(rich.markup.escape(name), *cells)
    return result


def _cell(value: float | None) -> str:
    # pycocotools gives -1 where there is no object to find.
    return "-" if value is None or value < 0 else f"{value:.3f}"
