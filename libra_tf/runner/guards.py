"""What stops a training: a loss that is not finite, and SIGTERM."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import orbit
import tensorflow as tf

from libra_tf.cli.errors import PreemptedError, TrainingError
from libra_tf.runner import cluster
from libra_tf.runs.folder import RunFolder


class StopOnBadLoss(orbit.Action):
    """Stops training when a loss is NaN or infinite, after each loop of steps.

    The state is saved apart from the checkpoints, so that the same command continues from the last
    good one.

    Args:
      folder: of the run; the state is saved in `diverged/` below it.
      checkpoint: what to save.
      global_step: the training step.
    """

    def __init__(
        self, folder: RunFolder, checkpoint: tf.train.Checkpoint, global_step: tf.Variable
    ):
        self._folder = folder
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
        saved = self._checkpoint.write(self._folder.file(os.path.join("diverged", f"step-{step}")))
        raise TrainingError(
            f"training diverged by step {step}: {', '.join(bad)}. The state is saved as {saved}. "
            "Lower the learning rate, lengthen the warmup or clip the gradients "
            "(trainer.optimizer_config), and rerun: training continues from the last checkpoint"
        )


class StopOnTermination(orbit.Action):
    """Ends the process on SIGTERM: at once, or where a training can be saved.

    Args:
      strategy: of the training; all of its processes end together.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._is_told_to_stop = False
        self._saves_first = False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, signal_number: int, frame: Any) -> None:
        del signal_number, frame
        self._is_told_to_stop = True
        if not self._saves_first:
            raise PreemptedError("stopped before finishing; rerun the same command to resume")

    @contextlib.contextmanager
    def saving_first(self) -> Iterator[None]:
        """Lets the block end where it can be saved: it calls this object there."""
        self._saves_first = True
        try:
            yield
        finally:
            self._saves_first = False

    def __call__(self, output: Any = None) -> None:
        """Ends the block if one of the processes has received the signal.

        Args:
          output: of a loop of steps or an evaluation; not used.

        Raises:
          PreemptedError: if it has.
        """
        del output
        if cluster.any_worker(self._strategy, self._is_told_to_stop):
            raise PreemptedError
