"""Prepares a detector, ours or Model Garden's own, with a batch of drawn images, and its calls."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import base_task, exp_factory, task_factory
from official.core import config_definitions as cfg

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf import precision
from libra_tf.compat import keras
from libra_tf.data import make_shapes, prepare_coco_folder
from libra_tf.runner.config import use_dataset

NUM_CLASSES = 91
RANDOM_SAMPLING = {"roi_sampler": {"type": "random"}}
# What turns a Libra experiment into Model Garden's own detector.
SWITCHES_OFF = {
    "retinanet": {
        "model": {"decoder": {"type": "fpn"}},
        "losses": {"box_loss": "huber", "box_loss_weight": 50},
    },
    "fasterrcnn": {
        "model": {"decoder": {"type": "fpn"}, **RANDOM_SAMPLING},
        "losses": {"box_loss": "huber"},
    },
}
SWITCHES_OFF["cascadercnn"] = SWITCHES_OFF["fasterrcnn"]


def prepare(
    experiment: str,
    switches: Mapping[str, Any],
    is_training: bool,
    batch_size: int,
    input_size: int,
    dtype: str = "float32",
) -> tuple[base_task.Task, cfg.ExperimentConfig, tuple[tf.Tensor, dict[str, Any]]]:
    """Prepares an experiment with random weights; its model is still to be built.

    Args:
      experiment: name of the experiment.
      switches: overrides for `task` in its config.
      is_training: whether the batch is for training or for validation.
      batch_size: images in the batch, at most 4.
      input_size: height and width of the input in pixels.
      dtype: of the images.

    Returns:
      The task, the experiment's config and one batch.
    """
    params = exp_factory.get_exp_config(experiment)
    with tempfile.TemporaryDirectory() as folder:
        shapes = make_shapes(f"{folder}/shapes", 4, 4, input_size, report=str)
        use_dataset(params, prepare_coco_folder(shapes, f"{folder}/cache", report=str))
        task_config = params.task
        task_config.override(switches)
        task_config.model.num_classes = NUM_CLASSES
        task_config.model.input_size = [input_size, input_size, 3]
        task_config.init_checkpoint = None
        data = task_config.train_data if is_training else task_config.validation_data
        data.global_batch_size, data.dtype = batch_size, dtype
        keras.utils.set_random_seed(0)
        task = task_factory.get_task(task_config)
        return task, params, next(iter(task.build_inputs(data)))


def training_step(
    experiment: str,
    switches: Mapping[str, Any],
    batch_size: int,
    input_size: int,
    computed_in: precision.Precision,
) -> Callable[[], float]:
    """Returns a function that takes a training step and returns the loss; it is traced already.

    Args:
      experiment: see `prepare`.
      switches: see `prepare`.
      batch_size: see `prepare`.
      input_size: see `prepare`.
      computed_in: what the network computes in.
    """
    task, params, batch = prepare(
        experiment, switches, True, batch_size, input_size, computed_in.dtype
    )
    with precision.computing_in(computed_in.policy):
        model = task.build_model()
        optimizer = task.create_optimizer(params.trainer.optimizer_config)
        step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
        step.get_concrete_function(batch)
    return lambda: float(step(batch)[task.loss])


def inference(
    experiment: str,
    switches: Mapping[str, Any],
    input_size: int,
    computed_in: precision.Precision,
    batch_size: int = 1,
) -> Callable[[], np.ndarray]:
    """Returns a function that detects in a batch and returns the boxes; it is traced already.

    Args:
      experiment: see `prepare`.
      switches: see `prepare`.
      input_size: see `prepare`.
      computed_in: what the network computes in.
      batch_size: see `prepare`.
    """
    task, _, (images, labels) = prepare(
        experiment, switches, False, batch_size, input_size, computed_in.dtype
    )
    shape = labels["image_info"][:, 1, :]
    with precision.computing_in(computed_in.policy):
        model = task.build_model()
        infer = tf.function(
            lambda images: model(
                images, image_shape=shape, anchor_boxes=labels["anchor_boxes"], training=False
            )["detection_boxes"]
        )
        infer.get_concrete_function(images)
    return lambda: infer(images).numpy()
