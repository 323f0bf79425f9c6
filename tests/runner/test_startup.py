"""What a run does before its first step, and no more of it than needed."""

import functools
import re
import time

import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory, train_utils
from official.utils.testing import mock_task

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf import compat
from libra_tf.runner import config, training
from libra_tf.runner.stages import Stages
from libra_tf.runner.startup import StartUp

pytestmark = pytest.mark.one_lane

BRANCHING = {"aug_type": {"type": "ssd_random_crop"}}
AUGMENTATIONS = [
    {"aug_type": {"type": "autoaug"}},
    {"aug_type": {"type": "randaug"}},
    pytest.param(
        BRANCHING,
        marks=pytest.mark.skipif(compat.IS_ADDONS_LANE, reason="new in Model Garden 2.20"),
    ),
]


class _Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class _CountingTask(mock_task.MockTask):
    """Model Garden's task of one layer; counts how often a step is built."""

    traces = 0

    def train_step(self, *args, **kwargs):
        self.traces += 1
        return super().train_step(*args, **kwargs)


def make_trainer(task, startup, enable_xla=False):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.task = mock_task.MockTaskConfig()
    params.runtime.enable_xla = enable_xla
    trainer_class = functools.partial(
        training.ReportingTrainer, _Silent(), _Silent(), _Silent(), startup, Stages()
    )
    return train_utils.create_trainer(
        params, task, train=True, evaluate=False, trainer_cls=trainer_class
    )


def test_a_step_is_traced_once():
    """With the recipes' optimizer, Adam, whose slots a step could create itself."""
    task = _CountingTask()
    trainer = make_trainer(task, StartUp())
    for _ in range(2):
        trainer.train(tf.constant(2))
    assert trainer.global_step.numpy() == trainer.optimizer.iterations.numpy() == 4
    assert task.traces == 1


@pytest.mark.parametrize("enable_xla", [False, True])
def test_xla_compiles_the_step_if_asked(enable_xla):
    """Model Garden ignores the key unless the number of GPUs is set, too."""
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        trainer = make_trainer(_CountingTask(), StartUp(), enable_xla)
    trainer.train(tf.constant(2))
    assert trainer.optimizer.iterations.numpy() == 2
    step = tf.function(trainer.train_step).get_concrete_function(iter(trainer.train_dataset))
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert any(node.attr["_XlaMustCompile"].b for node in nodes) == enable_xla


def test_the_parts_add_up(caplog):
    caplog.set_level("INFO", logger="absl")
    startup = StartUp()
    time.sleep(0.3)
    startup.mark("import")
    trainer = make_trainer(_CountingTask(), startup)
    for _ in range(2):
        trainer.train(tf.constant(2))
    (line,) = [text for text in caplog.messages if text.startswith("time to the first step")]
    total, parts, steps = re.fullmatch(
        r"time to the first step: ([\d.]+) s \((.*)\); first 2 steps: ([\d.]+) s", line
    ).groups()
    seconds = {name: float(number) for name, number in map(str.split, parts.split(", "))}
    assert list(seconds) == ["import", "detector", "inputs", "checkpoint", "tracing"]
    assert seconds["import"] >= 0.3
    assert sum(seconds.values()) == pytest.approx(float(total), abs=0.05 * (1 + len(seconds)))
    assert float(steps) < 60


@pytest.mark.slow
@pytest.mark.parametrize("parser", AUGMENTATIONS)
def test_inputs_whose_augmentation_branches_on_tensors(parser, tiny_shapes):
    """AutoGraph converts where it must: Model Garden's SSD crop does not work without."""
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    config.use_dataset(params, tiny_shapes)
    params.task.override({"train_data": {"parser": parser, "global_batch_size": 2}})
    task = task_factory.get_task(params.task)
    trainer = object.__new__(training.ReportingTrainer)
    trainer._strategy = tf.distribute.get_strategy()
    dataset = trainer.distribute_dataset(task.build_inputs, params.task.train_data)
    images, _ = next(iter(dataset))
    assert images.shape == [2, 128, 128, 3]
