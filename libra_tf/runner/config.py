"""Builds the config of a run from flags and a data set. Errors name the key."""

import copy
import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

from absl import flags
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams

from libra_tf import precision
from libra_tf.cli.errors import UsageError
from libra_tf.configs import checks, optimization, ranges
from libra_tf.configs.backbones import DEPTHWISE_BACKBONES
from libra_tf.configs.recipes import COCO_TRAIN_EXAMPLES
from libra_tf.data import DetectionDataset
from libra_tf.runner import overrides, schedule
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder

# What the network computes in; weights are always float32. None is float32, too.
DTYPE = "runtime.mixed_precision_dtype"
DTYPES = (None, precision.AUTO, precision.FLOAT32, precision.FLOAT16, precision.BFLOAT16)
# Optimizers of TensorFlow Addons that keep averages of the weights.
_AVERAGES = ("moving_average", "swa")


@dataclasses.dataclass(frozen=True)
class Draft:
    """The config of a run before its data set is known.

    Attributes:
      experiment: name of the experiment.
      own: config of the experiment, or of the run to evaluate, without the user's changes.
      params: the same with the user's changes.
      named: keys that keep their values whatever the data set, such as `trainer.train_steps`: those
        that the user has set.
    """

    experiment: str
    own: cfg.ExperimentConfig
    params: cfg.ExperimentConfig
    named: frozenset[str]


def build(experiment: str, flag_values: flags.FlagValues) -> Draft:
    """Applies config files and overrides to the config of an experiment, and checks the result.

    Args:
      experiment: one of `libra_tf.configs.names.EXPERIMENTS`.
      flag_values: parsed flags; this uses `config_file`, `params_override`, `mode`, `dataset`,
        `seed`, `tpu` and `tf_data_service`.

    Returns:
      The draft of the config.

    Raises:
      UsageError: if there is an unknown key, an invalid value, or a file that is not YAML.
    """
    return _changed(experiment, exp_factory.get_exp_config(experiment), flag_values)


def build_from_run(folder: RunFolder, flag_values: flags.FlagValues) -> Draft:
    """Applies config files and overrides to the config of a run that is to be evaluated.

    Args:
      folder: of the run.
      flag_values: see `build`.

    Returns:
      The draft of the config. Its training and its number of classes stay those of the run on any
      data set.

    Raises:
      UsageError: if the folder is not that of a run, or as in `build`.
    """
    experiment = folder.read_experiment()
    own = trained_run.read_params(folder)
    # The run may have trained on other devices, or on several machines.
    runtime = exp_factory.get_exp_config(experiment).runtime
    runtime.mixed_precision_dtype = own.runtime.mixed_precision_dtype
    own.runtime = runtime
    draft = _changed(experiment, own, flag_values)
    values = own.as_dict()
    fixed = {
        "task": {
            "train_data": values["task"]["train_data"],
            # The data set may lack some of the classes.
            "model": {"num_classes": values["task"]["model"]["num_classes"]},
        },
        "trainer": values["trainer"],
    }
    del fixed["trainer"]["validation_steps"]
    return dataclasses.replace(draft, named=draft.named | overrides.names([("", fixed)]))


def _changed(experiment: str, own: cfg.ExperimentConfig, flag_values: flags.FlagValues) -> Draft:
    params = copy.deepcopy(own)
    # With several processes, Orbit would save and then continue training.
    # `guards.StopWhenTold` saves and stops.
    params.trainer.preemption_on_demand_checkpoint = False
    if flag_values.tpu:
        _use_compilable_suppression(params.task.model)
    changes = list(overrides.read(flag_values))
    overrides.apply(params, changes)
    _check_supported(params)
    _check_detects(params.task.model, flag_values.mode)
    _check_batch_sizes(params.task)
    _check_repeatable(params.task.train_data, flag_values.seed)
    if "train" in flag_values.mode:
        _check_optimization(experiment, params)
    params.override({"runtime": {"tpu": flag_values.tpu}})
    if flag_values.tpu:
        params.runtime.distribution_strategy = "tpu"
        if params.task.model.compatibility:
            raise UsageError(
                "--tpu needs images of one shape, but with task.model.compatibility="
                f"{params.task.model.compatibility} they have two; leave out one of them"
            )
    if flag_values.tf_data_service:
        for data in (params.task.train_data, params.task.validation_data):
            data.tf_data_service_address = flag_values.tf_data_service
    draft = Draft(experiment, own, params, frozenset(overrides.names(changes)))
    # The schedule of a COCO experiment depends on the data set, which is not known yet.
    _check(draft, settles_schedule=not (flag_values.dataset and _is_made_for_coco(own)))
    return draft


