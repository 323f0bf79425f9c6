"""A run from flags to results: data, config, training, table and pictures."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import gin
import rich.console
import tensorflow as tf
from absl import flags
from official.core import config_definitions as cfg

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli import outputs, quiet, shell
from libra_tf.cli.errors import UsageError, first_line
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


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run that has been checked, and may begin.

    Attributes:
      experiment: name of the experiment.
      folder: the run folder.
      flags: parsed flags; see `libra_tf.runner.flags`.
      params: the config, final and locked.
      strategy: distribution strategy.
      dataset: the images; None if the config names them.
      class_names: by category id.
      precision: what the network computes in.
      record: where evaluations are recorded.
      checkpoint: path prefix of the checkpoint to evaluate; None for the newest.
      measure_more: measures what is not COCO's; None for nothing.
    """

    experiment: str
    folder: RunFolder
    flags: flags.FlagValues
    params: cfg.ExperimentConfig
    strategy: tf.distribute.Strategy
    dataset: DetectionDataset | None
    class_names: dict[int, str]
    precision: Precision
    record: results.Results
    checkpoint: str | None
    measure_more: more_metrics.Measure | None

    @property
    def log(self) -> str:
        """The file for what libraries print in this process."""
        is_chief = cluster.is_chief(self.strategy)
        return self.folder.log(None if is_chief else self.params.runtime.task_index)


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
    progress = Progress(console)
    # A process may run several, as a notebook does.
    with gin.unlock_config():
        gin.parse_config_files_and_bindings(flag_values.gin_file, flag_values.gin_params)
    of_run = _prepare(experiment, RunFolder(model_dir), flag_values, progress.note)
    progress.note(_announcement(of_run.experiment, of_run.params, of_run.dataset, of_run.folder))
    warning = "warning: " if of_run.precision.is_emulated else ""
    progress.note(f"{warning}precision: {of_run.precision}")
    startup.mark("data")
    record = of_run.record
    with quiet.libraries_write_to(of_run.log):
        trainer = _train(of_run, progress, startup)
        if record.evaluations and "eval" in flag_values.mode:
            console.print(results.table(record.evaluations[-1]))
            for line in metrics.lines(record.evaluations[-1]):
                progress.note(line)
        # Not the newest: another process may have saved one since.
        step = int(trainer.global_step.numpy())
        evaluated = of_run.checkpoint or of_run.folder.checkpoint_of_step(step)
        made = {
            "checkpoint": evaluated if tf.io.gfile.exists(f"{evaluated}.index") else None,
            "TensorBoard logs": of_run.folder.path,
            "results": record.path if record.evaluations else None,
            "pictures": _draw_contact_sheet(of_run, _detections(trainer), progress),
            "evaluation page": _write_page(of_run, _detections(trainer), evaluated, progress),
            "library log": of_run.folder.log(),
        }
    for name, path in made.items():
        if path:
            progress.note(f"{name + ':':17} {path}")
    tensorboard = shell.program("tensorboard", "tensorboard.main")
    progress.note(f"next:             {tensorboard} --logdir={of_run.folder}")


def _prepare(
    experiment: str,
    folder: RunFolder,
    flag_values: flags.FlagValues,
    report: Callable[[str], None],
) -> _Run:
    """Checks what can be checked, the cheapest first, and converts the data in between."""
    mode = flag_values.mode
    outputs.require_writable("--model_dir", folder.path)
    # Report wrong keys, folders and checkpoints before reading any data.
    is_of_run = runner_flags.may_evaluate_run(flag_values) and folder.is_known()
    if is_of_run:
        draft = config.build_from_run(folder, flag_values)
    else:
        draft = config.build(experiment, flag_values)
    checkpoint = folder.find_checkpoint(flag_values.checkpoint) if flag_values.checkpoint else None
    proposals.check_folders(draft.params, mode)
    _check_init_checkpoint(draft.params, folder, mode)
    strategy = cluster.build_strategy(draft.params, mode)
    with_masks = getattr(draft.params.task.model, "include_mask", False)
    if is_of_run:
        dataset = input_data.prepare_of_run(folder, flag_values, draft.named, report, with_masks)
    else:
        dataset = input_data.prepare(draft.experiment, flag_values, report, with_masks)
    params = config.settle(draft, dataset)
    input_data.check_files(params, mode)
    proposals.check_files(params, mode, dataset)
    _check_divides(params, mode, strategy)
    if flag_values.patience is not None:
        best.check_patience(flag_values.patience, params, mode)
    measure_more = more_metrics.build(flag_values, params, dataset)
    if flag_values.compare is not None:
        evaluation_page.check_compared(flag_values.compare, params)
    class_names = _class_names(params, dataset)
    changed = _check_continues(folder, mode, params, dataset, class_names)
    class_balance.fill_in(params, mode, class_names, report)
    # Nothing is written to the folder before this line.
    if cluster.is_chief(strategy):
        _set_damaged_checkpoints_aside(folder, mode, checkpoint, report)
    cluster.wait_for_all(strategy)
    chosen = config.choose_precision(draft, cluster.device_type(strategy))
    images = _dataset_name(dataset, params)
    # What a training changes becomes the run's own config.
    changed = {} if "train" in mode else changed
    record = results.Results(folder, draft.experiment, images, chosen.dtype, changed)
    _configure_computation(chosen, flag_values.seed)
    if "train" in mode and cluster.is_chief(strategy):
        # The run may be evaluated from another working directory.
        trained_on = os.path.abspath(dataset.folder) if dataset else images
        folder.write_config(
            draft.experiment, params, class_names, trained_on, flag_values.val_share
        )
    if flag_values.seed is None:
        cluster.share_order_of_files(params.task.train_data, strategy)
    params.lock()
    return _Run(
        experiment=draft.experiment,
        folder=folder,
        flags=flag_values,
        params=params,
        strategy=strategy,
        dataset=dataset,
        class_names=class_names,
        precision=chosen,
        record=record,
        checkpoint=checkpoint,
        measure_more=measure_more,
    )


