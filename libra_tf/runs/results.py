"""The results of a run: `results.json` and the closing table."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import rich.markup
import rich.table
import tensorflow as tf

from libra_tf import atomic
from libra_tf.runs.folder import RESULTS, RunFolder

# Column of the closing table -> the start of the name of the metric for one class.
_COLUMNS = {
    "AP": "Precision mAP ByCategory",
    "mask_AP": "mask Precision mAP ByCategory",
    "AP50": "Precision mAP ByCategory@50IoU",
    "AP75": "Precision mAP ByCategory@75IoU",
    "APs": "Precision mAP ByCategory (small)",
    "APm": "Precision mAP ByCategory (medium)",
    "APl": "Precision mAP ByCategory (large)",
}


class Results:
    """Every evaluation of a run, kept in its `results.json`.

    The file holds `experiment`, `dataset`, `evaluations` (one entry per evaluation, oldest first)
    and, beside them, the keys of the newest evaluation. An entry holds every metric under its
    name (`AP`, `AP50`, ...) and

    * `step`: training step of the weights;
    * `precision`: what the network computed in;
    * `is_of_training`: whether a training has evaluated itself, on its own validation images;
    * `dataset`: as above, of this evaluation;
    * `changed`: what differed from the run's config, by the keys (see
      `RunFolder.check_continues`);
    * `seconds`: since this run started;
    * `images_per_second`: training speed since the evaluation before, without the first loop of
      steps if there are others, because that one traces; None if nothing was trained;
    * `eval_seconds`, `eval_images_per_second`: of the evaluation itself.

    Args:
      folder: of the run; the evaluations that it already holds are kept.
      experiment: name of the experiment.
      dataset: folder of the data set or pattern of its files.
      precision: dtype that the network computes in.
      changed: what differs from the run's config; see `RunFolder.check_continues`.

    Raises:
      UsageError: if the file is there and cannot be read.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: str,
        dataset: str,
        precision: str,
        changed: Mapping[str, Any] | None = None,
    ):
        self.path = folder.file(RESULTS)
        self._header = {"experiment": experiment, "dataset": dataset}
        self._precision = precision
        self._changed = dict(changed or {})
        self._started = time.monotonic()
        self._folder = folder
        self._evaluations = _read(folder)

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Entries of all evaluations, oldest first."""
        return self._evaluations

    def add(
        self,
        step: int,
        metrics: Mapping[str, Any],
        speed: Mapping[str, float | None],
        is_of_training: bool = False,
    ) -> None:
        """Appends an evaluation and writes the file, completely or not at all.

        Args:
          step: training step of the weights.
          metrics: by name; what is not a scalar, such as a picture, is left out.
          speed: `images_per_second`, `eval_seconds` and `eval_images_per_second`.
          is_of_training: whether a training evaluates itself.
        """
        entry = {
            "step": step,
            "precision": self._precision,
            "is_of_training": is_of_training,
            "dataset": self._header["dataset"],
            "changed": self._changed,
            "seconds": time.monotonic() - self._started,
            **speed,
        }
        for name, value in metrics.items():
            if tf.rank(value) == 0:
                entry[name] = float(value)
        # Read again: another process may have evaluated the run since.
        self._evaluations = [*_read(self._folder), entry]
        document = {**self._header, **entry, "evaluations": self._evaluations}
        atomic.write_file(self.path, json.dumps(document, indent=2) + "\n")


def table(evaluation: Mapping[str, Any]) -> rich.table.Table:
    """Returns the closing table: AP, AP50, AP75 and AP by size, for all classes and for each.

    A detector of masks has a column for their AP.

    Args:
      evaluation: an entry of `Results.evaluations`.
    """
    columns = {
        name: key for name, key in _COLUMNS.items() if name in evaluation or name != "mask_AP"
    }
    result = rich.table.Table(title=f"COCO metrics at step {evaluation['step']}")
    result.add_column("class")
    for column in columns:
        result.add_column(column, justify="right")
    result.add_row("all", *(_cell(evaluation.get(column)) for column in columns))
    for name in of_classes(evaluation):
        cells = (_cell(evaluation.get(f"{key}/{name}")) for key in columns.values())
        result.add_row(rich.markup.escape(name), *cells)
    return result


def of_run(folder: RunFolder, step: int) -> dict[str, Any]:
    """Returns the newest evaluation of a run on its own images with its own config.

    Args:
      folder: of the run.
      step: training step of the weights.

    Returns:
      The entry of `Results.evaluations`; empty if there is none.

    Raises:
      UsageError: if `results.json` is damaged.
    """
    own = folder.read_dataset()
    return next(
        (
            entry
            for entry in reversed(_read(folder))
            # Earlier versions recorded neither images nor changes.
            if entry["step"] == step
            and not entry.get("changed")
            and (entry.get("is_of_training", True) or _is_same(entry.get("dataset"), own))
        ),
        {},
    )


def of_classes(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Returns the AP of each class by its name; negative where there is no object to find.

    Args:
      evaluation: an entry of `Results.evaluations`.
    """
    prefix = _COLUMNS["AP"] + "/"
    return {
        key.removeprefix(prefix): value
        for key, value in evaluation.items()
        if key.startswith(prefix)
    }


def _read(folder: RunFolder) -> list[dict[str, Any]]:
    """Returns the entries of all evaluations, oldest first."""
    return list((folder.read_results() or {"evaluations": []})["evaluations"])


def _is_same(dataset: str | None, own: str | None) -> bool:
    # The folder of a run has an absolute path; a pattern of files is as it was given.
    return own is not None and dataset is not None and own in (dataset, os.path.abspath(dataset))


def _cell(value: float | None) -> str:
    # pycocotools gives -1 where there is no object to find.
    return "-" if value is None or value < 0 else f"{value:.3f}"
