"""Runs with random weights, and what is exported of them."""

import os

import tensorflow as tf
from official.core import exp_factory, task_factory, train_utils

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.runs import trained_run
from libra_tf.serving import images, saved_model


def export_run(folder, experiment, overrides, with_detections=False, max_pixels=None):
    """Writes a run with one checkpoint of random weights, and exports it.

    Args:
      folder: gets `run` and `served`; nothing is done if it is there.
      experiment: name of the experiment.
      overrides: for `task` of its config.
      with_detections: whether to make the heads' weights so large that scores of all sizes come
        out, where the usual start of a training has none above the threshold.
      max_pixels: images with more are refused; None for the usual limit.

    Returns:
      The folder of the model's only version.
    """
    version = os.path.join(folder, "served", "1")
    if os.path.exists(version):
        return version
    params = exp_factory.get_exp_config(experiment)
    params.task.override({"init_checkpoint": None, "annotation_file": None, **overrides})
    run = os.path.join(folder, "run")
    train_utils.serialize_config(params, run)
    names = {i: f"class {i}" for i in range(1, params.task.model.num_classes)}
    trained_run.write_class_names(run, names)
    keras.utils.set_random_seed(0)
    model = task_factory.get_task(params.task).build_model()
    if with_detections:
        for i, variable in enumerate(model.trainable_variables):
            if "head" in variable.name and "kernel" in variable.name:
                variable.assign(tf.random.stateless_normal(variable.shape, [0, i], stddev=0.1))
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), run, 1).save()
    return saved_model.export(
        run, os.path.dirname(version), max_pixels=max_pixels or images.MAX_PIXELS, report=str
    )
