"""One run from flags to results: data, config, training, table and pictures."""

import functools
import os

import gin
import rich.console
import tensorflow as tf
from absl import flags
from official.core import config_definitions as cfg
from official.modeling import performance

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli import quiet
from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.compat import keras
from libra_tf.data import DetectionDataset, make_shapes, prepare_coco_folder, shapes
from libra_tf.data.cache import default_cache_dir
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.runner import cluster, config, contact_sheet, data_files, guards, proposals, training
from libra_tf.runs import model_dir, results, run_files, trained_run

# Sized so that a ResNet-18 learns the shapes within minutes on two CPU cores.
DEMO_SHAPES = {"num_train": 1024, "num_val": 128, "image_size": 128}


def run(
    experiment: str,
    folder: str,
    flag_values: flags.FlagValues,
    console: rich.console.Console,
) -> None:
    """Trains and evaluates as the flags say, and prints what came of it.

    Args:
      experiment: name of the experiment.
      folder: model folder.
      flag_values: parsed flags; see `libra_tf.runner.flags`.
      console: where progress and results go.

    Raises:
      UsageError: if what was asked for cannot be done.
      DatasetError: if the data set cannot be used.
      TrainingError: if training cannot go on.
      PreemptedError: if the process was asked to end.
    """
    gin.parse_config_files_and_bindings(flag_values.gin_file, flag_values.gin_params)
    # Wrong keys, folders and checkpoints show before any data is read.
    params = config.build(experiment, flag_values, dataset=None)
    proposals.check_folders(params, flag_values.mode)
    _check_init_checkpoint(params, flag_values.mode, folder)
    strategy = cluster.build_strategy(params, flag_values.mode)
    dataset = _prepare_dataset(experiment, flag_values, console)
    params = config.build(experiment, flag_values, dataset)
    _check_data_files(params, flag_values.mode)
    proposals.check_files(params, flag_values.mode, dataset)
    if cluster.is_chief(strategy):
        guards.set_damaged_checkpoints_aside(folder, functools.partial(_print, console))
    cluster.wait_for_all(strategy)
    dataset_name, class_names = _dataset_name(dataset, params), _class_names(params, dataset)
    model_dir.check(folder, flag_values.mode, params, dataset_name)
    names_source = dataset.folder if dataset else params.task.annotation_file
    model_dir.check_classes(folder, class_names, names_source)
    record = results.Results(folder, experiment, dataset_name)
    _check_batch_sizes(params, strategy)
    if flag_values.seed is not None:
        keras.utils.set_random_seed(flag_values.seed)
        tf.config.experimental.enable_op_determinism()
    if params.runtime.mixed_precision_dtype:
        performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
    if "train" in flag_values.mode and cluster.is_chief(strategy):
        run_files.write_params(folder, params)
        trained_run.write_class_names(folder, class_names)
    params.lock()

    progress = Progress(console)
    _announce(console, experiment, params, dataset, folder)
    log = "log.txt" if cluster.is_chief(strategy) else f"log-worker{params.runtime.task_index}.txt"
    with quiet.libraries_write_to(os.path.join(folder, log)):
        try:
            with proposals.explained():
                trainer = training.run(
                    params,
                    strategy,
                    flag_values.mode,
                    folder,
                    progress,
                    record,
                    flag_values.enable_async_checkpointing,
                    replays_data=flag_values.seed is not None,
                )
        finally:
            progress.stop()
        if record.evaluations and "eval" in flag_values.mode:
            console.print(results.table(record.evaluations[-1]))
        sheet = _draw_contact_sheet(folder, params, trainer, class_names)
    _report(console, folder, record, sheet)


def _check_init_checkpoint(params: cfg.ExperimentConfig, mode: str, folder: str) -> None:
    path = params.task.init_checkpoint
    # A run that goes on from its own checkpoint does not read this one.
    if "train" not in mode or tf.train.latest_checkpoint(folder):
        return
    if not path:
        _check_trains_from_scratch(params.task)
        return
    try:
        checkpoint_files.check(path)
    except CheckpointError as error:
        raise UsageError(f"task.init_checkpoint: {error}") from error


def _check_trains_from_scratch(task: cfg.TaskConfig) -> None:
    """Refuses to keep what is random: a frozen part is for pretrained weights."""
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
            f"task.init_checkpoint is not set, and {', '.join(frozen)} would keep random weights "
            "as they are. Name a checkpoint with a pretrained backbone, or train all from scratch "
            f"with --params_override={','.join(f'{key}={value}' for key, value in frozen.items())}"
        )


