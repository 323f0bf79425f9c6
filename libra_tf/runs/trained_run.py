"""A trained run, read back: its task, its detector with trained weights, its classes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from official.core import base_task, exp_factory, task_factory
from official.core import config_definitions as cfg

import libra_tf.registry_imports  # noqa: F401, registers experiments and tasks
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.compat import keras
from libra_tf.configs import optimization
from libra_tf.data import annotations
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.modeling import optimizers
from libra_tf.runs.folder import EXPERIMENT, PARAMS, RunFolder

# In the name of the average of a weight in a checkpoint.
_AVERAGE = "/.OPTIMIZER_SLOT/optimizer/average/"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run that has a checkpoint.

    Attributes:
      folder: its folder.
      params: the config that it ran with.
      checkpoint: the path prefix of the checkpoint.
    """

    folder: RunFolder
    params: cfg.ExperimentConfig
    checkpoint: str

    def build_task(self) -> base_task.Task:
        """Builds the task of the run."""
        return task_factory.get_task(self.params.task)

    def load_model(self) -> keras.Model:
        """Builds the detector and loads the weights that an evaluation of the run uses.

        Raises:
          UsageError: if the checkpoint is damaged or belongs to another detector.
        """
        task = self.build_task()
        model = task.build_model()
        items = {"model": model}
        averaged = ()
        with explaining_weights(self.folder, self.checkpoint):
            if _has_averages(self.checkpoint):
                optimizer = task.create_optimizer(self.params.trainer.optimizer_config)
                averaged = optimizers.create_averages(optimizer, model)
            if averaged:
                items["optimizer"] = optimizer
            status = tf.train.Checkpoint(**items).read(self.checkpoint)
            status.expect_partial().assert_existing_objects_matched()
        if averaged:
            optimizers.swap_averages(optimizer, averaged)
        return model

    def read_class_names(self) -> dict[int, str]:
        """Returns the names of all classes that the detector can give, by category id.

        They come from the data that the run was started with, or from `task.annotation_file`; a
        class that has a name in neither is called by its number.
        """
        names = self.folder.read_class_names()
        if not names and self.params.task.annotation_file:
            names = read_category_names(self.params.task.annotation_file)
        ids = range(1, self.params.task.model.num_classes)
        return {category: names.get(category, str(category)) for category in ids}


def _has_averages(checkpoint: str) -> bool:
    """Returns whether averages of the weights are saved; a training may get them as it goes on."""
    return any(_AVERAGE in name for name, _ in tf.train.list_variables(checkpoint))


@contextlib.contextmanager
def explaining_weights(folder: RunFolder, checkpoint: str) -> Iterator[None]:
    """Turns what goes wrong while a run's weights are loaded into one clear error.

    Args:
      folder: of the run.
      checkpoint: the path prefix that the block reads.

    Raises:
      UsageError: if the checkpoint is damaged or belongs to another detector.
    """
    try:
        with checkpoint_files.reading(checkpoint):
            yield
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    except AssertionError as error:
        raise UsageError(
            f"{checkpoint} does not fit the detector in {folder.file(PARAMS)} "
            f"({first_line(error)}); name a checkpoint of this run"
        ) from error


def read(model_dir: str, checkpoint: str | None = None) -> TrainedRun:
    """Reads a trained run from its folder.

    Args:
      model_dir: folder of the run.
      checkpoint: see `RunFolder.find_checkpoint`.

    Raises:
      UsageError: if the folder does not belong to a run, or there is no such checkpoint.
    """
    folder = RunFolder(model_dir)
    return TrainedRun(folder, read_params(folder), folder.find_checkpoint(checkpoint))


def read_params(folder: RunFolder) -> cfg.ExperimentConfig:
    """Reads the config that a run was trained with.

    Args:
      folder: of the run; it need not hold a checkpoint.

    Raises:
      UsageError: if the folder does not belong to a run.
    """
    saved = folder.read_params()
    if saved is None:
        raise UsageError(
            f"{folder} holds no {PARAMS}; name the folder of a run, the --model_dir of its training"
        )
    task_class = _task_class(folder)
    with folder.explaining(PARAMS):
        return _experiment_config(saved, task_class)


def read_category_names(annotation_file: str) -> dict[int, str]:
    """Returns the category names of a COCO annotation file by id; none without a file.

    Raises:
      DatasetError: if the file is not COCO.
    """
    if not tf.io.gfile.exists(annotation_file):
        return {}
    return annotations.read_category_names(annotation_file, tf.io.gfile.GFile)


def _task_class(folder: RunFolder) -> type[cfg.TaskConfig]:
    name = folder.read_experiment()
    try:
        return type(exp_factory.get_exp_config(name).task)
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"{folder.file(EXPERIMENT)} names {name!r}, but there is no such experiment; write the "
            "name of the experiment that the run was trained with"
        ) from error


def _experiment_config(
    saved: dict[str, Any], task_class: type[cfg.TaskConfig]
) -> cfg.ExperimentConfig:
    task, trainer = saved["task"], saved["trainer"]
    trainer["optimizer_config"] = optimization.OptimizationConfig(trainer["optimizer_config"])
    return cfg.ExperimentConfig(
        task=task_class(task),
        trainer=cfg.TrainerConfig(**trainer),
        runtime=cfg.RuntimeConfig(**saved["runtime"]),
    )
