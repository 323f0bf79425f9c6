"""Trains and evaluates an experiment with Model Garden's runner, showing progress."""

import functools
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import base_trainer, task_factory, train_lib, train_utils
from official.core import config_definitions as cfg
from official.vision.utils import summary_manager

from libra_tf.modeling import optimizers
from libra_tf.modeling.checkpoint_files import CheckpointError
from libra_tf.runner import cluster, guards
from libra_tf.runner.errors import PreemptedError, UsageError
from libra_tf.runner.progress import Progress
from libra_tf.runner.results import Results


class ReportingTrainer(base_trainer.Trainer):
    """Model Garden's trainer that reports progress and records every evaluation.

    Args:
      progress: where to report.
      results: where to record.
      model_dir: folder of the run.
      replays_data: whether a training that goes on from a checkpoint first reads past the data
        that it has used, as an uninterrupted one would have.
      *args: arguments of Model Garden's `Trainer`.
      **kwargs: arguments of Model Garden's `Trainer`.
    """

    def __init__(
        self,
        progress: Progress,
        results: Results,
        model_dir: str,
        replays_data: bool,
        *args,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._model_dir = model_dir
        self._replays_data = replays_data
        self._progress = progress
        self._results = results
        self._is_training = False
        self._training_seconds = 0.0
        self._trained_steps = 0
        if optimizers.has_averages(self.optimizer):
            # Made now, so that a checkpoint restores them before an evaluation without training.
            self.optimizer._create_all_weights(self.model.trainable_variables)

    def initialize(self) -> None:
        """Goes on from the run's newest checkpoint, or starts from `task.init_checkpoint`.

        It is called where there is no checkpoint in a process's own folder. All processes but the
        chief have one of their own, in which there is never any at the start.
        """
        newest = tf.train.latest_checkpoint(self._model_dir)
        if newest:
            self.checkpoint.restore(newest).expect_partial()
            return
        try:
            super().initialize()
        except CheckpointError as error:
            raise UsageError(f"task.init_checkpoint: {error}") from error
        report = getattr(self.task, "initialization_report", None)
        if report:
            self._progress.note(report.summary())

    def train_loop_begin(self) -> None:
        """See base class."""
        super().train_loop_begin()
        if self._replays_data and self._train_iter is None:
            self._replay_data()
        if not self._is_training:
            self._is_training = True
            self._progress.start(
                "training", self.config.trainer.train_steps, int(self.global_step.numpy())
            )
        self._loop_started = (time.monotonic(), int(self.global_step.numpy()))

    def _replay_data(self) -> None:
        self._train_iter = iter(self.train_dataset)
        step = int(self.global_step.numpy())
        self._progress.start("reading past the data already used", step)
        for done in range(1, step + 1):
            next(self._train_iter)
            if done % self.config.trainer.steps_per_loop == 0 or done == step:
                self._progress.advance(done, images=self.config.task.train_data.global_batch_size)

    def train_loop_end(self) -> Mapping[str, Any]:
        """See base class."""
        logs = super().train_loop_end()
        step = int(self.global_step.numpy())
        started, first_step = self._loop_started
        self._training_seconds += time.monotonic() - started
        self._trained_steps += step - first_step
        self._progress.advance(
            step,
            images=self.config.task.train_data.global_batch_size,
            loss=float(logs[self.train_loss.name]),
        )
        return logs

    def eval_begin(self) -> None:
        """See base class."""
        super().eval_begin()
        self._swap_averages()
        self._is_training = False
        self._eval_started = time.monotonic()
        self._eval_batches = 0
        total = self.config.trainer.validation_steps
        self._progress.start("evaluating", total if total > 0 else None, unit="batch")

    def eval_reduce(self, state: Any = None, step_outputs: Any = None) -> Any:
        """See base class."""
        self._eval_batches += 1
        self._progress.advance(
            self._eval_batches, images=self.config.task.validation_data.global_batch_size
        )
        return super().eval_reduce(state, step_outputs)

    def eval_end(self, aggregated_logs: Any = None) -> Mapping[str, Any]:
        """See base class."""
        logs = super().eval_end(aggregated_logs)
        self._swap_averages()
        self._progress.stop()
        self._results.add(int(self.global_step.numpy()), logs, self._speed())
        self._training_seconds, self._trained_steps = 0.0, 0
        return logs

    def _swap_averages(self) -> None:
        if optimizers.has_averages(self.optimizer):
            optimizers.swap_averages(self.optimizer, self.model.trainable_variables)

    def _speed(self) -> dict[str, float | None]:
        seconds = time.monotonic() - self._eval_started
        trained_images = self._trained_steps * self.config.task.train_data.global_batch_size
        return {
            "images_per_second": trained_images / self._training_seconds
            if trained_images
            else None,
            "eval_seconds": seconds,
            "eval_images_per_second": len(self.task.coco_metric.detections) / seconds,
        }


def run(
    params: cfg.ExperimentConfig,
    strategy: tf.distribute.Strategy,
    mode: str,
    model_dir: str,
    progress: Progress,
    results: Results,
    enable_async_checkpointing: bool = True,
    replays_data: bool = False,
) -> ReportingTrainer:
    """Runs an experiment and returns its trainer.

    A run that finds its training finished is evaluated once more. A training that is sent SIGTERM
    saves a checkpoint first.

    Args:
      params: config of the experiment.
      strategy: distribution strategy.
      mode: one of `libra_tf.runner.flags.MODES`.
      model_dir: folder of checkpoints and summaries.
      progress: where to report.
      results: where to record the evaluations.
      enable_async_checkpointing: whether checkpoints are written while training goes on.
      replays_data: see `ReportingTrainer`.

    Raises:
      UsageError: if `task.init_checkpoint` does not fit the model.
      TrainingError: if a loss becomes NaN or infinite.
      PreemptedError: if the process was asked to end.
    """
    chief = cluster.is_chief(strategy)
    # All processes write, as saving needs all of them; only the chief's is kept.
    own_dir = model_dir if chief else tempfile.mkdtemp(prefix="libra_tf-worker-")
    with strategy.scope():
        task = task_factory.get_task(params.task, logging_dir=own_dir)
        trainer = train_utils.create_trainer(
            params,
            task,
            train="train" in mode,
            evaluate="eval" in mode,
            checkpoint_exporter=train_utils.maybe_create_best_ckpt_exporter(params, own_dir),
            trainer_cls=functools.partial(
                ReportingTrainer, progress, results, model_dir, replays_data
            ),
        )
    stop_on_termination = guards.StopOnTermination(strategy)
    actions = [stop_on_termination]
    if trainer.checkpoint and params.trainer.recovery_max_trials <= 0:
        actions.append(guards.StopOnBadLoss(own_dir, trainer.checkpoint, trainer.global_step))
    runner = train_lib.OrbitExperimentRunner(
        strategy,
        task,
        mode,
        params,
        own_dir,
        trainer=trainer,
        save_summary=chief,
        train_actions=actions,
        eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(params, own_dir),
        enable_async_checkpointing=enable_async_checkpointing,
    )
    # Model Garden's own answer of several processes to the signal is to save and go on.
    stop_on_termination.listen()
    is_finished = int(trainer.global_step.numpy()) >= params.trainer.train_steps
    if mode == "train_and_eval" and is_finished:
        with strategy.scope():
            runner.controller.evaluate(steps=params.trainer.validation_steps)
    else:
        _run_until_preempted(runner)
    return trainer


def _run_until_preempted(runner: train_lib.OrbitExperimentRunner) -> None:
    try:
        runner.run()
    except PreemptedError:
        step = int(runner.trainer.global_step.numpy())
        checkpoints = runner.checkpoint_manager
        checkpoints.sync()
        path = checkpoints.save(checkpoint_number=step, check_interval=False)
        checkpoints.sync()
        raise PreemptedError(
            f"asked to end: step {step} is saved as {path}, and the same command goes on from there"
        ) from None
