"""What all Libra tasks add to Model Garden's detection tasks."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.compat import keras
from libra_tf.dataloaders import repeat_factors, repeatable, unaugmented
from libra_tf.initial_weights import fine_tuning
from libra_tf.modeling import freezing, mixed_precision
from libra_tf.tasks import histograms, mmdetection

# Model Garden's detectors and ours choose with `tf.cond` and the like. There is nothing to convert
# in them, and reading their sources for it takes longer than tracing them.
_without_autograph = tf.autograph.experimental.do_not_convert


class LibraTaskMixin:
    """Checked configs, frozen stages, fine-tuning and histograms.

    List it before Model Garden's task among the bases of a class. The detector and its steps are
    built without AutoGraph.

    Attributes:
      initialization_report: what `initialize` has loaded; None before.
      training_histograms: what the training counts; None where `analysis` is not enabled.
      first_step: how many steps the training has already taken, for training data that are
        repeatable from any step on. None for Model Garden's own, which are not.
    """

    initialization_report: fine_tuning.Report | None = None
    training_histograms: histograms.TrainingHistograms | None = None
    first_step: int | None = None

    @_without_autograph
    def build_model(self) -> keras.Model:
        """Checks the config, builds the detector and freezes its first stages."""
        self.task_config.validate()
        with mixed_precision.float32_boxes(), mmdetection.parts_for(self.task_config.model):
            model = super().build_model()
        if self.task_config.frozen_stages is not None:
            freezing.freeze_stages(model.backbone, self.task_config.frozen_stages)
        return model

    def initialize(self, model: keras.Model) -> None:
        """Loads what fits from `init_checkpoint`; see `libra_tf.initial_weights.fine_tuning`."""
        self.initialization_report = fine_tuning.initialize(model, self.task_config)

    @contextlib.contextmanager
    def _reading(
        self, data: cfg.DataConfig, input_context: tf.distribute.InputContext | None
    ) -> Iterator[None]:
        """Lets the block build training data that repeat images and begin at `first_step`.

        Does only what the config and `first_step` ask for.

        Args:
          data: config of the data.
          input_context: of the input pipeline that the block builds.
        """
        with repeat_factors.repeating(data):
            if self.first_step is None or not data.is_training:
                yield
                return
            with repeatable.reading_after(self._used(data, input_context)):
                yield

    def _used(
        self, data: cfg.DataConfig, input_context: tf.distribute.InputContext | None
    ) -> repeatable.Used:
        """Returns what the steps before `first_step` have used."""
        return repeatable.used_by(self.first_step or 0, data.global_batch_size, input_context)

    @_without_autograph
    def build_unaugmented_inputs(self, data: cfg.DataConfig) -> tf.data.Dataset:
        """Builds the training data without augmentation, each trained image once, in file order.

        Images and labels come from the training's own parser, and from its own sampling of an RPN's
        anchors. RetinaNet's labels hold the objects only where `analysis` is enabled, or with
        MMDetection's parts, which also want batches of one image here.

        Args:
          data: config of the training data.

        Returns:
          Batches (images, labels), as in training.
        """
        with unaugmented.reading_once():
            return self.build_inputs(unaugmented.without_augmentation(data))

    @_without_autograph
    def train_step(
        self,
        inputs: tuple[tf.Tensor, Mapping[str, Any]],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        metrics: list[keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """Takes one step, and counts what the histograms show."""
        if self.training_histograms is None:
            return super().train_step(inputs, model, optimizer, metrics)
        with self.training_histograms.during(optimizer.iterations, model):
            return super().train_step(inputs, model, optimizer, metrics)

    @_without_autograph
    def validation_step(
        self,
        inputs: tuple[tf.Tensor, Mapping[str, Any]],
        model: keras.Model,
        metrics: list[keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """Detects in a batch and measures the losses; see Model Garden's tasks."""
        return super().validation_step(inputs, model, metrics)

    def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
        """Builds the metrics, and the histograms of a training."""
        if training and self.task_config.analysis.enabled:
            self.training_histograms = histograms.TrainingHistograms(
                self.task_config.analysis.interval
            )
        return super().build_metrics(training)

    def _count(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any], step: tf.Tensor
    ) -> histograms.Counted:
        """Returns what the histograms count of a batch; every task defines it.

        Args:
          outputs: of the detector in training.
          labels: of the batch.
          step: number of the training step.
        """
        raise NotImplementedError

    def _offer_histograms(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
        """Lets the histograms count a batch with the task's `_count`."""
        if self.training_histograms is not None:
            self.training_histograms.offer(lambda step: self._count(outputs, labels, step))
