"""Stops training when a loss is not finite or absurdly large, on SIGTERM and on Ctrl-C."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbit
import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.cli.errors import PreemptedError, TrainingError
from libra_tf.runner import cluster
from libra_tf.runs.folder import RunFolder

# The name of the total loss in Model Garden's trainer.
_LOSS = "training_loss"


class StopOnBadLoss(orbit.Action):
    """Stops training after a loop of steps with a loss that is NaN, infinite or beyond a bound.

    The state is saved separately from the checkpoints, so the same command continues from the last
    good checkpoint. Model Garden's own check ends in a traceback, so this one must come first.

    Args:
      folder: the run folder; the state is saved in its subfolder `diverged/`.
      checkpoint: the state to save.
      global_step: the training step.
      trainer: config of the training. Its `recovery_max_trials` says how many bad losses to leave
        to Model Garden, which then goes back to the newest checkpoint; below 0, there is no bound.
    """

    def __init__(
        self,
        folder: RunFolder,
        checkpoint: tf.train.Checkpoint,
        global_step: tf.Variable,
        trainer: cfg.TrainerConfig,
    ):
        self._folder = folder
        self._checkpoint = checkpoint
        self._global_step = global_step
        self._bound = trainer.loss_upper_bound if trainer.recovery_max_trials >= 0 else math.inf
        self._bound_from = trainer.recovery_begin_steps
        self._trials_left = max(0, trainer.recovery_max_trials)

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Checks the losses of a loop.

        Args:
          output: metrics of the loop by name.

        Raises:
          TrainingError: if any of them is bad, and there is no trial left.
        """
        step = int(self._global_step.numpy())
        bad = list(self._problems(output, step))
        if not bad:
            return
        if self._trials_left:
            self._trials_left -= 1
            return
        saved = self._checkpoint.write(self._folder.file(os.path.join("diverged", f"step-{step}")))
        raise TrainingError(
            f"training diverged by step {step}: {', '.join(bad)}. The state was saved to {saved}. "
            "Use a lower learning rate, a longer warm-up or gradient clipping "
            "(trainer.optimizer_config), and rerun: training continues from the last checkpoint"
        )

    def _problems(self, output: Mapping[str, Any], step: int) -> Iterator[str]:
        values = {name: float(value) for name, value in output.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                yield f"{name} is {value}"
        loss = values[_LOSS]
        if self._bound < loss < math.inf and step >= self._bound_from:
            yield f"{_LOSS} is {loss:g}, above trainer.loss_upper_bound={self._bound:g}"


class StopWhenTold(orbit.Action):
    """Stops the process on SIGTERM and Ctrl-C: at once, or where it can save its state next.

    Args:
      strategy: strategy of the training. All its processes stop together.
      say: prints a line for the user; libraries' output is redirected meanwhile.
    """

    def __init__(self, strategy: tf.distribute.Strategy, say: Callable[[str], None] = print):
        self._strategy = strategy
        self._say = say
        self._status: int | None = None
        self._saves_first = False
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._interrupt)

    def _terminate(self, signal_number: int, frame: Any) -> None:
        del signal_number, frame
        self._status = PreemptedError.TERMINATED
        if not self._saves_first:
            raise PreemptedError("stopped before finishing; rerun the same command to resume")

    def _interrupt(self, signal_number: int, frame: Any) -> None:
        del signal_number, frame
        if not self._saves_first or self._status is not None:
            raise KeyboardInterrupt
        self._status = PreemptedError.INTERRUPTED
        self._say("stopping after this loop of steps; Ctrl-C again stops without saving")

    @contextlib.contextmanager
    def saving_first(self) -> Iterator[None]:
        """Delays the stop while the block runs.

        The block must call this object wherever its state can be saved.
        """
        self._saves_first = True
        try:
            yield
        finally:
            self._saves_first = False

    def __call__(self, output: Any = None) -> None:
        """Stops the block if any process has received a signal.

        Args:
          output: result of a loop of steps or of an evaluation; unused.

        Raises:
          PreemptedError: if any process has received a signal.
        """
        del output
        if cluster.any_worker(self._strategy, self._status is not None):
            raise PreemptedError(status=self._status or PreemptedError.TERMINATED)
