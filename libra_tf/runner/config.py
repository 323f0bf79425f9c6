"""Builds an experiment's config from flags, with errors that name the key and the nearest one."""

import copy
import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import yaml
from absl import flags
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from official.modeling.hyperparams import params_dict

from libra_tf.configs import optimization
from libra_tf.configs.recipes import COCO_TRAIN_EXAMPLES
from libra_tf.data import DetectionDataset
from libra_tf.runner import schedule
from libra_tf.runner.errors import UsageError
from libra_tf.runner.flags import unknown_experiment


def build(
    experiment: str, flag_values: flags.FlagValues, dataset: DetectionDataset | None
) -> cfg.ExperimentConfig:
    """Returns the config: the experiment's, then the data set's, the files' and the override's.

    Args:
      experiment: a registered experiment.
      flag_values: parsed flags; `config_file`, `params_override`, `tpu`, `tf_data_service`.
      dataset: the folder to train on, or None to keep the experiment's own data.

    Raises:
      UsageError: on an unknown experiment or key, a value of the wrong type, or a file that is
        not YAML.
    """
    params = _experiment(experiment)
    # Several processes would save and go on; `guards.StopOnTermination` saves and ends the run.
    params.trainer.preemption_on_demand_checkpoint = False
    if flag_values.tpu:
        _use_compilable_suppression(params.task.model)
    overrides = list(_overrides(flag_values))
    # Its schedule is known when its data set is.
    is_scaled_later = dataset is None and flag_values.dataset and _is_made_for_coco(params)
    if dataset is not None:
        overridden = copy.deepcopy(params)
        _override(overridden, overrides)
        use_dataset(params, dataset, overridden.task)
    _override(params, overrides)
    if dataset is not None and getattr(params.task.model, "include_mask", False):
        raise UsageError(
            f"{experiment} with --dataset={dataset.folder}: a folder is converted without masks. "
            "Set task.model.include_mask=false, or give TFRecords with masks as "
            "task.train_data.input_path and task.validation_data.input_path"
        )
    params.override({"runtime": {"tpu": flag_values.tpu}})
    if flag_values.tpu:
        params.runtime.distribution_strategy = "tpu"
    if flag_values.tf_data_service:
        for data in (params.task.train_data, params.task.validation_data):
            data.tf_data_service_address = flag_values.tf_data_service
    try:
        if not is_scaled_later:
            schedule.settle(params.trainer, {name for _, o in overrides for name in _names(o)})
        params.task.validate()
        params.validate()
        optimization.check_optimizer(
            params.trainer.optimizer_config.optimizer, "trainer.optimizer_config.optimizer"
        )
    except (KeyError, ValueError) as error:
        raise UsageError(f"the config of {experiment} cannot be used: {error}") from error
    return params


def _experiment(name: str) -> cfg.ExperimentConfig:
    try:
        return exp_factory.get_exp_config(name)
    except LookupError as error:
        known = tuple(exp_factory._REGISTERED_CONFIGS)
        raise unknown_experiment(name, known) from error


def _use_compilable_suppression(model: hyperparams.Config) -> None:
    """Chooses Model Garden's own suppression: TensorFlow's batched one has no TPU kernel."""
    model.detection_generator.nms_version = "v2"
    if "roi_generator" in model:
        model.roi_generator.use_batched_nms = False


def _overrides(flag_values: flags.FlagValues) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in flag_values.config_file or ():
        yield f"--config_file={path}", _read(f"--config_file={path}", path)
    text = flag_values.params_override
    if text:
        yield "--params_override", _read(f"--params_override={text}", text)


def _read(source: str, text_or_path: str) -> dict[str, Any]:
    """Reads a YAML or JSON file, or Model Garden's `a.b=1,c=2` notation."""
    try:
        empty = params_dict.ParamsDict()
        overrides = params_dict.override_params_dict(empty, text_or_path, is_strict=False)
        return overrides.as_dict()
    except (yaml.YAMLError, ValueError, TypeError, tf.errors.OpError) as error:
        raise UsageError(
            f"{source} could not be read: {error}. Write a YAML file, a YAML text, or "
            "key.subkey=value,key.subkey=value."
        ) from error


