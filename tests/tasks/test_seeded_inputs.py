"""The training data of a seeded run are the same every time."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from tensorflow.python.framework import config as tf_config

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.runner.config import use_dataset

pytestmark = pytest.mark.one_lane


@pytest.fixture
def determinism():
    tf.config.experimental.enable_op_determinism()
    yield
    tf_config.disable_op_determinism()


@pytest.mark.parametrize("experiment", ["libra_retinanet_demo", "libra_fasterrcnn_demo"])
def test_same_seed_same_data(experiment, determinism, tiny_shapes):
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, tiny_shapes)
    assert params.task.train_data.parser.aug_rand_hflip
    params.task.train_data.parser.aug_scale_min = 0.5
    params.task.train_data.global_batch_size = 4

    def draw(seed):
        keras.utils.set_random_seed(seed)
        dataset = task_factory.get_task(params.task).build_inputs(params.task.train_data)
        return [tf.nest.flatten(batch) for batch in dataset.take(3)]

    first, again, other = draw(1), draw(1), draw(2)
    for batch, same in zip(first, again, strict=True):
        for tensor, same_tensor in zip(batch, same, strict=True):
            np.testing.assert_array_equal(tensor, same_tensor)
    assert not np.array_equal(first[0][0], other[0][0])