def _train(of_run: _Run, progress: Progress, startup: StartUp) -> training.ReportingTrainer:
    stages = Stages()
    with stages.explained(of_run.experiment, of_run.log):
        try:
            with proposals.explained():
                return training.run(
                    of_run.params,
                    of_run.strategy,
                    of_run.flags.mode,
                    of_run.folder,
                    progress,
                    of_run.record,
                    of_run.flags.enable_async_checkpointing,
                    is_repeatable=of_run.flags.seed is not None,
                    startup=startup,
                    patience=of_run.flags.patience,
                    checkpoint=of_run.checkpoint,
                    stages=stages,
                    measure_more=of_run.measure_more,
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


def _check_divides(
    params: cfg.ExperimentConfig, mode: str, strategy: tf.distribute.Strategy
) -> None:
    replicas, compatibility = strategy.num_replicas_in_sync, params.task.model.compatibility
    if compatibility and "eval" in mode and replicas > 1:
        raise UsageError(
            f"--mode={mode} with task.model.compatibility={compatibility} takes images one at a "
            f"time, but there are {replicas} replicas: train with --mode=train, and evaluate with "
            "--mode=eval and runtime.num_gpus=1"
        )
    used = {"train_data": "train" in mode, "validation_data": "eval" in mode}
    for name in (name for name, is_used in used.items() if is_used):
        batch_size = getattr(params.task, name).global_batch_size
        if batch_size % replicas:
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
) -> dict[str, Any]:
    changed = folder.check_continues(mode, params, _dataset_name(dataset, params))
    source = dataset.folder if dataset else params.task.annotation_file
    folder.check_classes(class_names, source)
    return changed


def _set_damaged_checkpoints_aside(
    folder: RunFolder, mode: str, checkpoint: str | None, report: Callable[[str], None]
) -> None:
    folder.set_damaged_checkpoints_aside(report)
    if mode == "eval" and not checkpoint and not folder.latest_checkpoint():
        raise UsageError(
            f"--model_dir={folder} holds no checkpoint that can be read, so there is nothing to "
            "evaluate; train again, or name another checkpoint with --checkpoint"
        )


def _configure_computation(chosen: Precision, seed: int | None) -> None:
    if seed is not None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(chosen.policy)


def _dataset_name(dataset: DetectionDataset | None, params: cfg.ExperimentConfig) -> str:
    return dataset.folder if dataset else str(params.task.train_data.input_path)


def _class_names(params: cfg.ExperimentConfig, dataset: DetectionDataset | None) -> dict[int, str]:
    if dataset:
        return dataset.class_names
    return trained_run.read_category_names(params.task.annotation_file or "")


def _announcement(
    experiment: str,
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset | None,
    folder: RunFolder,
) -> str:
    """Returns what is trained for how long, on which images."""
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
    return f"{experiment}: {schedule}; input {height}x{width}; model folder {folder}"


def _detections(trainer: training.ReportingTrainer) -> dict[int, Detections] | None:
    """Returns the detections of the last evaluation; None without one."""
    return getattr(getattr(trainer.task, "coco_metric", None), "detections", None)


def _draw_contact_sheet(
    of_run: _Run, detections: dict[int, Detections] | None, progress: Progress
) -> str | None:
    """Draws the detections of the last evaluation. Returns the file; None without one."""
    path, data = of_run.folder.file(PICTURES), of_run.params.task.validation_data
    if not detections or data.tfds_name:
        return None
    try:
        return path if contact_sheet.draw(path, data, detections, of_run.class_names) else None
    except (OSError, tf.errors.OpError) as reason:
        # The training has succeeded.
        progress.note(f"no pictures: {first_line(reason)}")
        return None


def _write_page(
    of_run: _Run,
    detections: dict[int, Detections] | None,
    checkpoint: str,
    progress: Progress,
) -> str | None:
    """Writes the evaluation page, if it is wanted. Returns the file; None without one."""
    if not (runner_flags.wants_report(of_run.flags) and cluster.is_chief(of_run.strategy)):
        return None
    has_page = evaluation_page.write(
        of_run.folder,
        of_run.params,
        detections,
        of_run.dataset,
        checkpoint,
        of_run.flags.report_threshold,
        of_run.flags.compare,
        progress,
    )
    return of_run.folder.file(records.PAGE) if has_page else None
