"""Time to the first step of the demos, in fresh processes; clones take turns.

python benchmarks/startup.py --repeats=3 CLONE OTHER_CLONE

Each training takes one step. A clone is a folder with `run.py`. For each one and each experiment it
prints the median seconds of the whole process: by the clock, and of computing, which depends less
on what else the machine does. It also prints the last line of `run.py` on where the time went; a
clone from before that line existed prints none.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

_REPEATS = flags.DEFINE_integer("repeats", 3, "How often to start each training.", lower_bound=1)
_EXPERIMENTS = flags.DEFINE_list(
    "experiments", ["libra_retinanet_demo", "libra_fasterrcnn_demo"], "What to train."
)
_CACHED = flags.DEFINE_bool(
    "cached", False, "Whether the images of shapes are already drawn and converted."
)
_ONE_STEP = (
    "trainer.train_steps=1,trainer.steps_per_loop=1,trainer.summary_interval=1,"
    "trainer.checkpoint_interval=1,trainer.validation_interval=1"
)


def _start(clone: str, experiment: str, cache: str | None) -> tuple[float, float, str]:
    """Trains one step; returns seconds by the clock and of computing, and what `run.py` says."""
    with tempfile.TemporaryDirectory() as folder:
        started, computed = time.monotonic(), _children_seconds()
        result = subprocess.run(
            [
                sys.executable,
                "run.py",
                "--mode=train",
                "--verbosity=1",
                f"--experiment={experiment}",
                f"--model_dir={folder}/model",
                f"--cache_dir={cache or folder + '/cache'}",
                f"--params_override={_ONE_STEP}",
            ],
            cwd=clone,
            env={**os.environ, "PYTHONPATH": os.path.abspath(clone)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started, _children_seconds() - computed
    if result.returncode:
        sys.exit(f"error: run.py of {clone} ended with {result.returncode}:\n{result.stderr}")
    lines = [line for line in result.stdout.splitlines() if line.startswith("time to the first")]
    return *seconds, "".join(lines)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(clones: list[str]) -> None:
    """Measures and prints."""
    clones = clones[1:] or ["."]
    with tempfile.TemporaryDirectory() as folder:
        # One for each: a version cannot always read what another has cached.
        caches = {
            clone: os.path.join(folder, str(number)) if _CACHED.value else None
            for number, clone in enumerate(clones)
        }
        for experiment in _EXPERIMENTS.value:
            if _CACHED.value:
                for clone in clones:
                    _start(clone, experiment, caches[clone])
            measured = [
                {clone: _start(clone, experiment, caches[clone]) for clone in clones}
                for _ in range(_REPEATS.value)
            ]
            for clone in clones:
                clock, computing, lines = zip(*(turn[clone] for turn in measured), strict=True)
                print(
                    f"{experiment}, {clone}: {statistics.median(clock):.1f} s by the clock, "
                    f"{statistics.median(computing):.1f} s of computing; {lines[-1]}",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
