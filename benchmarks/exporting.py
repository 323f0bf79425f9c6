"""Exports of runs with random weights."""

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf import precision
from libra_tf.compat import keras
from libra_tf.runs.folder import RunFolder
from libra_tf.serving import images, saved_model


def export_run(
    folder: str,
    experiment: str,
    overrides: Mapping[str, Any],
    with_detections: bool = False,
    max_pixels: int | None = None,
    computed_in: str = precision.FLOAT32,
) -> str:
    """Writes the folder of a run with one checkpoint of random weights, and exports it.

    Args:
      folder: where to write `run` and `served`. An existing export is used again, whatever version
        of the code wrote it: delete the folder after any change of the code.
      experiment: name of the experiment.
      overrides: overrides for `task` in its config.
      with_detections: whether to make the weights of the heads large enough for scores of all
        sizes. With the usual initial weights, no score is above the threshold.
      max_pixels: refuse images with more pixels; None for the default limit.
      computed_in: the precision of the exported network.

    Returns:
      The folder of the model's only version.
    """
    version = os.path.join(folder, "served", "1")
    if os.path.exists(version):
        return version
    params = exp_factory.get_exp_config(experiment)
    params.task.override({"init_checkpoint": None, "annotation_file": None, **overrides})
    run = os.path.join(folder, "run")
    names = {i: f"class {i}" for i in range(1, params.task.model.num_classes)}
    RunFolder(run).write_config(experiment, params, names)
    keras.utils.set_random_seed(0)
    model = task_factory.get_task(params.task).build_model()
    if with_detections:
        for i, variable in enumerate(model.trainable_variables):
            if "head" in variable.name and "kernel" in variable.name:
                variable.assign(tf.random.stateless_normal(variable.shape, [0, i], stddev=0.1))
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), run, 1).save()
    return saved_model.export(
        run,
        os.path.dirname(version),
        max_pixels=max_pixels or images.MAX_PIXELS,
        report=str,
        asked_precision=computed_in,
    )
