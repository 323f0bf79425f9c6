"""Builds an experiment's config from flags and a data set, with errors that name the key."""

import copy
import math

from absl import flags
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams

from libra_tf.cli.errors import UsageError
from libra_tf.configs import components, optimization
from libra_tf.configs.recipes import COCO_TRAIN_EXAMPLES
from libra_tf.data import DetectionDataset
from libra_tf.runner import overrides, schedule

# Of computation, with weights in float32; None leaves them as Keras has them.
DTYPES = (None, "float32", "float16", "bfloat16")


def build(
    experiment: str, flag_values: flags.FlagValues, dataset: DetectionDataset | None
) -> cfg.ExperimentConfig:
    """Returns the config: the experiment's, then the data set's, the files' and the override's.

    Args:
      experiment: one of `libra_tf.runner.flags.LIBRA_EXPERIMENTS`.
      flag_values: parsed flags; `config_file`, `params_override`, `tpu`, `tf_data_service`.
      dataset: the folder to train on, or None to keep the experiment's own data.

    Raises:
      UsageError: on an unknown key, a value that cannot be used, or a file that is not YAML.
    """
    params = exp_factory.get_exp_config(experiment)
    # Several processes would save and go on; `guards.StopOnTermination` saves and ends the run.
    params.trainer.preemption_on_demand_checkpoint = False
    if flag_values.tpu:
        _use_compilable_suppression(params.task.model)
    asked = list(overrides.read(flag_values))
    # Its schedule is known when its data set is.
    is_scaled_later = dataset is None and flag_values.dataset and _is_made_for_coco(params)
    if dataset is not None:
        overridden = copy.deepcopy(params)
        overrides.apply(overridden, asked)
        use_dataset(params, dataset, overridden.task)
    overrides.apply(params, asked)
    if dataset is not None and getattr(params.task.model, "include_mask", False):
        raise UsageError(
            f"{experiment} with --dataset={dataset.folder}: a folder is converted without masks. "
            "Set task.model.include_mask=false, or give TFRecords with masks as "
            "task.train_data.input_path and task.validation_data.input_path"
        )
    if not params.task.use_coco_metrics:
        raise UsageError(
            "task.use_coco_metrics is false, and every evaluation here is one by COCO's metrics; "
            "leave it true, and train with --mode=train if there is nothing to evaluate"
        )
    params.override({"runtime": {"tpu": flag_values.tpu}})
    if flag_values.tpu:
        params.runtime.distribution_strategy = "tpu"
    if flag_values.tf_data_service:
        for data in (params.task.train_data, params.task.validation_data):
            data.tf_data_service_address = flag_values.tf_data_service
    try:
        if not is_scaled_later:
            schedule.settle(params.trainer, overrides.names(asked))
        components.check_choice(
            "runtime.mixed_precision_dtype", params.runtime.mixed_precision_dtype, DTYPES
        )
        params.task.validate()
        params.validate()
        optimization.check_optimizer(
            params.trainer.optimizer_config.optimizer, "trainer.optimizer_config.optimizer"
        )
    except (KeyError, ValueError) as error:
        raise UsageError(f"the config of {experiment} cannot be used: {error}") from error
    return params


def _use_compilable_suppression(model: hyperparams.Config) -> None:
    """Chooses Model Garden's own suppression: TensorFlow's batched one has no TPU kernel."""
    model.detection_generator.nms_version = "v2"
    if "roi_generator" in model:
        model.roi_generator.use_batched_nms = False


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
