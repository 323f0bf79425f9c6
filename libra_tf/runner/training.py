"""Trains and evaluates an experiment with Model Garden's runner, and shows progress."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import orbit
import tensorflow as tf
from absl import logging
from official.core import base_task, base_trainer, task_factory, train_lib, train_utils
from official.core import config_definitions as cfg
from official.modeling import optimization
from official.vision.utils import summary_manager

from libra_tf.cli.errors import PreemptedError, UsageError
from libra_tf.cli.progress import Progress
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.modeling import optimizers
from libra_tf.runner import best, cluster, guards
from libra_tf.runner.more_metrics import Measure
from libra_tf.runner.stages import Stage, Stages
from libra_tf.runner.startup import StartUp
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder
from libra_tf.runs.results import Results


class ReportingTrainer(base_trainer.Trainer):
    """Model Garden's trainer that reports progress and records every evaluation.

    Args:
      progress: where to show progress.
      results: where to record evaluations.
      stop_if_told: called between the batches of an evaluation; raises a PreemptedError if the
        process must stop.
      startup: measures the time to the first step.
      stages: is told what the run does.
      measure_more: measures what is not COCO's, from the detections of an evaluation; None for
        nothing.
      *args: arguments of Model Garden's `Trainer`.
      **kwargs: arguments of Model Garden's `Trainer`.
    """

    def __init__(
        self,
        progress: Progress,
        results: Results,
        stop_if_told: Callable[[], None],
        startup: StartUp,
        stages: Stages,
        *args,
        train: bool = True,
        measure_more: Measure | None = None,
        **kwargs,
    ):
        startup.mark("detector")
        stages.current = Stage.INPUTS
        super().__init__(*args, train=train, **kwargs)
        self._stop_if_told = stop_if_told
        self._progress = progress
        self._results = results
        self._startup = startup
        self._stages = stages
        self._measure_more = measure_more
        self._has_evaluated = False
        self._trains = train
        self._is_training = False
        # Seconds and steps of each loop since the last evaluation.
        self._first_loop: tuple[float, int] | None = None
        self._trained: list[tuple[float, int]] = []
        self._histograms = getattr(self.task, "training_histograms", None)
        if train or optimizers.has_addons_averages(self.optimizer):
            # Create them now for three reasons. A step that creates variables is traced twice.
            # Distributed, it cannot contain branches, which counting for histograms needs. And an
            # evaluation without training needs the averages from the checkpoint.
            optimizers.create_weights(self.optimizer, self.model.trainable_variables)
        runtime = self.config.runtime
        if runtime.enable_xla and not runtime.num_gpus and not runtime.tpu:
            # Model Garden compiles only for a given number of GPUs. Here that is found.
            self.task.train_step = tf.function(self.task.train_step, jit_compile=True)
        startup.mark("inputs")
        stages.current = Stage.WEIGHTS

    def distribute_dataset(self, *args, **kwargs) -> tf.distribute.DistributedDataset:
        """Builds a data set without AutoGraph where that is possible; see base class."""
        build = super().distribute_dataset
        try:
            return tf.autograph.experimental.do_not_convert(build)(*args, **kwargs)
        except tf.errors.OperatorNotAllowedInGraphError:
            # Some of Model Garden's augmentations branch on tensors.
            return build(*args, **kwargs)

    def initialize(self) -> None:
        """Loads `task.init_checkpoint`, if the run does not have a checkpoint of its own yet."""
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
        if not self._is_training:
            self._is_training = True
            self._progress.start(
                "training", self.config.trainer.train_steps, int(self.global_step.numpy())
            )
        self._loop_started = (time.monotonic(), int(self.global_step.numpy()))
        if self._startup is not None:
            self._startup.mark("checkpoint")
            self._stages.current = Stage.STEP

    @tf.autograph.experimental.do_not_convert
    def train_step(self, iterator: Any) -> None:
        """Takes a step, or builds the graph of one; see base class."""
        super().train_step(iterator)
        self._stages.current = None
        if self._startup is not None:
            self._startup.mark("tracing")

    def train_loop_end(self) -> Mapping[str, Any]:
        """See base class."""
        logs = super().train_loop_end()
        step = int(self.global_step.numpy())
        if self._histograms is not None:
            self._histograms.write(step)
        started, first_step = self._loop_started
        loop = time.monotonic() - started, step - first_step
        if self._startup is not None:
            # It traced the step, and may have skipped data: a measure only if there is no other.
            self._first_loop = loop
            self._report_startup(step - first_step)
        else:
            self._trained.append(loop)
        self._progress.advance(
            step,
            images=self.config.task.train_data.global_batch_size,
            loss=float(logs[self.train_loss.name]),
        )
        return logs

    def _report_startup(self, num_steps: int) -> None:
        line = self._startup.describe(num_steps)
        logging.info(line)
        if self._startup.is_shown:
            self._progress.note(line)
        self._startup = None

    def eval_begin(self) -> None:
        """See base class."""
        super().eval_begin()
        self._swap_averages()
        self._is_training = False
        if not self._has_evaluated:
            self._stages.current = Stage.EVALUATION
        self._eval_started = time.monotonic()
        self._eval_batches = 0
        total = self.config.trainer.validation_steps
        self._progress.start("evaluating", total if total > 0 else None, unit="batch")

    def eval_reduce(self, state: Any = None, step_outputs: Any = None) -> Any:
        """See base class."""
        self._has_evaluated, self._stages.current = True, None
        self._eval_batches += 1
        self._progress.advance(
            self._eval_batches, images=self.config.task.validation_data.global_batch_size
        )
        try:
            self._stop_if_told()
        except PreemptedError:
            # The checkpoint must get the training weights, not their averages.
            if isinstance(self.optimizer, optimization.ExponentialMovingAverage):
                self.optimizer.swap_weights()
            self._swap_averages()
            raise
        return super().eval_reduce(state, step_outputs)

    def eval_end(self, aggregated_logs: Any = None) -> Mapping[str, Any]:
        """See base class."""
        # A checkpoint gets the weights of the training, whose averages lie beside them.
        exporter, self._checkpoint_exporter = self._checkpoint_exporter, None
        logs = super().eval_end(aggregated_logs)
        self._swap_averages()
        self._progress.stop()
        self._checkpoint_exporter = exporter
        step, speed = int(self.global_step.numpy()), self._speed()
        # Before the best checkpoint is chosen, which may be by one of them.
        if self._measure_more:
            logs.update(self._measure_more(self.task.coco_metric.detections))
        if exporter:
            exporter.maybe_export_checkpoint(self.checkpoint, logs, step)
            metric = self.config.trainer.best_checkpoint_eval_metric
            logs[f"best_{metric}"] = exporter.best_ckpt_logs[metric]
        self._results.add(step, logs, speed, is_of_training=self._trains)
        self._first_loop, self._trained = None, []
        return logs

    def _swap_averages(self) -> None:
        if optimizers.has_addons_averages(self.optimizer):
            optimizers.swap_averages(self.optimizer, self.model.trainable_variables)

    def _speed(self) -> dict[str, float | None]:
        seconds = time.monotonic() - self._eval_started
        loops = self._trained or [self._first_loop or (0.0, 0)]
        training_seconds, steps = map(sum, zip(*loops, strict=True))
        images = steps * self.config.task.train_data.global_batch_size
        return {
            "images_per_second": images / training_seconds if images else None,
            "eval_seconds": seconds,
            "eval_images_per_second": len(self.task.coco_metric.detections) / seconds,
        }


class _Runner(train_lib.OrbitExperimentRunner):
    """Model Garden's runner, except that every process keeps its checkpoints in `model_dir`.

    Model Garden's own uses an empty folder in all processes other than the chief. They would then
    neither resume from the same step as the chief nor save at the same time.
    """

    def _maybe_build_checkpoint_manager(self) -> tf.train.CheckpointManager | None:
        if not self.trainer.checkpoint:
            return None
        return tf.train.CheckpointManager(
            self.trainer.checkpoint,
            directory=self.model_dir,
            max_to_keep=self.params.trainer.max_to_keep,
            step_counter=self.trainer.global_step,
            checkpoint_interval=self.params.trainer.checkpoint_interval,
            init_fn=self.trainer.initialize,
        )


def run(
    params: cfg.ExperimentConfig,
    strategy: tf.distribute.Strategy,
    mode: str,
    folder: RunFolder,
    progress: Progress,
    results: Results,
    enable_async_checkpointing: bool = True,
    is_repeatable: bool = False,
    startup: StartUp | None = None,
    patience: int | None = None,
    checkpoint: str | None = None,
    stages: Stages | None = None,
    measure_more: Measure | None = None,
) -> ReportingTrainer:
    """Trains and evaluates an experiment.

    If training has already finished, the mode `train_and_eval` evaluates once more. On SIGTERM and
    Ctrl-C, training finishes the current loop of steps or evaluation batch, saves a checkpoint and
    stops; other modes, and a second Ctrl-C, stop immediately.

    Args:
      params: config of the run.
      strategy: distribution strategy.
      mode: one of `libra_tf.runner.flags.MODES`.
      folder: the run folder, for checkpoints and summaries.
      progress: where to show progress.
      results: where to record evaluations.
      enable_async_checkpointing: whether to write checkpoints in the background.
      is_repeatable: whether a training that goes on sees the same data as an uninterrupted one
        would. Seed Python's and TensorFlow's random numbers before.
      startup: measures the time to the first step.
      patience: end the training when AP has not gained for so many evaluations; None to go on.
      checkpoint: path prefix of the checkpoint to evaluate; None for the newest. Training always
        continues from the newest.
      stages: is told what the run does.
      measure_more: measures what is not COCO's, from the detections of an evaluation; None for
        nothing.

    Returns:
      The trainer.

    Raises:
      UsageError: if `task.init_checkpoint` or `checkpoint` does not fit the model.
      TrainingError: if a loss becomes NaN, infinite or larger than `trainer.loss_upper_bound`.
      PreemptedError: if the process was told to stop.
    """
    stages = stages or Stages()
    with cluster.own_folder(strategy, folder) as own, strategy.scope():
        of_run = _Run(params, strategy, mode, own, progress)
        stop = guards.StopWhenTold(strategy, progress.note)
        stages.current = Stage.MODEL
        task = _create_task(of_run, is_repeatable)
        trainer_cls = functools.partial(
            ReportingTrainer,
            progress,
            results,
            stop,
            startup or StartUp(),
            stages,
            measure_more=measure_more,
        )
        trainer = _create_trainer(of_run, task, trainer_cls)
        is_finished = own.latest_step() >= params.trainer.train_steps
        has_ended, eval_actions = False, [stop]
        if patience is not None and not is_finished:
            without_gain = best.StopWithoutGain(patience, results)
            has_ended = _has_ended(without_gain, progress)
            # What has ended is evaluated once more, and need not be stopped.
            eval_actions += [] if has_ended else [without_gain]
        runner = _create_runner(
            of_run,
            task,
            trainer,
            train_actions=_train_actions(of_run, trainer, stop),
            eval_actions=eval_actions,
            enable_async_checkpointing=enable_async_checkpointing,
        )
        if checkpoint:
            _restore(trainer, checkpoint, folder)
        if of_run.trains and not has_ended:
            _announce_continuing(trainer, progress)
        _run_mode(of_run, runner, stop, is_over=is_finished or has_ended)
    return trainer


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the parts of a run share.

    Attributes:
      params: its config.
      strategy: distribution strategy.
      mode: one of `libra_tf.runner.flags.MODES`.
      folder: the folder that this process writes to; see `cluster.own_folder`.
      progress: where to show progress.
    """

    params: cfg.ExperimentConfig
    strategy: tf.distribute.Strategy
    mode: str
    folder: RunFolder
    progress: Progress

    @property
    def trains(self) -> bool:
        """Whether the mode trains."""
        return "train" in self.mode


