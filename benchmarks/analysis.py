"""Measures what the training histograms (task.analysis) add to the time of a step.

    python benchmarks/analysis.py --repeats=30

Three steps take turns: one that counts, one that could count but does not, and a plain one. Times
are processor time of all threads, which other work on the machine affects less than wall time. At
the default interval of 100, a training pays a hundredth of the extra time of a counting step. The
experiments are the demos, as they train on two CPU cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import statistics
import tempfile
import time

import tensorflow as tf
from absl import app, flags
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli import quiet
from libra_tf.data import make_shapes, prepare_coco_folder
from libra_tf.runner.config import use_dataset

_REPEATS = flags.DEFINE_integer("repeats", 30, "Calls per step.", lower_bound=1)
_DETECTORS = flags.DEFINE_multi_enum(
    "detectors", ["retinanet", "fasterrcnn"], ["retinanet", "fasterrcnn"], "What to measure."
)

ANALYSIS = {
    "plain": {"enabled": False},
    # The branch exists, but is not taken after the first step.
    "not counting": {"enabled": True, "interval": 10**6},
    "counting": {"enabled": True, "interval": 1},
}


def main(_):
    """Prints one line per step and detector."""
    quiet.silence_libraries()
    for detector in _DETECTORS.value:
        steps = {name: _training_step(detector, analysis) for name, analysis in ANALYSIS.items()}
        for step in steps.values():
            for _ in range(3):
                step()
        seconds = {name: [] for name in steps}
        for _ in range(_REPEATS.value):
            for name, step in steps.items():
                start = time.process_time()
                step()
                seconds[name].append(time.process_time() - start)
        plain = statistics.median(seconds["plain"])
        for name, times in seconds.items():
            median = statistics.median(times)
            print(f"{detector}, {name}: {1e3 * median:.1f} ms, {median / plain - 1:+.1%}")


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


if __name__ == "__main__":
    app.run(main)