def settle(draft: Draft, dataset: DetectionDataset | None) -> cfg.ExperimentConfig:
    """Completes a draft with the values that follow from the data set.

    Args:
      draft: the result of `build`; its config is changed in place.
      dataset: the data set; None to keep the experiment's own data.

    Returns:
      The final config.

    Raises:
      UsageError: if the config does not work with this data set.
    """
    if dataset is not None:
        use_dataset(draft.params, dataset, draft.own, draft.named)
        _check_fits(draft.params.task, draft.own.task, dataset)
        _check(draft, settles_schedule=True)
    _check_one_for_each_class(draft.params.task)
    return draft.params


def choose_precision(draft: Draft, device_type: str | None) -> precision.Precision:
    """Chooses what the network computes in, and gives the images that dtype.

    Args:
      draft: the config, changed in place. `task.train_data.dtype` and `task.validation_data.dtype`
        keep what the user has set.
      device_type: what the run computes on: `CPU`, `GPU` or `TPU`; None if TensorFlow decides.

    Returns:
      The precision.
    """
    chosen = precision.choose(
        draft.params.runtime.mixed_precision_dtype,
        DTYPE,
        device_type,
        trains_depthwise=draft.params.task.model.backbone.type in DEPTHWISE_BACKBONES,
    )
    for name in ("train_data", "validation_data"):
        if f"task.{name}.dtype" not in draft.named:
            getattr(draft.params.task, name).dtype = chosen.dtype
    return chosen


def use_dataset(
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset,
    own: cfg.ExperimentConfig | None = None,
    named: Collection[str] = (),
) -> None:
    """Sets all values that follow from a data set.

    A COCO experiment keeps its number of epochs: its number of steps and the boundaries of its
    learning rate are scaled. An experiment without data of its own keeps its number of steps.

    Args:
      params: config with the user's changes, changed in place.
      dataset: the data set.
      own: config of the experiment without these changes; None if there are none.
      named: keys that the user has set. They are not changed.
    """
    for key, value in list(_values_for(dataset, params, own or params)):
        if key not in named:
            _set(params, key, value)


def _check_supported(params: cfg.ExperimentConfig) -> None:
    if not params.task.use_coco_metrics:
        raise UsageError(
            "task.use_coco_metrics is false, but all evaluations here use COCO metrics; leave it "
            "true, and use --mode=train if there is nothing to evaluate"
        )
    generator = params.task.model.get("roi_generator", None)
    if params.runtime.enable_xla and generator and generator.use_batched_nms:
        raise UsageError(
            "runtime.enable_xla is true, but XLA cannot compile TensorFlow's batched suppression "
            "of the proposals; set task.model.roi_generator.use_batched_nms=false as well"
        )


def _check_detects(model: hyperparams.Config, mode: str) -> None:
    if "eval" in mode and not model.detection_generator.apply_nms:
        raise UsageError(
            f"task.model.detection_generator.apply_nms is false, so --mode={mode} would have no "
            "detections to evaluate; set it to true, or use --mode=train"
        )


def _check_batch_sizes(task: cfg.TaskConfig) -> None:
    for name in ("train_data", "validation_data"):
        batch_size = getattr(task, name).global_batch_size
        if batch_size < 1:
            raise UsageError(
                f"task.{name}.global_batch_size is {batch_size}; it must be at least 1"
            )


def _check_repeatable(data: cfg.DataConfig, seed: int | None) -> None:
    if seed is not None and data.enable_tf_data_service:
        raise UsageError(
            f"--seed={seed} makes training data repeatable, but the tf.data service delivers them "
            "in an order of its own; leave out --seed, or set "
            "task.train_data.enable_tf_data_service=false"
        )


def _check(draft: Draft, settles_schedule: bool) -> None:
    params = draft.params
    try:
        if settles_schedule:
            schedule.settle(params.trainer, draft.named)
        checks.check_choice(DTYPE, params.runtime.mixed_precision_dtype, DTYPES)
        _check_averages(params)
        ranges.check(params.trainer, "trainer")
        ranges.check(params.runtime, "runtime")
        params.task.validate()
        params.validate()
        optimization.check(params.trainer.optimizer_config, "trainer.optimizer_config")
    except (KeyError, ValueError) as error:
        raise UsageError(f"the config of {draft.experiment} is invalid: {error}") from error


def _check_optimization(experiment: str, params: cfg.ExperimentConfig) -> None:
    try:
        checks.check_optimization(params.task, params.trainer.optimizer_config)
    except ValueError as error:
        raise UsageError(f"the config of {experiment} is invalid: {error}") from error


def _check_averages(params: cfg.ExperimentConfig) -> None:
    """Refuses averages of the weights in float16: the optimizer that scales its loss hides them."""
    optimization = params.trainer.optimizer_config
    dtype = params.runtime.mixed_precision_dtype
    has_averages = optimization.ema is not None or optimization.optimizer.type in _AVERAGES
    if dtype == "float16" and has_averages:
        raise ValueError(
            f"{DTYPE} is {dtype}, which does not work with averages of the weights "
            f"({', '.join(('ema', *_AVERAGES))}); use bfloat16 or float32, or leave them out"
        )


