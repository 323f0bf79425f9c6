"""Fills in what a config asks for of the classes of the training images."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling import hyperparams

from libra_tf.cli.errors import UsageError, first_line
from libra_tf.dataloaders import class_statistics, repeat_factors
from libra_tf.modeling import class_weights
from libra_tf.runner import input_data


def fill_in(
    params: cfg.ExperimentConfig,
    mode: str,
    class_names: Mapping[int, str],
    report: Callable[[str], None],
) -> None:
    """Sets `class_weights` and `class_frequencies` where they are needed and not given.

    They stay in the config of the run, so that its evaluations have the same ones.

    Args:
      params: config of the run, changed in place.
      mode: one of `libra_tf.runner.flags.MODES`.
      class_names: by class id, for the report.
      report: receives what was set.

    Raises:
      UsageError: if the training images are needed but cannot be read, or do not fit the config.
    """
    data, losses = params.task.train_data, params.task.losses
    weighs = losses.class_weighting != "none"
    # Detectors with RoIs are evaluated without losses.
    has_losses = "train" in mode or "roi_sampler" not in params.task.model
    repeats = "train" in mode and data.get("repeat_threshold", 0.0) > 0
    needs_weights = weighs and has_losses and losses.class_weights is None
    needs_frequencies = repeats and data.class_frequencies is None
    if "train" in mode:
        # They may be those of a run on other images.
        if weighs and not needs_weights:
            report(_kept("class weights", "task.losses.class_weights"))
        if repeats and not needs_frequencies:
            report(_kept("shares of images by class", "task.train_data.class_frequencies"))
    if not needs_weights and not needs_frequencies:
        return
    if needs_weights:
        asked_by = f"task.losses.class_weighting={losses.class_weighting}"
    else:
        asked_by = f"task.train_data.repeat_threshold={data.repeat_threshold}"
    statistics = _count(params.task, asked_by, report)
    if needs_weights:
        report(_fill_weights(losses, statistics, class_names))
    if needs_frequencies:
        report(_fill_frequencies(params, statistics, class_names))


def _kept(noun: str, key: str) -> str:
    return f"{noun}: those of the config; {key}=null counts anew"


def _fill_weights(
    losses: hyperparams.Config,
    statistics: class_statistics.ClassStatistics,
    class_names: Mapping[int, str],
) -> str:
    weights = class_weights.class_weights(
        losses.class_weighting, statistics.num_objects, losses.effective_number_beta
    )
    losses.class_weights = [float(weight) for weight in weights]
    weighed = _range(weights, statistics.num_objects > 0, class_names)
    return (
        f"class weights ({losses.class_weighting}): {weighed}; the average object weighs 1, as the "
        "background does"
    )


def _fill_frequencies(
    params: cfg.ExperimentConfig,
    statistics: class_statistics.ClassStatistics,
    class_names: Mapping[int, str],
) -> str:
    data = params.task.train_data
    frequencies = statistics.frequencies
    data.class_frequencies = [float(share) for share in frequencies]
    factors = repeat_factors.of_classes(frequencies, data.repeat_threshold)
    images = repeat_factors.images_per_epoch(statistics, factors)
    epochs = params.trainer.train_steps * data.global_batch_size / images
    return (
        f"repeat factors: {_range(factors, frequencies > 0, class_names)}; the "
        f"{statistics.num_images} images make an epoch of about {images:.0f}, so the training has "
        f"{epochs:.1f} epochs"
    )


def _count(
    task: cfg.TaskConfig, asked_by: str, report: Callable[[str], None]
) -> class_statistics.ClassStatistics:
    data, num_classes = task.train_data, task.model.num_classes
    files = input_data.all_files(data.input_path)
    if not files:
        raise UsageError(
            f"{asked_by} needs the training images, but task.train_data.input_path is "
            f"{data.input_path!r}, and there are no such files; name them"
        )
    report(f"{asked_by}: counting the classes of the training images")
    try:
        statistics = class_statistics.of_records(files, data.file_type, num_classes, report)
    except tf.errors.OpError as error:
        raise UsageError(
            f"task.train_data.input_path={data.input_path}: {first_line(error)}"
        ) from error
    except ValueError as error:
        raise UsageError(f"task.train_data.input_path={data.input_path}: {error}") from error
    if not statistics.num_objects.any():
        raise UsageError(
            f"{asked_by} needs objects in the training images, but no record of "
            f"{data.input_path} has an image/object/class/label that is no crowd"
        )
    return statistics


def _range(values: np.ndarray, is_shown: np.ndarray, class_names: Mapping[int, str]) -> str:
    """Describes the smallest and the largest value of the classes that images show."""
    shown = sorted(np.flatnonzero(is_shown).tolist(), key=lambda label: values[label])
    least, most = (
        f"{values[label]:.3g} ({class_names.get(label, label)})" for label in (shown[0], shown[-1])
    )
    return f"from {least} to {most}"
