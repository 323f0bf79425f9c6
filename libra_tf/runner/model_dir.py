"""Refuses a model folder that another experiment has used."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling import hyperparams

from libra_tf.runner.errors import UsageError


def check(model_dir: str, mode: str, params: cfg.ExperimentConfig) -> None:
    """Checks that the checkpoints in a model folder, if any, belong to this experiment.

    Model Garden writes the config of a run to `params.yaml` beside its checkpoints. The model and
    the training data must be those of the run; all else may change when a run is continued.

    Args:
      model_dir: folder of the run.
      mode: one of `libra_tf.runner.flags.MODES`.
      params: config of the run that is about to start.

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
    saved = _read_params(os.path.join(model_dir, "params.yaml"))
    if saved is None:
        return
    wanted = params.as_dict()
    differences = list(_differences(saved["task"]["model"], wanted["task"]["model"], "task.model"))
    if "train" in mode:
        paths = [config["task"]["train_data"]["input_path"] for config in (saved, wanted)]
        differences += _differences(*paths, "task.train_data.input_path")
    if differences:
        raise UsageError(
            f"--model_dir={model_dir} holds checkpoints of another experiment: "
            f"{'; '.join(differences[:3])}. Choose another --model_dir, or delete this one"
        )


def _read_params(path: str) -> dict[str, Any] | None:
    if not tf.io.gfile.exists(path):
        return None
    return hyperparams.read_yaml_to_params_dict(path).as_dict()


def _differences(saved: Any, wanted: Any, path: str) -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*saved, *wanted}):
            yield from _differences(saved.get(key), wanted.get(key), f"{path}.{key}")
    elif _as_lists(saved) != _as_lists(wanted):
        yield f"{path} was {saved!r} and would be {wanted!r}"


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