def _check_fits(task: cfg.TaskConfig, own: cfg.TaskConfig, dataset: DetectionDataset) -> None:
    """Checks the values that the user has set instead of what follows from the data set."""
    num_train, num_val = dataset.train.num_examples, dataset.val.num_examples
    if task.model.num_classes < dataset.num_classes:
        raise UsageError(
            f"task.model.num_classes is {task.model.num_classes}, but the classes of "
            f"{dataset.folder} need {dataset.num_classes}: the largest category id and the "
            "background. A trained detector keeps its number, so evaluate it on images with its "
            "classes; to train a new one, leave out the key or set it to that"
        )
    batch_size = task.train_data.global_batch_size
    # An experiment's own batch may hold an image of a small folder twice.
    if batch_size > max(num_train, own.train_data.global_batch_size):
        raise UsageError(
            f"task.train_data.global_batch_size is {batch_size}, but "
            f"{dataset.folder} has {num_train} training images; set it to at most {num_train}"
        )
    validation = task.validation_data
    if validation.drop_remainder and validation.global_batch_size > num_val:
        raise UsageError(
            f"task.validation_data.global_batch_size is {validation.global_batch_size}, but "
            f"{dataset.folder} has {num_val} validation images and "
            "task.validation_data.drop_remainder drops a batch that is not full; set it to false"
        )


def _check_one_for_each_class(task: cfg.TaskConfig) -> None:
    frequencies = task.train_data.get("class_frequencies", None)
    for key, noun, values in (
        ("task.losses.class_weights", "weights", task.losses.class_weights),
        ("task.train_data.class_frequencies", "shares", frequencies),
    ):
        if values and len(values) != task.model.num_classes:
            raise UsageError(
                f"{key} has {len(values)} {noun}; it must have one for the background and one for "
                f"each class, which makes {task.model.num_classes}"
            )


def _use_compilable_suppression(model: hyperparams.Config) -> None:
    """Selects Model Garden's own suppression: TensorFlow's batched one has no TPU kernel."""
    model.detection_generator.nms_version = "v2"
    if "roi_generator" in model:
        model.roi_generator.use_batched_nms = False


def _is_made_for_coco(own: cfg.ExperimentConfig) -> bool:
    return bool(own.task.train_data.input_path)


def _values_for(
    dataset: DetectionDataset, params: cfg.ExperimentConfig, own: cfg.ExperimentConfig
) -> Iterator[tuple[str, Any]]:
    """Yields the keys that follow from a data set, and their values."""
    task = params.task
    num_train, num_val = dataset.train.num_examples, dataset.val.num_examples
    if _is_made_for_coco(own):
        batch_size = max(1, min(task.train_data.global_batch_size, num_train))
        own_steps = COCO_TRAIN_EXAMPLES // own.task.train_data.global_batch_size
        yield from _schedule_of_epochs(own.trainer, own_steps, num_train // batch_size)
    eval_batch_size = max(1, task.validation_data.global_batch_size)
    yield "trainer.validation_steps", math.ceil(num_val / eval_batch_size)
    # A batch larger than the data set would never fill up.
    yield (
        "task.train_data.global_batch_size",
        min(own.task.train_data.global_batch_size, num_train),
    )
    yield "task.model.num_classes", dataset.num_classes
    yield "task.validation_data.drop_remainder", False
    yield "task.annotation_file", dataset.val.annotation_file
    yield "task.per_category_metrics", True
    for name, split in (("train_data", dataset.train), ("validation_data", dataset.val)):
        data = getattr(own.task, name)
        yield f"task.{name}.input_path", split.input_path
        yield (
            f"task.{name}.parser.max_num_instances",
            max(data.parser.max_num_instances, split.max_boxes_per_image),
        )
        if "num_examples" in data:
            yield f"task.{name}.num_examples", split.num_examples


def _schedule_of_epochs(
    trainer: cfg.TrainerConfig, steps_per_epoch: int, wanted: int
) -> Iterator[tuple[str, Any]]:
    """Yields the keys and values of a schedule with the same number of epochs.

    Args:
      trainer: the original schedule.
      steps_per_epoch: steps per epoch in the original schedule.
      wanted: steps per epoch in the new schedule.
    """
    trainer = copy.deepcopy(trainer)
    schedule.scale(trainer, wanted / steps_per_epoch)
    steps_per_loop = min(trainer.steps_per_loop, wanted)
    yield "trainer.train_steps", trainer.train_steps
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "stepwise":
        yield (
            "trainer.optimizer_config.learning_rate.stepwise.boundaries",
            learning_rate.stepwise.boundaries,
        )
    yield "trainer.validation_interval", wanted
    yield "trainer.checkpoint_interval", wanted
    yield "trainer.steps_per_loop", steps_per_loop
    yield "trainer.summary_interval", steps_per_loop


def _set(params: hyperparams.Config, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        params = getattr(params, group)
    setattr(params, name, value)
