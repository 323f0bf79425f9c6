"""From runs to a report: measures, verdicts, `report.html` and `report.json`."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

import tensorflow as tf
from official.common import dataset_fn
from official.core import config_definitions as cfg
from official.core import input_reader

from libra_tf import atomic
from libra_tf.analysis import collect, commands, page, verdicts
from libra_tf.cli import outputs
from libra_tf.cli.errors import UsageError
from libra_tf.data import DetectionDataset, prepare_coco_folder
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder

_METRICS = ("AP", "AP50", "AP75")
_FORMAT = 1


def write(
    model_dirs: Sequence[str],
    output_dir: str,
    dataset: str | None = None,
    cache_dir: str | None = None,
    checkpoint: str | None = None,
    num_batches: int = 8,
    point: tuple[float, float] | None = None,
    report: Callable[[str], None] = print,
) -> tuple[str, str]:
    """Measures runs and writes the report.

    Args:
      model_dirs: folders of the run to report on and of those to compare it with, local or remote
        (`gs://...`).
      output_dir: local or remote folder to write to; it is created.
      dataset: a local folder of images to measure on; None for the training images of the first
        run.
      cache_dir: where converted data sets are kept; None for the default.
      checkpoint: a checkpoint of the first run; None for the newest.
      num_batches: how many batches to measure.
      point: see `libra_tf.analysis.collect.analyse`.
      report: receives lines about the progress.

    Returns:
      The paths of the page and of the JSON file.

    Raises:
      UsageError: if a run or its images cannot be read, or `output_dir` cannot be written.
      DatasetError: if the folder of images cannot be used.
    """
    # All runs are read before the long work on the first.
    runs = [
        trained_run.read(folder, checkpoint if index == 0 else None)
        for index, folder in enumerate(model_dirs)
    ]
    metrics = [_read_metrics(run.folder) for run in runs]
    trainings = [commands.read_training(run) for run in runs]
    if dataset is None:
        _check_masks(runs)
    outputs.make_folder("--output_dir", output_dir)
    input_path, max_num_instances = runs[0].params.task.train_data.input_path, 0
    if dataset is None:
        _check_classes(runs, None)
    else:
        prepared = prepare_coco_folder(
            dataset,
            cache_dir,
            report=lambda message: report(f"data: {message}"),
            needs_masks=_why_masks(runs),
        )
        _check_classes(runs, prepared)
        input_path = prepared.train.input_path
        max_num_instances = prepared.train.max_boxes_per_image
    on_page = []
    names = _names(model_dirs)
    for run, name, of_run, training in zip(runs, names, metrics, trainings, strict=True):
        analysis = collect.analyse(run, input_path, num_batches, point, max_num_instances, report)
        judged = verdicts.judge(analysis.numbers)
        on_page.append(page.Run(name, analysis, judged, *of_run, training))
    return _write_files(output_dir, on_page)


def _names(model_dirs: Sequence[str]) -> list[str]:
    """Returns the names of the folders; their whole paths if two have the same name."""
    paths = [
        folder.rstrip("/") if atomic.is_remote(folder) else os.path.abspath(folder)
        for folder in model_dirs
    ]
    names = [os.path.basename(path) for path in paths]
    return names if len(set(names)) == len(names) else paths


def _predict_masks(run: trained_run.TrainedRun) -> bool:
    return getattr(run.params.task.model, "include_mask", False)


def _why_masks(runs: Sequence[trained_run.TrainedRun]) -> str:
    """Returns which run needs masks, and what to do without them; empty if none does."""
    folders = [run.folder for run in runs if _predict_masks(run)]
    if not folders:
        return ""
    instead = "leave out --dataset" if _predict_masks(runs[0]) else "leave out that run"
    return (
        f"the detector in {folders[0]} predicts masks: name a folder with a segmentation for "
        f"every object, or {instead}"
    )


def _check_masks(runs: Sequence[trained_run.TrainedRun]) -> None:
    """Checks that the training images of the first run have masks if a run learns from them."""
    folders = [run.folder for run in runs if _predict_masks(run)]
    if not folders or _has_masks(runs[0].params.task.train_data):
        return
    first = "" if _predict_masks(runs[0]) else "name that run first, or "
    raise UsageError(
        f"the detector in {folders[0]} predicts masks, but the training images of "
        f"{runs[0].folder} have none; {first}name a folder with a segmentation for every object "
        "with --dataset"
    )


def _has_masks(data: cfg.DataConfig) -> bool:
    """Returns whether the first record with objects has masks; True where that cannot be said."""
    if data.tfds_name:
        return True
    label, mask = "image/object/class/label", "image/object/mask"
    features = {label: tf.io.VarLenFeature(tf.int64), mask: tf.io.VarLenFeature(tf.string)}
    try:
        files = input_reader.match_files(data.input_path)
        for record in dataset_fn.pick_dataset_fn(data.file_type)(files):
            found = tf.io.parse_single_example(record, features)
            if tf.size(found[label].values):
                return bool(tf.size(found[mask].values))
    except (ValueError, tf.errors.OpError):
        # What reads the images for the measures says what is wrong with them.
        pass
    return True


def _check_classes(
    runs: Sequence[trained_run.TrainedRun], dataset: DetectionDataset | None
) -> None:
    """Checks that every class means the same in all detectors and in the images."""
    if dataset is None:
        wanted, owner = runs[0].read_class_names(), runs[0].folder
    else:
        wanted, owner = dataset.class_names, f"--dataset={dataset.folder}"
    for run in runs:
        names = run.read_class_names()
        for category, name in wanted.items():
            theirs = names.get(category)
            # A class without a name is called by its number, which fits any name.
            if theirs is None or (theirs != name and str(category) not in (theirs, name)):
                raise UsageError(
                    f"class {category} is {name!r} in {owner} and {theirs!r} in {run.folder}; "
                    "name runs and images of the same classes"
                )


def _read_metrics(folder: RunFolder) -> tuple[dict[str, float], int | None]:
    """Returns the metrics of a run's newest evaluation and its step; neither without one."""
    results = folder.read_results() or {}
    return {name: results[name] for name in _METRICS if name in results}, results.get("step")


def _write_files(output_dir: str, runs: Sequence[page.Run]) -> tuple[str, str]:
    content = {
        "format": _FORMAT,
        "runs": [
            {
                "name": run.name,
                **run.analysis.numbers,
                "measured_by_evaluation": {"step": run.metrics_step, **run.metrics},
                "verdicts": [
                    {**dataclasses.asdict(verdict), "command": run.command(verdict)}
                    for verdict in run.verdicts
                ],
            }
            for run in runs
        ],
    }
    # Both are made before either is written, and the numbers first, so that a page never comes
    # without them.
    texts = {
        "report.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "report.html": page.render(runs),
    }
    paths = {name: os.path.join(output_dir, name) for name in texts}
    for name, text in texts.items():
        atomic.write_file(paths[name], text)
    return paths["report.html"], paths["report.json"]
