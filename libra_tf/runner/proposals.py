"""Checks the proposals for a detector without an RPN, before and during a run."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.cli import shell
from libra_tf.cli.errors import TrainingError, UsageError
from libra_tf.data import DetectionDataset
from libra_tf.data.annotations import read_image_ids
from libra_tf.data.proposals import SUFFIX
from libra_tf.dataloaders.proposals import problem_in

_HOW_TO_WRITE = (
    f"{shell.program('libra-tf', 'libra_tf')} proposals and "
    f"{shell.python_module('libra_tf.data.proposals')} create such a folder"
)


def check_folders(params: cfg.ExperimentConfig, mode: str) -> None:
    """Checks that the folders of proposals exist, if the experiment needs any.

    Args:
      params: config of the run.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if a folder is not set or does not exist; the message names the key.
    """
    for name in _used_data(params, mode):
        key, folder = f"task.{name}.proposals", getattr(params.task, name).proposals
        if not folder:
            raise UsageError(
                f"{key} is not set: this experiment has no RPN and needs a folder with a file "
                f"<image id>{SUFFIX} for every image. Set it with --params_override={key}=FOLDER; "
                f"{_HOW_TO_WRITE}"
            )
        if not tf.io.gfile.isdir(folder):
            raise UsageError(f"{key} is {folder!r}, but there is no such folder; {_HOW_TO_WRITE}")


def check_files(params: cfg.ExperimentConfig, mode: str, dataset: DetectionDataset | None) -> None:
    """Checks that every image has a file of proposals, as far as the image ids are known.

    Args:
      params: config of the run.
      mode: one of `libra_tf.runner.flags.MODES`.
      dataset: the folder to train on. Without one, only the validation images are known, from
        `task.annotation_file`.

    Raises:
      UsageError: if an image has no file; the message names the first missing files.
      DatasetError: if an annotation file is not in COCO format.
    """
    annotation_files = {
        "train_data": dataset.train.annotation_file if dataset else None,
        "validation_data": params.task.annotation_file,
    }
    for name in _used_data(params, mode):
        annotation_file = annotation_files[name]
        if annotation_file:
            folder = getattr(params.task, name).proposals
            _check_files(f"task.{name}.proposals", folder, annotation_file)


def _used_data(params: cfg.ExperimentConfig, mode: str) -> list[str]:
    if not params.task.takes_proposals:
        return []
    words = {"train": "train_data", "eval": "validation_data"}
    return [name for word, name in words.items() if word in mode]


def _check_files(key: str, folder: str, annotation_file: str) -> None:
    image_ids = read_image_ids(annotation_file, tf.io.gfile.GFile)
    there = set(tf.io.gfile.listdir(folder))
    missing = [name for name in (f"{id_}{SUFFIX}" for id_ in image_ids) if name not in there]
    if missing:
        raise UsageError(
            f"{key} is {folder!r}, which lacks the files for {len(missing)} of the "
            f"{len(image_ids)} images in {annotation_file}: {', '.join(missing[:3])}"
            f"{', ...' if missing[3:] else ''}. An image without proposals needs a file with an "
            f"empty array; {_HOW_TO_WRITE}"
        )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns input pipeline errors about files of proposals into one clear error.

    Raises:
      TrainingError: if a file is missing or has the wrong content; the message names it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        problem = problem_in(error)
        if problem is None:
            raise
        raise TrainingError(problem) from error
