"""A run from flags to results: data, config, training, table and pictures."""

import functools
import os

import gin
import rich.console
import tensorflow as tf
from absl import flags
from official.core import config_definitions as cfg

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli import quiet, shell
from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.compat import keras
from libra_tf.data import DetectionDataset
from libra_tf.evaluation import metrics, records
from libra_tf.initial_weights import fine_tuning
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.precision import Precision
from libra_tf.runner import (
    best,
    class_balance,
    cluster,
    config,
    contact_sheet,
    evaluation_page,
    input_data,
    more_metrics,
    proposals,
    training,
)
from libra_tf.runner import flags as runner_flags
from libra_tf.runner.stages import Stages
from libra_tf.runner.startup import StartUp
from libra_tf.runs import results, trained_run
from libra_tf.runs.folder import PICTURES, RunFolder
from libra_tf.tasks.coco_metric import Detections


def run(
    experiment: str,
    model_dir: str,
    flag_values: flags.FlagValues,
    console: rich.console.Console,
    startup: StartUp,
) -> None:
    """Trains and evaluates as set by the flags, and prints the results.

    Args:
      experiment: name of the experiment, unless a run is evaluated as its folder says.
      model_dir: path of the run folder.
      flag_values: parsed flags; see `libra_tf.runner.flags`.
      console: where to print progress and results.
      startup: measures the time to the first step.

    Raises:
      UsageError: if the flags, the config or the files they name are invalid.
      DatasetError: if the data set cannot be used.
      TrainingError: if training cannot continue.
      PreemptedError: if the process was told to stop.
    """
    folder, mode = RunFolder(model_dir), flag_values.mode
    # A process may run several, as a notebook does.
    with gin.unlock_config():
        gin.parse_config_files_and_bindings(flag_values.gin_file, flag_values.gin_params)
    # Report wrong keys, folders and checkpoints before reading any data.
    is_of_run = runner_flags.may_evaluate_run(flag_values) and folder.is_known()
    if is_of_run:
        draft = config.build_from_run(folder, flag_values)
    else:
        draft = config.build(experiment, flag_values)
    experiment = draft.experiment
    checkpoint = folder.find_checkpoint(flag_values.checkpoint) if flag_values.checkpoint else None
    proposals.check_folders(draft.params, mode)
    _check_init_checkpoint(draft.params, folder, mode)
    strategy = cluster.build_strategy(draft.params, mode)
    report = functools.partial(_print, console)
    with_masks = getattr(draft.params.task.model, "include_mask", False)
    if is_of_run:
        dataset = input_data.prepare_of_run(folder, flag_values, draft.named, report, with_masks)
    else:
        dataset = input_data.prepare(experiment, flag_values, report, with_masks)
    params = config.settle(draft, dataset)
    input_data.check_files(params, mode)
    proposals.check_files(params, mode, dataset)
    _check_batch_sizes(params, strategy)
    if flag_values.patience is not None:
        best.check_patience(flag_values.patience, params, mode)
    measure_more = more_metrics.build(flag_values, params, dataset)
    if flag_values.compare is not None:
        evaluation_page.check_compared(flag_values.compare, params)
    class_names = _class_names(params, dataset)
    class_balance.fill_in(params, mode, class_names, report)
    if cluster.is_chief(strategy):
        folder.set_damaged_checkpoints_aside(report)
    cluster.wait_for_all(strategy)
    _check_continues(folder, mode, params, dataset, class_names)
    chosen = config.choose_precision(draft, cluster.device_type(strategy))
    images = _dataset_name(dataset, params)
    record = results.Results(folder, experiment, images, chosen.dtype)
    _configure_computation(chosen, flag_values.seed)
    if "train" in mode and cluster.is_chief(strategy):
        # The run may be evaluated from another working directory.
        trained_on = os.path.abspath(dataset.folder) if dataset else images
        folder.write_config(experiment, params, class_names, trained_on, flag_values.val_share)
    params.lock()

    _announce(console, experiment, params, dataset, folder)
    _print(console, f"{'warning: ' if chosen.is_emulated else ''}precision: {chosen}")
    startup.mark("data")
    stages = Stages()
    task_index = None if cluster.is_chief(strategy) else params.runtime.task_index
    with quiet.libraries_write_to(folder.log(task_index)):
        with stages.explained(experiment, folder.log(task_index)):
            trainer = _train(
                params,
                strategy,
                mode,
                folder,
                flag_values,
                record,
                console,
                startup,
                stages,
                checkpoint,
                measure_more,
            )
        if record.evaluations and "eval" in mode:
            console.print(results.table(record.evaluations[-1]))
            for line in metrics.lines(record.evaluations[-1]):
                _print(console, line)
        has_pictures = _draw_contact_sheet(folder, params, trainer, class_names)
        evaluated = checkpoint or folder.latest_checkpoint()
        has_page = False
        if runner_flags.wants_report(flag_values) and cluster.is_chief(strategy):
            has_page = evaluation_page.write(
                folder,
                params,
                _detections(trainer),
                dataset,
                evaluated,
                flag_values.report_threshold,
                flag_values.compare,
                Progress(console),
            )
    _report(console, folder, evaluated, record, has_pictures, has_page)