def _create_task(of_run: _Run, is_repeatable: bool) -> base_task.Task:
    task = task_factory.get_task(of_run.params.task, logging_dir=of_run.folder.path)
    if is_repeatable and of_run.trains:
        task.first_step = of_run.folder.latest_step()
        _announce_skipping(task.first_step, of_run.params, of_run.progress)
    return task


def _create_trainer(
    of_run: _Run, task: base_task.Task, trainer_cls: Callable[..., ReportingTrainer]
) -> ReportingTrainer:
    params = of_run.params
    # An evaluation may be of other images, whose AP says nothing about this training.
    exporter = best.exporter(params, of_run.folder.path) if of_run.trains else None
    return train_utils.create_trainer(
        params,
        task,
        train=of_run.trains,
        evaluate="eval" in of_run.mode,
        checkpoint_exporter=exporter,
        trainer_cls=trainer_cls,
    )


def _train_actions(
    of_run: _Run, trainer: ReportingTrainer, stop: guards.StopWhenTold
) -> list[orbit.Action]:
    if not trainer.checkpoint:
        return [stop]
    on_bad_loss = guards.StopOnBadLoss(
        of_run.folder, trainer.checkpoint, trainer.global_step, of_run.params.trainer
    )
    return [stop, on_bad_loss]


