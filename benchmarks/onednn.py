"""Times detectors on the CPU with oneDNN, as `run.py` has it, and without it.

    python benchmarks/onednn.py --repeats=5
    python benchmarks/onednn.py --groups=libra_retinanet_lite0

By default, TensorFlow has it on where the CPU has instructions for neural networks, such as
AVX512_VNNI. Elsewhere `run.py` switches it on, without fusing convolutions with what follows them
(`libra_tf/runner/onednn.py`). TensorFlow reads `TF_ENABLE_ONEDNN_OPTS` on import, so each
contestant is a process of its own. They take turns.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator

import measuring  # isort: skip, sets what TensorFlow reads at import

from absl import app, flags
from official.core import exp_factory

import other_process
from building import inference, training_step
from comparison import Comparison
from libra_tf import precision
from libra_tf.runner import onednn

EXPERIMENTS = (
    "libra_retinanet_demo",
    "libra_fasterrcnn_demo",
    "libra_retinanet_lite0",
    "libra_fasterrcnn_lite0",
)
# What is timed, and the number of images.
_KINDS = {"training step": 4, "inference": 4, "inference on one image": 1}
_CONTESTANTS = {"as run.py": "1", "with fusion": "1", "without oneDNN": "0"}

_MAKE_CALLS = flags.DEFINE_string(
    "make_calls", None, "For internal use: EXPERIMENT,KIND,CONTESTANT."
)


def comparisons(experiment: str) -> Iterator[Comparison]:
    """Yields the comparisons of the training step and of inference."""
    for kind, batch_size in _KINDS.items():
        contestants = {
            name: functools.partial(
                other_process.start,
                [sys.executable, __file__, f"--make_calls={experiment},{kind},{name}"],
                {"TF_ENABLE_ONEDNN_OPTS": value},
            )
            for name, value in _CONTESTANTS.items()
        }
        yield Comparison(
            f"{kind}, batch {batch_size}", contestants, other_processes=frozenset(contestants)
        )


def _make_calls(_: list[str]) -> None:
    """Makes a call for every line on standard input."""
    experiment, kind, contestant = _MAKE_CALLS.value.split(",")
    if contestant == "as run.py":
        onednn.keep_convolutions_apart()
    size = exp_factory.get_exp_config(experiment).task.model.input_size[0]
    computed_in = precision.choose(precision.FLOAT32, "this benchmark")
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "training step":
            call = training_step(experiment, {}, _KINDS[kind], size, computed_in)
        else:
            call = inference(experiment, {}, size, computed_in, _KINDS[kind])
    print("ready", flush=True)
    for _ in sys.stdin:
        call()
        print("done", flush=True)


GROUPS = {name: functools.partial(comparisons, name) for name in EXPERIMENTS}

if __name__ == "__main__":
    # Flags are not parsed before app.run, which says in a line what is wrong with one.
    if any(argument.startswith("--make_calls=") for argument in sys.argv):
        app.run(_make_calls)
    else:
        measuring.run(GROUPS, default=list(GROUPS))
