"""The folder of a run, read back: its task, its detector with trained weights, its classes."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf
from official.core import base_task, task_factory
from official.core import config_definitions as cfg

import libra_tf.registry_imports  # noqa: F401, registers the tasks
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.configs import fastrcnn, maskrcnn, optimization, retinanet
from libra_tf.data import annotations
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.modeling import optimizers
from libra_tf.runs import run_files

CLASS_NAMES = "class_names.json"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run with something to show for it.

    Attributes:
      model_dir: its folder.
      params: the config that it ran with.
      checkpoint: the common start of the checkpoint's files.
    """

    model_dir: str
    params: cfg.ExperimentConfig
    checkpoint: str

    def build_task(self) -> base_task.Task:
        """Builds the task of the run."""
        return task_factory.get_task(self.params.task)

    def load_model(self) -> keras.Model:
        """Builds the detector and gives it the weights that an evaluation of the run uses.

        Raises:
          UsageError: if the checkpoint is damaged or belongs to another detector.
        """
        task = self.build_task()
        model = task.build_model()
        items = {"model": model}
        optimizer = task.create_optimizer(self.params.trainer.optimizer_config)
        if optimizers.has_averages(optimizer):
            optimizers.create_weights(optimizer, model.trainable_variables)
            items["optimizer"] = optimizer
        try:
            with checkpoint_files.reading(self.checkpoint):
                status = tf.train.Checkpoint(**items).read(self.checkpoint)
                status.expect_partial().assert_existing_objects_matched()
        except CheckpointError as error:
            raise UsageError(str(error)) from error
        except AssertionError as error:
            raise UsageError(
                f"{self.checkpoint} is not of the detector in {self.model_dir}/{run_files.PARAMS} "
                f"({str(error).splitlines()[0]}); name a checkpoint of this run"
            ) from error
        if "optimizer" in items:
            optimizers.swap_averages(optimizer, model.trainable_variables)
        return model

    def read_class_names(self) -> dict[int, str]:
        """Returns the names of the classes by category id, of all ids that the detector can give.

        They are those of the data that the run was started with, or of `task.annotation_file`; a
        class of which neither has a name is called by its number.
        """
        names = read_own_class_names(self.model_dir)
        if not names and self.params.task.annotation_file:
            names = read_category_names(self.params.task.annotation_file)
        ids = range(1, self.params.task.model.num_classes)
        return {category: names.get(category, str(category)) for category in ids}


def read(model_dir: str, checkpoint: str | None = None) -> TrainedRun:
    """Finds out what a run was.

    Args:
      model_dir: folder of a run of `run.py`.
      checkpoint: a checkpoint of the run, such as `ckpt-9000` or its path; None for the newest.

    Raises:
      UsageError: if the folder is not that of a run, or there is no such checkpoint.
    """
    saved = run_files.read_params(model_dir)
    if saved is None:
        raise UsageError(
            f"--model_dir={model_dir} holds no {run_files.PARAMS}; name the folder of a run of "
            "run.py"
        )
    with run_files.explained_params(model_dir):
        params = _experiment_config(saved)
    return TrainedRun(model_dir, params, _find_checkpoint(model_dir, checkpoint))


def write_class_names(model_dir: str, names: dict[int, str]) -> None:
    """Keeps the names of the classes, by category id, with the run."""
    with (
        run_files.written_whole(os.path.join(model_dir, CLASS_NAMES)) as path,
        tf.io.gfile.GFile(path, "w") as file,
    ):
        file.write(json.dumps(names, indent=2) + "\n")


def read_own_class_names(model_dir: str) -> dict[int, str]:
    """Returns the names that are kept with a run, by category id; none if it has none.

    Raises:
      UsageError: if the file that holds them is damaged.
    """
    path = os.path.join(model_dir, CLASS_NAMES)
    if not tf.io.gfile.exists(path):
        return {}
    remedy = "delete it: the command that trains this run writes it anew"
    with run_files.explained(path, remedy), tf.io.gfile.GFile(path) as file:
        return {int(category): name for category, name in json.load(file).items()}


def read_category_names(annotation_file: str) -> dict[int, str]:
    """Returns the names of the categories of a COCO annotation file by id, none without a file.

    Raises:
      DatasetError: if it is not COCO.
    """
    if not tf.io.gfile.exists(annotation_file):
        return {}
    return annotations.read_category_names(annotation_file, tf.io.gfile.GFile)


def _experiment_config(saved: dict[str, Any]) -> cfg.ExperimentConfig:
    task, trainer = saved["task"], saved["trainer"]
    trainer["optimizer_config"] = optimization.OptimizationConfig(trainer["optimizer_config"])
    return cfg.ExperimentConfig(task=_task_class(task)(task), trainer=cfg.TrainerConfig(**trainer))


def _task_class(task: dict[str, Any]) -> type[cfg.TaskConfig]:
    """The config says by its keys what it is of; it has no name."""
    if "proposals" in task["train_data"]:
        return fastrcnn.LibraFastRCNNTask
    if "rpn_head" in task["model"]:
        return maskrcnn.LibraMaskRCNNTask
    if "head" in task["model"]:
        return retinanet.LibraRetinaNetTask
    raise ValueError("the config is not that of a detector")


def _find_checkpoint(model_dir: str, name: str | None) -> str:
    path = model_dir
    if name:
        path = name if os.path.dirname(name) else os.path.join(model_dir, name)
    try:
        return checkpoint_files.find(path)
    except CheckpointError as error:
        flag = f"--checkpoint={name}" if name else f"--model_dir={model_dir}"
        raise UsageError(f"{flag}: {error}") from error
