"""Times detectors on the CPU with oneDNN and without it.

    python benchmarks/onednn.py --repeats=5
    python benchmarks/onednn.py --groups=libra_retinanet_lite0

By default, TensorFlow has it on where the CPU has instructions for neural networks, such as
AVX512_VNNI. It reads `TF_ENABLE_ONEDNN_OPTS` on import, so each contestant is a process of its own.
They take turns.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

import measuring  # isort: skip, sets what TensorFlow reads at import

import tensorflow as tf
from absl import flags
from official.core import exp_factory

import other_process
from building import prepare
from comparison import Comparison

EXPERIMENTS = (
    "libra_retinanet_demo",
    "libra_fasterrcnn_demo",
    "libra_retinanet_lite0",
    "libra_fasterrcnn_lite0",
)
_TRAINING_BATCH = 4

_MAKE_CALLS = flags.DEFINE_string(
    "make_calls", None, "For internal use: EXPERIMENT,train or EXPERIMENT,infer."
)


def comparisons(experiment: str) -> Iterator[Comparison]:
    """Yields the comparisons of the training step and of inference."""
    for kind, batch in (("train", _TRAINING_BATCH), ("infer", 1)):
        command = [sys.executable, __file__, f"--make_calls={experiment},{kind}"]
        contestants = {
            name: functools.partial(other_process.start, command, {"TF_ENABLE_ONEDNN_OPTS": value})
            for name, value in (("with oneDNN", "1"), ("without", "0"))
        }
        title = {"train": "training step", "infer": "inference"}[kind]
        yield Comparison(
            f"{title}, batch {batch}", contestants, other_processes=frozenset(contestants)
        )


def _make_calls(experiment: str, kind: str) -> None:
    """Makes a call for every line on standard input."""
    with contextlib.redirect_stdout(sys.stderr):
        call = _training_step(experiment) if kind == "train" else _inference(experiment)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(call(), flush=True)


def _training_step(experiment: str) -> Callable[[], float]:
    size = exp_factory.get_exp_config(experiment).task.model.input_size[0]
    task, params, batch = prepare(experiment, {}, True, _TRAINING_BATCH, size)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
    return lambda: float(step(batch)[task.loss])


def _inference(experiment: str) -> Callable[[], int]:
    size = exp_factory.get_exp_config(experiment).task.model.input_size[0]
    task, _, (images, labels) = prepare(experiment, {}, False, 1, size)
    shape = labels["image_info"][:, 1, :]
    model = task.build_model()
    infer = tf.function(
        lambda images: model(
            images, image_shape=shape, anchor_boxes=labels["anchor_boxes"], training=False
        )["num_detections"]
    )
    return lambda: int(infer(images)[0])


GROUPS = {name: functools.partial(comparisons, name) for name in EXPERIMENTS}

if __name__ == "__main__":
    flags.FLAGS(sys.argv, known_only=True)
    if _MAKE_CALLS.value:
        _make_calls(*_MAKE_CALLS.value.split(","))
    else:
        measuring.run(GROUPS, default=list(GROUPS))
