"""The data that a run reads: a folder or the built-in shapes, converted; and its files, checked."""

import os
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import flags
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError
from libra_tf.data import DetectionDataset, make_shapes, prepare_coco_folder, shapes
from libra_tf.data.cache import default_cache_dir

# Sized so that a ResNet-18 learns the shapes within minutes on two CPU cores.
DEMO_SHAPES = {"num_train": 1024, "num_val": 128, "image_size": 128}


def prepare(
    experiment: str, flag_values: flags.FlagValues, report: Callable[[str], None]
) -> DetectionDataset | None:
    """Converts the folder that the flags name, or draws the built-in shapes for a demo.

    Args:
      experiment: name of the experiment.
      flag_values: parsed flags; `dataset` and `cache_dir`.
      report: receives lines about the progress.

    Returns:
      The data set; None for an experiment that brings its own data.

    Raises:
      DatasetError: if the folder cannot be used.
    """

    def report_data(message: str) -> None:
        report(f"data: {message}")

    folder = flag_values.dataset
    if folder is None:
        if not experiment.endswith("_demo"):
            return None
        root = flag_values.cache_dir or default_cache_dir()
        name = shapes.folder_name(**DEMO_SHAPES)
        folder = make_shapes(os.path.join(root, name), **DEMO_SHAPES, report=report_data)
    return prepare_coco_folder(folder, flag_values.cache_dir, report=report_data)


def check_files(params: cfg.ExperimentConfig, mode: str) -> None:
    """Checks that the files of the images and annotations exist.

    Args:
      params: config of the run.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if there are none; it names the key.
    """
    task = params.task
    wanted = {"task.validation_data.input_path": task.validation_data} if "eval" in mode else {}
    if "train" in mode:
        wanted["task.train_data.input_path"] = task.train_data
    for key, data in wanted.items():
        if data.tfds_name:
            continue
        found = find_files(data.input_path)
        if not found or not all(found.values()):
            raise UsageError(
                f"{key} is {data.input_path!r}, and there are no such files. Name a folder in COCO "
                f"format with --dataset=FOLDER, or set {key} with --params_override"
            )
    annotations = task.annotation_file
    if "eval" in mode and annotations and not tf.io.gfile.exists(annotations):
        raise UsageError(f"task.annotation_file is {annotations!r}, and there is no such file")


def find_files(input_path: str | Sequence[str] | None) -> dict[str, list[str]]:
    """Finds the files of a split as Model Garden does.

    Args:
      input_path: a pattern, several with commas between them, or a list of either.

    Returns:
      For each pattern its files in order, possibly none.
    """
    texts = [input_path] if isinstance(input_path, str) else input_path or ()
    patterns = [pattern.strip() for text in texts for pattern in text.split(",")]
    return {pattern: _matching(pattern) for pattern in patterns if pattern}


def _matching(pattern: str) -> list[str]:
    # Model Garden expands nothing else: brackets belong to the name.
    if "*" in pattern or "?" in pattern:
        return sorted(tf.io.gfile.glob(pattern))
    return [pattern] if tf.io.gfile.exists(pattern) else []
