import pytest
import tensorflow as tf
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.runner import session
from libra_tf.runner.errors import UsageError


@pytest.mark.parametrize("name", ["train_data", "validation_data"])
@pytest.mark.parametrize("batch_size", [0, 3])
def test_a_batch_that_does_not_divide_over_the_replicas(name, batch_size):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    session._check_batch_sizes(params, strategy)
    getattr(params.task, name).global_batch_size = batch_size
    with pytest.raises(UsageError, match=rf"task\.{name}\.global_batch_size is {batch_size}.*of 2"):
        session._check_batch_sizes(params, strategy)
