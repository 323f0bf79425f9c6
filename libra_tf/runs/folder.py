"""The folder of a run, local or remote (`gs://...`): what it holds, read, written and checked."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.modeling import hyperparams

from libra_tf import atomic
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.runs import differences

PARAMS = "params.yaml"
EXPERIMENT = "experiment.txt"
DATASET = "dataset.txt"
_VAL_SHARE = "val_share="
CLASS_NAMES = "class_names.json"
RESULTS = "results.json"
PICTURES = "detections.png"
# Where COCO experiments keep the checkpoint with the best result.
BEST = "best"
# Groups and keys that the config of every run has; a truncated file lacks the last ones.
_NEEDED_PARAMS = (("task", "model"), ("task", "train_data"), ("trainer", "optimizer_config"))
_WRITTEN_BY_TRAINING = "delete it: the command that trains this run writes it again"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
      path: where it is. The folder need not exist yet.
    """

    path: str

    def __str__(self) -> str:
        return self.path

    def file(self, name: str) -> str:
        """Returns the path of a file in the folder."""
        return os.path.join(self.path, name)

    def log(self, task_index: int | None = None) -> str:
        """Returns the path of the log.

        Args:
          task_index: of a worker other than the chief, which has a log of its own; None otherwise.
        """
        return self.file("log.txt" if task_index is None else f"log-worker{task_index}.txt")

    # Checkpoints

    def latest_checkpoint(self) -> str | None:
        """Returns the path prefix of the newest checkpoint; None without a checkpoint."""
        return tf.train.latest_checkpoint(self.path)

    def checkpoint_of_step(self, step: int) -> str:
        """Returns the path prefix that the checkpoint of a training step has or had."""
        return self.file(f"ckpt-{step}")

    def latest_step(self) -> int:
        """Returns the training step of the newest checkpoint; 0 without one."""
        newest = self.latest_checkpoint()
        return checkpoint_files.step(newest) if newest else 0

    def find_checkpoint(self, name: str | None = None) -> str:
        """Returns the path prefix of a checkpoint.

        Args:
          name: a checkpoint of the run, such as `ckpt-9000`, or its path; `best` for the one with
            the best result, if the run keeps it; None for the newest.

        Raises:
          UsageError: if there is no such checkpoint.
        """
        path = self.path
        if name:
            path = name if os.path.dirname(name) else self.file(name)
        if name == BEST and not tf.io.gfile.isdir(path):
            raise UsageError(
                f"--checkpoint={BEST}: {self} has no folder {BEST}; leave out the flag for "
                "the newest checkpoint. Only a training that evaluates keeps its best one: "
                "--mode=train_and_eval"
            )
        try:
            return checkpoint_files.find(path)
        except CheckpointError as error:
            # Commands name the folder with different flags.
            flag = f"--checkpoint={name}: " if name else ""
            raise UsageError(f"{flag}{error}") from error

    def copy_newest_checkpoint(self, target: "RunFolder") -> None:
        """Copies the newest checkpoint, if there is one, to the folder of another process."""
        newest = self.latest_checkpoint()
        if newest:
            for file in tf.io.gfile.glob(f"{newest}.*"):
                tf.io.gfile.copy(file, target.file(os.path.basename(file)))
            copied = target.file(os.path.basename(newest))
            tf.compat.v1.train.update_checkpoint_state(target.path, copied)

    def set_damaged_checkpoints_aside(self, report: Callable[[str], None]) -> None:
        """Moves the newest checkpoints to `damaged/` until one of them can be read.

        Args:
          report: receives a line for each checkpoint that is moved.

        Raises:
          UsageError: if the storage does not let a checkpoint be read.
        """
        state = tf.train.get_checkpoint_state(self.path)
        paths = list(state.all_model_checkpoint_paths) if state else []
        while paths and (damage := _damage(paths[-1])):
            path, aside = paths.pop(), self.file("damaged")
            tf.io.gfile.makedirs(aside)
            for file in tf.io.gfile.glob(f"{path}.*"):
                moved = os.path.join(aside, os.path.basename(file))
                tf.io.gfile.rename(file, moved, overwrite=True)
            self._list_checkpoints(paths)
            report(
                f"checkpoint {path} is damaged ({damage}); it was moved to {aside}, and "
                f"{paths[-1] if paths else 'none'} takes its place"
            )

    def _list_checkpoints(self, paths: list[str]) -> None:
        if paths:
            tf.compat.v1.train.update_checkpoint_state(self.path, paths[-1], paths)
        else:
            tf.io.gfile.remove(self.file("checkpoint"))

    # Config and classes

    def write_config(
        self,
        experiment: str,
        params: cfg.ExperimentConfig,
        class_names: Mapping[int, str],
        dataset: str | None = None,
        val_share: float | None = None,
    ) -> None:
        """Writes what a run is, creating the folder: experiment, config, classes and data set.

        Args:
          experiment: the name of the experiment.
          params: its config.
          class_names: by category id.
          dataset: what it trains on: a folder of images, or the pattern of files in its config;
            None for an imported detector.
          val_share: the part of the images that the user has set aside for validation; None for
            the default.
        """
        tf.io.gfile.makedirs(self.path)
        with atomic.unfinished_file(self.file(PARAMS)) as path:
            hyperparams.save_params_dict_to_yaml(params, path)
        atomic.write_file(self.file(EXPERIMENT), f"{experiment}\n")
        atomic.write_file(self.file(CLASS_NAMES), json.dumps(class_names, indent=2) + "\n")
        if dataset is not None:
            share = "" if val_share is None else f"{_VAL_SHARE}{val_share!r}\n"
            atomic.write_file(self.file(DATASET), f"{dataset}\n{share}")

    def read_params(self) -> dict[str, Any] | None:
        """Reads the config of the run.

        Returns:
          Its nested keys and values; None without such a file.

        Raises:
          UsageError: if the file is not the whole config of a run.
        """
        if not tf.io.gfile.exists(self.file(PARAMS)):
            return None
        with self.explaining(PARAMS):
            saved = hyperparams.read_yaml_to_params_dict(self.file(PARAMS)).as_dict()
            for group, key in _NEEDED_PARAMS:
                saved[group][key]
            return saved

    def read_experiment(self) -> str:
        """Returns the name of the run's experiment.

        Raises:
          UsageError: if the folder does not say, as after a training by an earlier version that
            was never evaluated.
        """
        if tf.io.gfile.exists(self.file(EXPERIMENT)):
            return self._read(EXPERIMENT).strip()
        results = self.read_results()
        if results and "experiment" in results:
            return results["experiment"]
        raise UsageError(
            f"{self} has no {EXPERIMENT}, so its experiment is unknown; rerun the command that "
            f"trained it, or write the experiment's name to {self.file(EXPERIMENT)}"
        )

    def is_known(self) -> bool:
        """Returns whether the folder says what was trained: experiment and config.

        Raises:
          UsageError: if the folder was written by an earlier version and `results.json` is damaged.
        """
        if not tf.io.gfile.exists(self.file(PARAMS)):
            return False
        # As in `read_experiment`.
        is_named = tf.io.gfile.exists(self.file(EXPERIMENT))
        return is_named or "experiment" in (self.read_results() or {})

    def read_dataset(self) -> str | None:
        """Returns what the run was trained on: a folder of images, or a pattern of files.

        Returns:
          The path or pattern; None if nothing says it.

        Raises:
          UsageError: if the folder was written by an earlier version and `results.json` is damaged.
        """
        if tf.io.gfile.exists(self.file(DATASET)):
            return self._read(DATASET).partition("\n")[0]
        # Earlier versions said it only with an evaluation.
        return (self.read_results() or {}).get("dataset")

    def read_val_share(self) -> float | None:
        """Returns the part of the images that was set aside for validation; None for the default.

        Raises:
          UsageError: if the file is damaged.
        """
        if not tf.io.gfile.exists(self.file(DATASET)):
            return None
        with self.explaining(DATASET):
            share = self._read(DATASET).partition("\n")[2].strip()
            return float(share.removeprefix(_VAL_SHARE)) if share else None

    def evaluated_share(self, dataset: str) -> float | None:
        """Returns which part of a folder with one split only the run is evaluated on.

        Args:
          dataset: the folder of images.

        Returns:
          What was set aside when the run trained on the folder, as `prepare_coco_folder` takes it;
          1 for any other folder: all images.
        """
        return self.read_val_share() if self.is_own(dataset) else 1

    def is_own(self, dataset: str) -> bool:
        """Returns whether the run was trained on a folder of images.

        Args:
          dataset: the folder of images.
        """
        trained_on = self.read_dataset()
        return bool(
            trained_on
            and os.path.isdir(trained_on)
            and os.path.isdir(dataset)
            and os.path.samefile(trained_on, dataset)
        )

    def read_class_names(self) -> dict[int, str]:
        """Returns the names of the classes by category id; none if the run has no such file.

        Raises:
          UsageError: if the file is damaged.
        """
        if not tf.io.gfile.exists(self.file(CLASS_NAMES)):
            return {}
        with self.explaining(CLASS_NAMES):
            return {int(id_): name for id_, name in json.loads(self._read(CLASS_NAMES)).items()}

    # Results

    def read_results(self) -> dict[str, Any] | None:
        """Returns the content of `results.json`; None without such a file.

        Raises:
          UsageError: if the file is damaged.
        """
        if not tf.io.gfile.exists(self.file(RESULTS)):
            return None
        with self.explaining(
            RESULTS, "move it aside; you lose only the record of earlier evaluations"
        ):
            results = json.loads(self._read(RESULTS))
            list(results["evaluations"])
            return results

    # Checks

    def check_continues(
        self, mode: str, params: cfg.ExperimentConfig, dataset: str
    ) -> dict[str, Any]:
        """Checks that the checkpoints in the folder, if any, belong to an experiment.

        A training that continues must have the model and the training data of the run, up to the
        implementation of the suppression, and an evaluation the model, up to what chooses among
        its boxes. Everything else may change.

        Args:
          mode: one of `libra_tf.runner.flags.MODES`.
          params: config of the run that is about to start.
          dataset: what the user calls its data set, for the message.

        Returns:
          What changes of these exceptions, by the keys, such as
          `{"task.model.detection_generator.nms_iou_threshold": 0.6}`.

        Raises:
          UsageError: if the checkpoints belong to another experiment, or there are none to
            evaluate.
        """
        if self.latest_checkpoint() is None:
            if mode == "eval":
                raise UsageError(
                    f"--model_dir={self} holds no checkpoint to evaluate; train first "
                    "(--mode=train_and_eval) or name the folder of a trained model"
                )
            return {}
        saved = self.read_params()
        if saved is None:
            return {}
        wanted = params.as_dict()
        model = wanted["task"]["model"]
        defaults = type(params.task.model)().as_dict()
        own_model = differences.completed(saved["task"]["model"], model, defaults)
        free = differences.SUPPRESSION if "train" in mode else differences.DETECTIONS
        own, settings = (differences.take_out(each, free) for each in (own_model, model))
        found = list(differences.between(own_model, model, "task.model"))
        if "train" in mode:
            found += differences.of_images(saved, wanted, dataset)
        if found:
            raise UsageError(
                f"--model_dir={self} holds checkpoints of another experiment: "
                f"{'; '.join(found[:3])}. Choose another --model_dir, or delete this one"
            )
        return {key: value for key, value in settings.items() if value != own.get(key)}

    def check_classes(self, class_names: Mapping[int, str], dataset: str) -> None:
        """Checks that a category id means the same in the run and in data that it continues with.

        A folder without checkpoints, or without names beside them, fits all data.

        Args:
          class_names: the names in the data by category id, as far as they are known.
          dataset: what the user calls the data set, for the message.

        Raises:
          UsageError: if an id has another name; it names the first.
        """
        if self.latest_checkpoint() is None:
            return
        for category, name in sorted(self.read_class_names().items()):
            other = class_names.get(category, name)
            if not differences.is_same_class(category, name, other):
                raise UsageError(
                    f"--model_dir={self} holds a detector whose class {category} is {name!r}, and "
                    f"in {dataset} it is {other!r}. Name a data set with the classes of "
                    f"{self.file(CLASS_NAMES)}, or another --model_dir; delete that file if both "
                    "mean the same"
                )

    @contextlib.contextmanager
    def explaining(self, name: str, remedy: str = _WRITTEN_BY_TRAINING) -> Iterator[None]:
        """Turns what goes wrong with the content of a file into one clear error.

        Args:
          name: of the file that the block reads.
          remedy: what to do about a damaged file.

        Raises:
          UsageError: it names the file.
        """
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
            if isinstance(error, UsageError):
                raise
            what = first_line(f"{type(error).__name__}: {error}")
            raise UsageError(
                f"{self.file(name)} is damaged, or does not belong to a run ({what}); {remedy}"
            ) from error

    def _read(self, name: str) -> str:
        with tf.io.gfile.GFile(self.file(name)) as file:
            return file.read()


def _damage(checkpoint: str) -> str:
    try:
        return checkpoint_files.damage(checkpoint)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
