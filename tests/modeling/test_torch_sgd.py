"""PyTorch's SGD, against PyTorch."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from official.modeling.optimization import OptimizerFactory

from libra_tf.compat import keras
from libra_tf.configs import optimization
from libra_tf.modeling.torch_sgd import TorchSGD

pytestmark = pytest.mark.one_lane

RATES = (0.01, 0.03, 0.1, 0.1, 0.01, 0.001)
# In a process of its own: PyTorch's optimizers and TensorFlow cannot be imported together.
PYTORCH = """
import json, sys
import torch

start, rates, momentum, clip_norm = json.loads(sys.argv[1])
weights = [torch.nn.Parameter(torch.tensor(row)) for row in start]
optimizer = torch.optim.SGD(weights, lr=1.0, momentum=momentum, weight_decay=0.1)
trained = []
for step, rate in enumerate(rates):
    optimizer.param_groups[0]["lr"] = rate
    for weight in weights:
        weight.grad = torch.sin(3 * weight.detach() + step)
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()
    trained.append([weight.tolist() for weight in weights])
print(json.dumps(trained))
"""


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize(
    ("momentum", "clip_norm"),
    [
        (0.9, 0.5),
        pytest.param(0.0, None, marks=pytest.mark.slow),
        pytest.param(0.9, None, marks=pytest.mark.slow),
    ],
)
def test_same_weights_as_pytorch(momentum, clip_norm):
    start = np.random.default_rng(0).normal(size=[2, 5]).astype(np.float32)
    task = json.dumps([start.tolist(), RATES, momentum, clip_norm])
    printed = subprocess.run(
        [sys.executable, "-c", PYTORCH, task], check=True, capture_output=True, text=True
    ).stdout
    variables = [tf.Variable(row) for row in start]
    clip = {} if clip_norm is None else {"global_clipnorm": clip_norm}
    optimizer = TorchSGD(momentum=momentum, weight_decay=0.1, **clip)
    for step, expected in enumerate(json.loads(printed)):
        optimizer.learning_rate = RATES[step]
        # The gradient depends on the weights, so that errors add up.
        gradients = [tf.sin(3 * variable + step) for variable in variables]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for variable, row in zip(variables, expected, strict=True):
            np.testing.assert_allclose(variable, row, rtol=2e-5, atol=1e-6)


def test_differs_from_keras_when_the_rate_changes():
    variables = [tf.Variable([1.0]), tf.Variable([1.0])]
    optimizers = [
        TorchSGD(1.0, momentum=0.9, weight_decay=0.0),
        keras.optimizers.legacy.SGD(1.0, momentum=0.9),
    ]
    for rate in (1.0, 0.1):
        for optimizer, variable in zip(optimizers, variables, strict=True):
            optimizer.learning_rate = rate
            optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    np.testing.assert_allclose(variables[0], [1 - 1 - 0.1 * 1.9], rtol=1e-6)
    np.testing.assert_allclose(variables[1], [1 - 1 - (0.9 + 0.1)], atol=1e-6)


def test_model_gardens_factory_builds_it():
    config = optimization.OptimizationConfig(
        {
            "optimizer": {"type": "torch_sgd", "torch_sgd": {"global_clipnorm": 35.0}},
            "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.5}},
        }
    )
    optimization.check_optimizer(config.optimizer, "optimizer")
    factory = OptimizerFactory(config)
    optimizer = factory.build_optimizer(factory.build_learning_rate())
    assert isinstance(optimizer, TorchSGD)
    again = TorchSGD.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert (again.weight_decay, again.global_clipnorm) == (1e-4, 35.0)
