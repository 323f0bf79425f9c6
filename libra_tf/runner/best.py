"""The best checkpoint of a run, and the end of a training that no longer gains."""

import os
from collections.abc import Mapping
from typing import Any

import orbit
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import train_utils

from libra_tf.cli.errors import UsageError
from libra_tf.runs.results import Results

_METRIC = "AP"


class NoGainError(Exception):
    """Ends a training from within Model Garden's loop; the message says since when."""


class BestCheckpointExporter(train_utils.BestCheckpointExporter):
    """Model Garden's exporter, but a checkpoint is named after its step, as in the run folder."""

    def maybe_export_checkpoint(
        self,
        checkpoint: tf.train.Checkpoint,
        eval_logs: Mapping[str, Any],
        global_step: int,
        write_logs: bool = True,
    ) -> bool:
        """Saves the checkpoint if it is the best so far; see base class.

        Raises:
          UsageError: if an evaluation does not measure what the config names.
        """
        name = self._metric_name[0]
        if name not in eval_logs:
            raise UsageError(
                f"trainer.best_checkpoint_eval_metric is {name}, which is not measured; choose one "
                f"of {', '.join(sorted(eval_logs))}"
            )
        if self._best_ckpt_logs is not None and name not in self._best_ckpt_logs:
            # The run was resumed with another metric, so none of its evaluations is the best.
            self._best_ckpt_logs = None
        return super().maybe_export_checkpoint(checkpoint, eval_logs, global_step, write_logs)

    def _get_checkpoint_manager(
        self, checkpoint: tf.train.Checkpoint
    ) -> tf.train.CheckpointManager:
        if self._checkpoint_manager is None:
            self._checkpoint_manager = _NumberedByStep(
                checkpoint, self._export_dir, max_to_keep=1, checkpoint_name="ckpt"
            )
        return self._checkpoint_manager


class _NumberedByStep(tf.train.CheckpointManager):
    def save(self) -> str | None:
        return super().save(checkpoint_number=self.checkpoint.global_step)


def exporter(params: cfg.ExperimentConfig, folder: str) -> BestCheckpointExporter | None:
    """Returns what keeps the best checkpoint; None if the config does not ask for it.

    Args:
      params: config of the run.
      folder: path of the run folder.
    """
    trainer = params.trainer
    if not (trainer.best_checkpoint_export_subdir and trainer.best_checkpoint_eval_metric):
        return None
    return BestCheckpointExporter(
        os.path.join(folder, trainer.best_checkpoint_export_subdir),
        trainer.best_checkpoint_eval_metric,
        trainer.best_checkpoint_metric_comp,
    )


def check_patience(patience: int, params: cfg.ExperimentConfig, mode: str) -> None:
    """Checks that a run evaluates often enough to end early.

    Args:
      patience: evaluations without a gain.
      params: config of the run.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if there are too few evaluations, or none while training.
    """
    trainer = params.trainer
    if mode != "train_and_eval":
        raise UsageError(
            f"--patience={patience} needs evaluations while it trains: use --mode=train_and_eval "
            f"instead of {mode}, or leave it out"
        )
    if trainer.validation_interval < 1:
        raise UsageError(
            f"trainer.validation_interval is {trainer.validation_interval}; with --patience it "
            "must be at least 1"
        )
    evaluations = trainer.train_steps // trainer.validation_interval
    if evaluations <= patience:
        raise UsageError(
            f"--patience={patience}: the run has only {evaluations} evaluations, so it cannot end "
            f"early. Evaluate more often: trainer.validation_interval is "
            f"{trainer.validation_interval} of {trainer.train_steps} steps"
        )


class StopWithoutGain(orbit.Action):
    """Ends a training when AP has not risen for some evaluations.

    All evaluations by the training count, those before it was resumed as well.

    Args:
      patience: how many evaluations without a gain end the training.
      results: the run's evaluations.
    """

    def __init__(self, patience: int, results: Results):
        self._patience = patience
        self._results = results

    def __call__(self, output: Mapping[str, Any] | None = None) -> None:
        """Checks the evaluations so far.

        Args:
          output: metrics of the last one; unused.

        Raises:
          NoGainError: if they have not gained for long enough.
        """
        del output
        best, since = self._best_and_since()
        if since >= self._patience:
            raise NoGainError(
                f"AP has not gained for {since} evaluations (--patience={self._patience}): the "
                f"best was {best[_METRIC]:.3f} at step {best['step']}"
            )

    def _best_and_since(self) -> tuple[Mapping[str, Any], int]:
        """Returns the best evaluation and how many have followed it."""
        # A finished training that is started again evaluates a step once more.
        by_step = {
            entry["step"]: entry
            for entry in self._results.evaluations
            if _METRIC in entry and entry.get("is_of_training", True)
        }
        evaluations = [by_step[step] for step in sorted(by_step)]
        # Of equals the first one: a training that stays where it is does not gain.
        best = max(range(len(evaluations)), key=lambda i: (evaluations[i][_METRIC], -i), default=-1)
        return (evaluations[best] if evaluations else {}), len(evaluations) - 1 - best