def _prepare_dataset(
    experiment: str, flag_values: flags.FlagValues, console: rich.console.Console
) -> DetectionDataset | None:
    """Returns the folder asked for, the built-in shapes for a demo, or None."""

    def report(message: str) -> None:
        _print(console, f"data: {message}")

    folder = flag_values.dataset
    if folder is None:
        if not experiment.endswith("_demo"):
            return None
        root = flag_values.cache_dir or default_cache_dir()
        name = shapes.folder_name(**DEMO_SHAPES)
        folder = make_shapes(os.path.join(root, name), **DEMO_SHAPES, report=report)
    return prepare_coco_folder(folder, flag_values.cache_dir, report=report)


def _print(console: rich.console.Console, message: str) -> None:
    console.print(message, highlight=False, soft_wrap=True, markup=False)


def _check_data_files(params: cfg.ExperimentConfig, mode: str) -> None:
    task = params.task
    wanted = {"task.validation_data.input_path": task.validation_data} if "eval" in mode else {}
    if "train" in mode:
        wanted["task.train_data.input_path"] = task.train_data
    for key, data in wanted.items():
        if data.tfds_name:
            continue
        found = data_files.find(data.input_path)
        if not found or not all(found.values()):
            raise UsageError(
                f"{key} is {data.input_path!r}, and there are no such files. Name a folder in COCO "
                f"format with --dataset=FOLDER, or set {key} with --params_override"
            )
    annotations = task.annotation_file
    if "eval" in mode and annotations and not tf.io.gfile.exists(annotations):
        raise UsageError(f"task.annotation_file is {annotations!r}, and there is no such file")


def _check_batch_sizes(params: cfg.ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    replicas = strategy.num_replicas_in_sync
    for name in ("train_data", "validation_data"):
        batch_size = getattr(params.task, name).global_batch_size
        if batch_size <= 0 or batch_size % replicas:
            raise UsageError(
                f"task.{name}.global_batch_size is {batch_size}, which does not divide over the "
                f"{replicas} replicas; choose a multiple of {replicas}"
            )


def _dataset_name(dataset: DetectionDataset | None, params: cfg.ExperimentConfig) -> str:
    return dataset.folder if dataset else str(params.task.train_data.input_path)


def _announce(
    console: rich.console.Console,
    experiment: str,
    params: cfg.ExperimentConfig,
    dataset: DetectionDataset | None,
    folder: str,
) -> None:
    batch_size = params.task.train_data.global_batch_size
    steps = params.trainer.train_steps
    schedule = f"{steps} steps of {batch_size} images"
    if dataset:
        epochs = steps * batch_size / dataset.train.num_examples
        schedule += (
            f" ({epochs:.1f} epochs of {dataset.train.num_examples} images), evaluation on "
            f"{dataset.val.num_examples} images, {len(dataset.class_names)} classes: "
            f"{', '.join(dataset.class_names.values())}"
        )
    height, width, _channels = params.task.model.input_size
    _print(console, f"{experiment}: {schedule}; input {height}x{width}; model folder {folder}")


def _draw_contact_sheet(
    folder: str,
    params: cfg.ExperimentConfig,
    trainer: training.ReportingTrainer,
    class_names: dict[int, str],
) -> str | None:
    """Draws the newest evaluation's detections; returns the picture's path, None without one."""
    detections = getattr(getattr(trainer.task, "coco_metric", None), "detections", None)
    if not detections or params.task.validation_data.tfds_name:
        return None
    path = os.path.join(folder, "detections.png")
    input_path = params.task.validation_data.input_path
    return path if contact_sheet.draw(path, input_path, detections, class_names) else None


def _class_names(params: cfg.ExperimentConfig, dataset: DetectionDataset | None) -> dict[int, str]:
    if dataset:
        return dataset.class_names
    return trained_run.read_category_names(params.task.annotation_file or "")


def _report(
    console: rich.console.Console,
    folder: str,
    record: results.Results,
    sheet: str | None,
) -> None:
    lines = {
        "checkpoint": tf.train.latest_checkpoint(folder),
        "TensorBoard logs": folder,
        "results": record.path if record.evaluations else None,
        "pictures": sheet,
        "messages": os.path.join(folder, "log.txt"),
    }
    for name, path in lines.items():
        if path:
            _print(console, f"{name + ':':17} {path}")
    _print(console, f"next:             tensorboard --logdir={folder}")