def _create_runner(
    of_run: _Run,
    task: base_task.Task,
    trainer: ReportingTrainer,
    train_actions: list[orbit.Action],
    eval_actions: list[orbit.Action],
    enable_async_checkpointing: bool,
) -> _Runner:
    params, path = of_run.params, of_run.folder.path
    return _Runner(
        of_run.strategy,
        task,
        of_run.mode,
        params,
        path,
        trainer=trainer,
        save_summary=cluster.is_chief(of_run.strategy),
        train_actions=train_actions,
        eval_actions=eval_actions,
        eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(params, path),
        enable_async_checkpointing=enable_async_checkpointing,
    )


def _run_mode(of_run: _Run, runner: _Runner, stop: guards.StopWhenTold, is_over: bool) -> None:
    """Does what the mode says; of a training that is over, it evaluates once more."""
    if of_run.mode == "train_and_eval" and is_over:
        runner.controller.evaluate(steps=of_run.params.trainer.validation_steps)
    elif of_run.trains:
        with stop.saving_first():
            _run_until_told(runner, of_run.strategy, of_run.progress)
    else:
        runner.run()


def _restore(trainer: ReportingTrainer, checkpoint: str, folder: RunFolder) -> None:
    with trained_run.explaining_weights(folder, checkpoint):
        model = tf.train.Checkpoint(model=trainer.model)
        model.read(checkpoint).expect_partial().assert_existing_objects_matched()
        trainer.checkpoint.restore(checkpoint).expect_partial()


