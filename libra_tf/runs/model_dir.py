"""Refuses a model folder that another experiment has used, or another set of classes."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError
from libra_tf.runs import run_files, trained_run

# As `libra_tf.data.cache` names what it keeps.
_IN_CACHE = re.compile(r".*/entries/([0-9a-f]{32}/[^/]*)")


def check(model_dir: str, mode: str, params: cfg.ExperimentConfig, dataset: str) -> None:
    """Checks that the checkpoints in a model folder, if any, belong to this experiment.

    Model Garden writes the config of a run to `params.yaml` beside its checkpoints. The model and
    the training data must be those of the run; all else may change when a run is continued.

    Args:
      model_dir: folder of the run.
      mode: one of `libra_tf.runner.flags.MODES`.
      params: config of the run that is about to start.
      dataset: what the user calls its data set, for the message.

    Raises:
      UsageError: if the checkpoints are of another experiment, or if there are none to evaluate.
    """
    checkpoint = tf.train.latest_checkpoint(model_dir)
    if checkpoint is None:
        if mode == "eval":
            raise UsageError(
                f"--model_dir={model_dir} holds no checkpoint to evaluate; train first "
                "(--mode=train_and_eval) or name the folder of a trained model"
            )
        return
    saved = run_files.read_params(model_dir)
    if saved is None:
        return
    wanted = params.as_dict()
    differences = list(_differences(saved["task"]["model"], wanted["task"]["model"], "task.model"))
    if "train" in mode:
        paths = [config["task"]["train_data"].get("input_path") for config in (saved, wanted)]
        if _contents(paths[0]) != _contents(paths[1]):
            difference = _difference(*paths, "task.train_data.input_path")
            differences.append(f"{difference}, the training images of {dataset}")
    if differences:
        raise UsageError(
            f"--model_dir={model_dir} holds checkpoints of another experiment: "
            f"{'; '.join(differences[:3])}. Choose another --model_dir, or delete this one"
        )


def check_classes(model_dir: str, class_names: Mapping[int, str], dataset: str) -> None:
    """Checks that a category id means the same in a run and in the data it is to go on with.

    Args:
      model_dir: folder of the run; one without checkpoints, or names kept with them, fits all data.
      class_names: the names in the data by category id, as far as they are known.
      dataset: what the user calls the data set, for the message.

    Raises:
      UsageError: if an id has another name; it names the first.
    """
    if tf.train.latest_checkpoint(model_dir) is None:
        return
    for category, name in sorted(trained_run.read_own_class_names(model_dir).items()):
        other = class_names.get(category, name)
        # A detector imported without names calls its classes by their numbers.
        if name != str(category) and _spelling(name) != _spelling(other):
            raise UsageError(
                f"--model_dir={model_dir} holds a detector whose class {category} is {name!r}, and "
                f"in {dataset} it is {other!r}. Name a data set with the classes of "
                f"{os.path.join(model_dir, trained_run.CLASS_NAMES)}, or another --model_dir; "
                "delete that file if both mean the same"
            )


def _spelling(name: str) -> str:
    """MMDetection has called one class of COCO traffic_light, and traffic light."""
    return name.casefold().replace("_", " ").replace("-", " ")


def _contents(input_path: Any) -> Any:
    """What tells images from others: a data set in a cache is named by its content."""
    if isinstance(input_path, (list, tuple)):
        return [_contents(path) for path in input_path]
    match = _IN_CACHE.fullmatch(input_path) if isinstance(input_path, str) else None
    return match.group(1) if match else input_path


def _differences(saved: Any, wanted: Any, path: str) -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*saved, *wanted}):
            yield from _differences(saved.get(key), wanted.get(key), f"{path}.{key}")
    elif _as_lists(saved) != _as_lists(wanted):
        yield _difference(saved, wanted, path)


def _difference(saved: Any, wanted: Any, path: str) -> str:
    return f"{path} was {saved!r} and would be {wanted!r}"


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
