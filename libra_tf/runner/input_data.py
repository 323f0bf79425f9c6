"""Prepares the input data of a run, and checks that its files exist."""

import os
from collections.abc import Callable, Collection, Sequence

import tensorflow as tf
from absl import flags
from official.common import dataset_fn
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError
from libra_tf.configs import names
from libra_tf.data import DetectionDataset, make_shapes, prepare_coco_folder, shapes
from libra_tf.data.cache import default_cache_dir
from libra_tf.data.shapes import DEMO_SHAPES
from libra_tf.runs.folder import RunFolder

_VALIDATION_IMAGES = "task.validation_data.input_path"


def prepare(
    experiment: str,
    flag_values: flags.FlagValues,
    report: Callable[[str], None],
    with_masks: bool = False,
) -> DetectionDataset | None:
    """Converts the folder in --dataset, or generates the built-in shapes for a demo.

    Args:
      experiment: name of the experiment.
      flag_values: parsed flags; this uses `dataset`, `cache_dir` and `val_share`.
      report: called with progress messages.
      with_masks: whether the detector needs masks.

    Returns:
      The data set; None if the experiment has its own data.

    Raises:
      DatasetError: if the folder cannot be used, or lacks masks that the detector needs.
    """

    def report_data(message: str) -> None:
        report(f"data: {message}")

    folder = flag_values.dataset
    if folder is None:
        if experiment not in names.ON_SHAPES:
            return None
        root = flag_values.cache_dir or default_cache_dir()
        parameters = {**DEMO_SHAPES, "with_masks": with_masks}
        name = shapes.folder_name(**parameters)
        folder = make_shapes(os.path.join(root, name), **parameters, report=report_data)
    return prepare_coco_folder(
        folder,
        flag_values.cache_dir,
        report=report_data,
        needs_masks=_why_masks(experiment) if with_masks else "",
        val_share=flag_values.val_share,
    )


def prepare_of_run(
    folder: RunFolder,
    flag_values: flags.FlagValues,
    named: Collection[str],
    report: Callable[[str], None],
    with_masks: bool = False,
) -> DetectionDataset | None:
    """Converts the folder to evaluate a run on: that in --dataset, or the one that it trained on.

    Args:
      folder: of the run.
      flag_values: parsed flags; this uses `dataset`, `cache_dir` and `val_share`.
      named: keys that the user has set, possibly to other images.
      report: called with progress messages.
      with_masks: whether the detector needs masks.

    Returns:
      The data set; None if the config names the images, or the folder of the training is gone.

    Raises:
      DatasetError: if the folder cannot be used.
    """
    images, val_share = flag_values.dataset, flag_values.val_share
    if images is not None and val_share is None:
        val_share = folder.evaluated_share(images)
    if images is None:
        images, val_share = folder.read_dataset(), folder.read_val_share()
        if not images or not os.path.isdir(images) or _VALIDATION_IMAGES in named:
            return None
    return prepare_coco_folder(
        images,
        flag_values.cache_dir,
        report=lambda message: report(f"data: {message}"),
        needs_masks=_why_masks(folder.read_experiment()) if with_masks else "",
        val_share=val_share,
        share_of_run=flag_values.dataset is None or flag_values.val_share is None,
    )


def _why_masks(experiment: str) -> str:
    """Returns which detector needs masks, and what to do without them."""
    without_masks = experiment.replace("maskrcnn", "fasterrcnn")
    instead = (
        "set task.model.include_mask=false"
        if without_masks == experiment
        else f"use --experiment={without_masks}"
    )
    return (
        f"{experiment} needs them: give every annotation a segmentation, polygons or run-length "
        f"encoded, or {instead}"
    )


def check_files(params: cfg.ExperimentConfig, mode: str) -> None:
    """Checks that the files with images and annotations exist.

    Args:
      params: config of the run.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if there are no files for a key; the message names it.
    """
    task = params.task
    wanted = {_VALIDATION_IMAGES: task.validation_data} if "eval" in mode else {}
    if "train" in mode:
        wanted["task.train_data.input_path"] = task.train_data
    for key, data in wanted.items():
        if data.tfds_name:
            continue
        found = find_files(data.input_path)
        if not found or not all(found.values()):
            raise UsageError(
                f"{key} is {data.input_path!r}, but there are no such files. Name a folder of "
                f"images with --dataset=FOLDER, or set {key} with --params_override"
            )
    annotations = task.annotation_file
    if "eval" in mode and annotations and not tf.io.gfile.exists(annotations):
        raise UsageError(
            f"task.annotation_file is {annotations!r}, but there is no such file; set it to a COCO "
            "annotation file of the validation images"
        )


def find_files(input_path: str | Sequence[str] | None) -> dict[str, list[str]]:
    """Finds the files of a split as Model Garden does.

    Args:
      input_path: a pattern, several patterns separated by commas, or a list of these.

    Returns:
      The sorted files of each pattern, possibly none.
    """
    texts = [input_path] if isinstance(input_path, str) else input_path or ()
    patterns = [pattern.strip() for text in texts for pattern in text.split(",")]
    return {pattern: _matching(pattern) for pattern in patterns if pattern}


def all_files(input_path: str | Sequence[str] | None) -> list[str]:
    """Returns the files of all patterns; see `find_files`."""
    return [file for matching in find_files(input_path).values() for file in matching]


def read_records(data: cfg.DataConfig) -> tf.data.Dataset:
    """Reads the serialized examples of a split, in the order of its files.

    Args:
      data: config of the split; this uses `input_path` and `file_type`.

    Returns:
      A data set of string scalars.
    """
    return dataset_fn.pick_dataset_fn(data.file_type)(all_files(data.input_path))


def _matching(pattern: str) -> list[str]:
    # Model Garden expands only these two wildcards; brackets are part of the name.
    if "*" in pattern or "?" in pattern:
        return sorted(tf.io.gfile.glob(pattern))
    return [pattern] if tf.io.gfile.exists(pattern) else []
