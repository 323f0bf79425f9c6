"""What watches over a training: losses that are not finite, SIGTERM, damaged checkpoints."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbit
import tensorflow as tf

from libra_tf.cli.errors import PreemptedError, TrainingError
from libra_tf.initial_weights import checkpoint_files
from libra_tf.runner import cluster


class StopOnBadLoss(orbit.Action):
    """Stops training when a loss is NaN or infinite, after each loop of steps.

    The state is saved apart from the checkpoints, so that the same command goes on from the last
    good one.

    Args:
      model_dir: where to save.
      checkpoint: what to save.
      global_step: the training step.
    """

    def __init__(self, model_dir: str, checkpoint: tf.train.Checkpoint, global_step: tf.Variable):
        self._model_dir = model_dir
        self._checkpoint = checkpoint
        self._global_step = global_step

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Checks the losses of a loop.

        Args:
          output: metrics of the loop by name.

        Raises:
          TrainingError: if one of them is not finite.
        """
        values = {name: float(value) for name, value in output.items()}
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        step = int(self._global_step.numpy())
        saved = self._checkpoint.write(os.path.join(self._model_dir, "diverged", f"step-{step}"))
        raise TrainingError(
            f"training diverged by step {step}: {', '.join(bad)}. The state is saved as {saved}. "
            "Lower the learning rate, lengthen the warmup or clip the gradients "
            "(trainer.optimizer_config), and start again: training goes on from the last checkpoint"
        )


class StopOnTermination(orbit.Action):
    """Ends the process that is sent SIGTERM: at once, or where a training can be saved.

    Args:
      strategy: of the training; all of its processes end together.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._is_asked_to_end = False
        self._saves_first = False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, signal_number: int, frame: Any) -> None:
        del signal_number, frame
        self._is_asked_to_end = True
        if not self._saves_first:
            raise PreemptedError("asked to end before all was done; give the same command again")

    @contextlib.contextmanager
    def saving_first(self) -> Iterator[None]:
        """Leaves it to the block to end when it can be saved, by calling this object."""
        self._saves_first = True
        try:
            yield
        finally:
            self._saves_first = False

    def __call__(self, output: Any = None) -> None:
        """Ends the block if the signal has come to one of the processes.

        Args:
          output: of a loop of steps or an evaluation; not used.

        Raises:
          PreemptedError: if the signal has come.
        """
        del output
        if cluster.any_worker(self._strategy, self._is_asked_to_end):
            raise PreemptedError


def set_damaged_checkpoints_aside(model_dir: str, report: Callable[[str], None]) -> None:
    """Moves the newest checkpoints away until one of them can be read.

    Args:
      model_dir: folder of the run.
      report: is given a line for each that is moved.
    """
    state = tf.train.get_checkpoint_state(model_dir)
    paths = list(state.all_model_checkpoint_paths) if state else []
    while paths and (damage := checkpoint_files.damage(paths[-1])):
        path = paths.pop()
        aside = os.path.join(model_dir, "damaged")
        tf.io.gfile.makedirs(aside)
        for file in tf.io.gfile.glob(f"{path}.*"):
            tf.io.gfile.rename(file, os.path.join(aside, os.path.basename(file)), overwrite=True)
        previous = paths[-1] if paths else None
        _write_state(model_dir, paths)
        report(
            f"checkpoint {path} is damaged ({damage}); it is now in {aside}, and training goes on "
            + (f"from {previous}" if previous else "from the start")
        )


def _write_state(model_dir: str, paths: list[str]) -> None:
    if paths:
        tf.compat.v1.train.update_checkpoint_state(model_dir, paths[-1], paths)
    else:
        tf.io.gfile.remove(os.path.join(model_dir, "checkpoint"))
