"""What the Libra tasks add alike to Model Garden's detection tasks."""

import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.compat import keras
from libra_tf.dataloaders import unaugmented
from libra_tf.initial_weights import fine_tuning
from libra_tf.modeling import freezing
from libra_tf.tasks import histograms, mmdetection


class LibraTaskMixin:
    """Checked configs, frozen stages, fine-tuning and histograms, in front of a task's class.

    Attributes:
      initialization_report: what `initialize` has loaded, None before.
      training_histograms: what the training counts, None where `analysis` is not enabled.
    """

    initialization_report: fine_tuning.Report | None = None
    training_histograms: histograms.TrainingHistograms | None = None

    def build_model(self) -> keras.Model:
        """Checks the config, builds the detector and freezes the stages that are to stay."""
        self.task_config.validate()
        with mmdetection.parts_for(self.task_config.model):
            model = super().build_model()
        if self.task_config.frozen_stages is not None:
            freezing.freeze_stages(model.backbone, self.task_config.frozen_stages)
        return model

    def initialize(self, model: keras.Model) -> None:
        """Loads what fits of `init_checkpoint`; see `libra_tf.initial_weights.fine_tuning`."""
        self.initialization_report = fine_tuning.initialize(model, self.task_config)

    def build_unaugmented_inputs(self, data: cfg.DataConfig) -> tf.data.Dataset:
        """Builds the training data without augmentation, each image once and in file order.

        Images and labels come from the training's own parser, and from its own sampling of an RPN's
        anchors. RetinaNet's labels hold the objects only where `analysis` is enabled.

        Args:
          data: config of the training data.

        Returns:
          Batches (images, labels), as in training.
        """
        with unaugmented.reading_once():
            return self.build_inputs(unaugmented.without_augmentation(data))

    def train_step(self, inputs, model, optimizer, metrics=None) -> dict[str, tf.Tensor]:
        """Takes one step, and counts what is analysed."""
        if self.training_histograms is None:
            return super().train_step(inputs, model, optimizer, metrics)
        with self.training_histograms.during(optimizer.iterations, model):
            return super().train_step(inputs, model, optimizer, metrics)

    def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
        """Builds the metrics, and what a training is to count."""
        if training and self.task_config.analysis.enabled:
            self.training_histograms = histograms.TrainingHistograms(
                self.task_config.analysis.interval
            )
        return super().build_metrics(training)

    def _offer_histograms(self, outputs, labels) -> None:
        """Offers what `_count` of a task says of a batch to the histograms."""
        if self.training_histograms is not None:
            self.training_histograms.offer(lambda step: self._count(outputs, labels, step))