def _names(overrides: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _override(
    params: cfg.ExperimentConfig, overrides: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    for source, values in overrides:
        checked = _checked_overrides(source, values, params)
        try:
            params.override(checked, is_strict=True)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{source}: {error}") from error


def _checked_overrides(
    source: str, overrides: Mapping[str, Any], params: hyperparams.Config, path: str = ""
) -> dict[str, Any]:
    """Returns the overrides with values of the keys' types, or raises a UsageError."""
    checked = {}
    for key, value in overrides.items():
        name = f"{path}{key}"
        if key not in params:
            raise UsageError(f"{source}: there is no config key {name}.{_hint(key, params, path)}")
        current = getattr(params, key)
        if key == "type" and isinstance(params, hyperparams.OneOfConfig):
            _check_kind(source, name, value, params)
        if isinstance(value, Mapping) and isinstance(current, hyperparams.Config):
            checked[key] = _checked_overrides(source, value, current, f"{name}.")
        else:
            checked[key] = _checked_value(source, name, value, current)
    return checked


def _check_kind(source: str, name: str, value: Any, params: hyperparams.OneOfConfig) -> None:
    kinds = [field.name for field in dataclasses.fields(params) if field.name != "type"]
    if value is not None and value not in kinds:
        raise UsageError(f"{source}: {name} is {value!r}; it must be one of {', '.join(kinds)}")


def _checked_value(source: str, name: str, value: Any, current: Any) -> Any:
    if not isinstance(current, (int, float)):
        return value
    if isinstance(value, str):
        value = _as_number(value)
    if isinstance(current, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    # Model Garden declares this weight as an int and computes with any number.
    is_whole = isinstance(current, int) and not name.endswith("_weight")
    if isinstance(value, (str, Mapping, list)) or (is_whole and isinstance(value, float)):
        expected = {bool: "true or false", int: "an int", float: "a number"}[type(current)]
        raise UsageError(
            f"{source}: {name} is {value!r}, but {expected} is expected, such as {current!r}"
        )
    return value


def _as_number(text: str) -> Any:
    """YAML reads 1e-4 as a text, unlike 1.0e-4."""
    try:
        return float(text)
    except ValueError:
        return text


def _hint(key: str, params: hyperparams.Config, path: str) -> str:
    siblings = list(params.as_dict())
    nearest = difflib.get_close_matches(key, siblings, n=1)
    if nearest:
        return f" Did you mean {path}{nearest[0]}?"
    return f" Keys there: {', '.join(siblings)}."


def use_dataset(
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset,
    overridden: cfg.TaskConfig | None = None,
) -> None:
    """Sets on `params` everything that follows from the data set.

    An experiment made for another data set keeps its number of epochs: its steps and the
    boundaries of its learning rate are scaled. One without data of its own keeps its steps.

    Args:
      params: the experiment, changed in place.
      dataset: the data set.
      overridden: the task as it will be; the numbers of steps go by its batch sizes. None for the
        experiment's own.
    """
    task, trainer = params.task, params.trainer
    wanted = overridden or task
    num_train, own_batch_size = dataset.train.num_examples, task.train_data.global_batch_size
    if _is_made_for_coco(params):
        batch_size = max(1, min(wanted.train_data.global_batch_size, num_train))
        _keep_epochs(trainer, COCO_TRAIN_EXAMPLES // own_batch_size, num_train // batch_size)
    eval_batch_size = max(1, wanted.validation_data.global_batch_size)
    trainer.validation_steps = math.ceil(dataset.val.num_examples / eval_batch_size)
    # A batch larger than the data set would never be filled.
    task.train_data.global_batch_size = min(own_batch_size, num_train)
    task.model.num_classes = dataset.num_classes
    task.train_data.input_path = dataset.train.input_path
    task.validation_data.input_path = dataset.val.input_path
    task.validation_data.drop_remainder = False
    task.annotation_file = dataset.val.annotation_file
    task.per_category_metrics = True
    if "num_examples" in task.validation_data:
        task.train_data.num_examples = num_train
        task.validation_data.num_examples = dataset.val.num_examples
    for data, split in (
        (task.train_data, dataset.train),
        (task.validation_data, dataset.val),
    ):
        data.parser.max_num_instances = max(
            data.parser.max_num_instances, split.max_boxes_per_image
        )


def _is_made_for_coco(params: cfg.ExperimentConfig) -> bool:
    return bool(params.task.train_data.input_path)


def _keep_epochs(trainer: cfg.TrainerConfig, steps_per_epoch: int, wanted: int) -> None:
    schedule.scale(trainer, wanted / steps_per_epoch)
    trainer.validation_interval = wanted
    trainer.checkpoint_interval = wanted
    trainer.steps_per_loop = min(trainer.steps_per_loop, wanted)
    trainer.summary_interval = trainer.steps_per_loop
