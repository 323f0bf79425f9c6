"""Times what the histograms of a training (task.analysis) cost a step.

    python benchmarks/analysis.py --repeats=20 --memory=false

A step that counts, one that could but does not, and a plain one. At the default interval of 100 a
training pays a hundredth of what a counting step takes longer. The demo experiments, as they train
on two CPU cores.
"""

import functools
import tempfile

import measuring  # isort: skip, sets what TensorFlow reads at its import

import tensorflow as tf
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from comparison import Comparison
from libra_tf.data import make_shapes, prepare_coco_folder
from libra_tf.runner.config import use_dataset

ANALYSIS = {
    "plain": {"enabled": False},
    # The branch is there and, after the first step, not taken.
    "not counting": {"enabled": True, "interval": 10**6},
    "counting": {"enabled": True, "interval": 1},
}


def comparisons(detector):
    """Yields the training step of a detector."""
    contestants = {
        name: functools.partial(_training_step, detector, analysis)
        for name, analysis in ANALYSIS.items()
    }
    yield Comparison("training step, batch 8", contestants)


def _training_step(detector, analysis):
    params = exp_factory.get_exp_config(f"libra_{detector}_demo")
    with tempfile.TemporaryDirectory() as folder:
        shapes = make_shapes(f"{folder}/shapes", 16, 4, 128, report=str)
        use_dataset(params, prepare_coco_folder(shapes, f"{folder}/cache", report=str))
        params.task.override({"analysis": analysis})
        task = task_factory.get_task(params.task)
        batch = next(iter(task.build_inputs(params.task.train_data)))
    model = task.build_model()
    task.build_metrics(training=True)
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer)[task.loss])
    return lambda: float(step(batch))


GROUPS = {name: functools.partial(comparisons, name) for name in ("retinanet", "fasterrcnn")}

if __name__ == "__main__":
    measuring.run(GROUPS, default=list(GROUPS))