def _announce_continuing(trainer: ReportingTrainer, progress: Progress) -> None:
    step, last = int(trainer.global_step.numpy()), trainer.config.trainer.train_steps
    if step >= last:
        progress.note(f"training has already finished: step {step} of {last}")
    elif step:
        progress.note(f"continues from step {step} of {last}")


def _announce_skipping(step: int, params: cfg.ExperimentConfig, progress: Progress) -> None:
    if 0 < step < params.trainer.train_steps:
        images = step * params.task.train_data.global_batch_size
        progress.note(f"step {step}: skipping the data already used ({images} images, undecoded)")


def _has_ended(stop_without_gain: best.StopWithoutGain, progress: Progress) -> bool:
    """Returns whether a run that is resumed had lost its patience before."""
    try:
        stop_without_gain()
    except best.NoGainError as reason:
        progress.note(f"{reason}; a larger --patience goes on")
        return True
    return False


def _run_until_told(
    runner: train_lib.OrbitExperimentRunner, strategy: tf.distribute.Strategy, progress: Progress
) -> None:
    try:
        runner.run()
        # A process that exits breaks the connections of those still running.
        cluster.wait_for_all(strategy)
    except best.NoGainError as reason:
        step = _save(runner, strategy)
        progress.note(f"training ended at step {step}: {reason}")
    except PreemptedError as told:
        step = _save(runner, strategy)
        raise PreemptedError(
            f"stopped: step {step} is saved; rerun the same command to continue from there",
            told.status,
        ) from None


def _save(runner: train_lib.OrbitExperimentRunner, strategy: tf.distribute.Strategy) -> int:
    """Saves a checkpoint in all processes, and returns its step."""
    step = int(runner.trainer.global_step.numpy())
    checkpoints = runner.checkpoint_manager
    checkpoints.sync()
    checkpoints.save(checkpoint_number=step, check_interval=False)
    checkpoints.sync()
    cluster.wait_for_all(strategy)
    return step