def _train(
    params: cfg.ExperimentConfig,
    strategy: tf.distribute.Strategy,
    mode: str,
    folder: RunFolder,
    flag_values: flags.FlagValues,
    record: results.Results,
    console: rich.console.Console,
    startup: StartUp,
    stages: Stages,
    checkpoint: str | None,
    measure_more: more_metrics.Measure | None,
) -> training.ReportingTrainer:
    progress = Progress(console)
    try:
        with proposals.explained():
            return training.run(
                params,
                strategy,
                mode,
                folder,
                progress,
                record,
                flag_values.enable_async_checkpointing,
                is_repeatable=flag_values.seed is not None,
                startup=startup,
                patience=flag_values.patience,
                checkpoint=checkpoint,
                stages=stages,
                measure_more=measure_more,
            )
    finally:
        progress.stop()


def _check_init_checkpoint(params: cfg.ExperimentConfig, folder: RunFolder, mode: str) -> None:
    # A run that continues from its own checkpoint does not read the initial one.
    if "train" not in mode or folder.latest_checkpoint():
        return
    if not params.task.init_checkpoint:
        _check_trains_from_scratch(params.task)
        return
    try:
        fine_tuning.check(params.task)
    except CheckpointError as error:
        raise UsageError(f"task.init_checkpoint: {error}") from error


def _check_trains_from_scratch(task: cfg.TaskConfig) -> None:
    """Refuses to freeze random weights: only pretrained ones are worth freezing."""
    backbone = task.model.backbone
    frozen = {}
    if task.frozen_stages is not None:
        frozen["task.frozen_stages"] = "null"
    if not getattr(backbone.get(), "bn_trainable", True):
        frozen[f"task.model.backbone.{backbone.type}.bn_trainable"] = "true"
    if task.freeze_backbone:
        frozen["task.freeze_backbone"] = "false"
    if frozen:
        raise UsageError(
            f"task.init_checkpoint is not set, so {', '.join(frozen)} would freeze random weights. "
            "Set it to a checkpoint with a pretrained backbone, or train everything from scratch "
            "with --params_override="
            f"{','.join(f'{key}={value}' for key, value in frozen.items())}"
        )


def _check_batch_sizes(params: cfg.ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    replicas = strategy.num_replicas_in_sync
    for name in ("train_data", "validation_data"):
        batch_size = getattr(params.task, name).global_batch_size
        if batch_size <= 0 or batch_size % replicas:
            raise UsageError(
                f"task.{name}.global_batch_size is {batch_size}, which cannot be split evenly "
                f"across {replicas} replicas; choose a positive multiple of {replicas}"
            )


def _check_continues(
    folder: RunFolder,
    mode: str,
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset | None,
    class_names: dict[int, str],
) -> None:
    folder.check_continues(mode, params, _dataset_name(dataset, params))
    source = dataset.folder if dataset else params.task.annotation_file
    folder.check_classes(class_names, source)


def _configure_computation(chosen: Precision, seed: int | None) -> None:
    if seed is not None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(chosen.policy)


def _print(console: rich.console.Console, message: str) -> None:
    console.print(message, highlight=False, soft_wrap=True, markup=False)


def _dataset_name(dataset: DetectionDataset | None, params: cfg.ExperimentConfig) -> str:
    return dataset.folder if dataset else str(params.task.train_data.input_path)


def _class_names(params: cfg.ExperimentConfig, dataset: DetectionDataset | None) -> dict[int, str]:
    if dataset:
        return dataset.class_names
    return trained_run.read_category_names(params.task.annotation_file or "")


def _announce(
    console: rich.console.Console,
    experiment: str,
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset | None,
    folder: RunFolder,
) -> None:
    batch_size = params.task.train_data.global_batch_size
    steps = params.trainer.train_steps
    schedule = f"{steps} steps of {batch_size} images"
    if dataset:
        images = f"{dataset.train.num_examples} images"
        # With repeated images, an epoch is longer, which is said where they are counted.
        if not params.task.train_data.get("repeat_threshold", 0.0):
            images = f"{steps * batch_size / dataset.train.num_examples:.1f} epochs of {images}"
        noun = "class" if len(dataset.class_names) == 1 else "classes"
        schedule += (
            f" ({images}), evaluation on "
            f"{dataset.val.num_examples} images, {len(dataset.class_names)} {noun}: "
            f"{', '.join(dataset.class_names.values())}"
        )
    height, width, _channels = params.task.model.input_size
    _print(console, f"{experiment}: {schedule}; input {height}x{width}; model folder {folder}")


def _draw_contact_sheet(
    folder: RunFolder,
    params: cfg.ExperimentConfig,
    trainer: training.ReportingTrainer,
    class_names: dict[int, str],
) -> bool:
    """Draws the detections of the last evaluation. Returns False if there was nothing to draw."""
    detections = _detections(trainer)
    data = params.task.validation_data
    if not detections or data.tfds_name:
        return False
    return contact_sheet.draw(folder.file(PICTURES), data.input_path, detections, class_names)


def _detections(trainer: training.ReportingTrainer) -> dict[int, Detections] | None:
    """Returns the detections of the last evaluation; None without one."""
    return getattr(getattr(trainer.task, "coco_metric", None), "detections", None)


def _report(
    console: rich.console.Console,
    folder: RunFolder,
    checkpoint: str | None,
    record: results.Results,
    has_pictures: bool,
    has_page: bool,
) -> None:
    lines = {
        "checkpoint": checkpoint,
        "TensorBoard logs": folder.path,
        "results": record.path if record.evaluations else None,
        "pictures": folder.file(PICTURES) if has_pictures else None,
        "evaluation page": folder.file(records.PAGE) if has_page else None,
        "library log": folder.log(),
    }
    for name, path in lines.items():
        if path:
            _print(console, f"{name + ':':17} {path}")
    tensorboard = shell.program("tensorboard", "tensorboard.main")
    _print(console, f"next:             {tensorboard} --logdir={folder}")
