"""The same images give the same losses and weights on one device and on two."""

import numpy as np
import orbit
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from tensorflow.python.framework import config as tf_config

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.runner.config import use_dataset

pytestmark = pytest.mark.slow

STEPS = 3
RTOL = 1e-5
ATOL = 5e-6


@pytest.fixture
def determinism():
    tf.config.experimental.enable_op_determinism()
    yield
    tf_config.disable_op_determinism()


def configure(experiment, dataset):
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, dataset)
    model = params.task.model
    model.input_size = [64, 64, 3]
    model.backbone.resnet.model_id = 10
    model.backbone.resnet.depth_multiplier = 0.25
    model.decoder.libra_fpn.num_filters = 16
    # Statistics of a replica's own images would be others.
    model.norm_activation.use_sync_bn = True
    params.task.train_data.global_batch_size = 4
    return params


def train(params, strategy):
    """Takes some steps; returns the losses of each step and the weights by name."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        task = task_factory.get_task(params.task)
        model = task.build_model()
        optimizer = keras.optimizers.legacy.SGD(0.01, momentum=0.9)
        optimizer.iterations = orbit.utils.create_global_step()
    data = iter(
        orbit.utils.make_distributed_dataset(strategy, task.build_inputs, params.task.train_data)
    )

    @tf.function
    def step(inputs):
        logs = strategy.run(lambda x: task.train_step(x, model, optimizer), args=(inputs,))
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, logs[task.loss], axis=None)

    losses = [float(step(next(data))) for _ in range(STEPS)]
    return losses, [(variable.name, variable.numpy()) for variable in model.trainable_variables]


@pytest.mark.parametrize("experiment", ["libra_retinanet_demo", "libra_fasterrcnn_demo"])
def test_two_devices_are_as_good_as_one(experiment, determinism, two_devices, tiny_shapes):
    params = configure(experiment, tiny_shapes)
    losses, weights = train(params, tf.distribute.OneDeviceStrategy("/cpu:0"))
    mirrored_losses, mirrored_weights = train(params, two_devices)
    np.testing.assert_allclose(mirrored_losses, losses, rtol=RTOL)
    for (name, expected), (_, actual) in zip(weights, mirrored_weights, strict=True):
        np.testing.assert_allclose(actual, expected, atol=ATOL, err_msg=name)
