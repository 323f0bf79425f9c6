"""The Libra Fast R-CNN task: training on given proposals."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.common import dataset_fn as dataset_fn_lib
from official.core import task_factory
from official.vision.dataloaders import maskrcnn_input
from official.vision.tasks import maskrcnn as model_garden

from libra_tf import compat
from libra_tf.compat import keras
from libra_tf.configs import fastrcnn as exp_cfg
from libra_tf.dataloaders import fastrcnn_input
from libra_tf.modeling import fast_rcnn
from libra_tf.tasks import maskrcnn


@task_factory.register_task_cls(exp_cfg.LibraFastRCNNTask)
class LibraFastRCNNTask(maskrcnn.LibraMaskRCNNTask):
    """Trains the second stage of a detector on proposals from files."""

    def build_model(self) -> keras.Model:
        """Builds Libra Faster R-CNN without its RPN."""
        model = fast_rcnn.FastRCNNModel.from_maskrcnn(super().build_model())
        # A warm-up call builds the model, as in Model Garden.
        model(
            keras.Input(self.task_config.model.input_size),
            image_shape=keras.Input([2]),
            proposals=keras.Input([self.task_config.validation_data.num_proposals, 4]),
            training=False,
        )
        return model

    def build_inputs(
        self,
        params: exp_cfg.DataConfig,
        input_context: tf.distribute.InputContext | None = None,
        dataset_fn: dataset_fn_lib.PossibleDatasetType | None = None,
    ) -> tf.data.Dataset:
        """Builds the input dataset; see Model Garden's `MaskRCNNTask`.

        Raises:
          ValueError: if no folder of proposals is set.
        """
        if not params.proposals:
            name = "train_data" if params.is_training else "validation_data"
            raise ValueError(f"task.{name}.proposals is not set; set it to a folder of proposals")
        parser = functools.partial(fastrcnn_input.Parser, params.proposals, params.num_proposals)
        with (
            compat.substituted(maskrcnn_input, "Parser", parser),
            self._reading(params, input_context),
        ):
            return model_garden.MaskRCNNTask.build_inputs(self, params, input_context, dataset_fn)

    def train_step(
        self,
        inputs: tuple[tf.Tensor, Mapping[str, Any]],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        metrics: list[keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """See base class."""
        return super().train_step(_for_model_garden(inputs), model, optimizer, metrics)

    def validation_step(
        self,
        inputs: tuple[tf.Tensor, Mapping[str, Any]],
        model: keras.Model,
        metrics: list[keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """See base class."""
        return super().validation_step(_for_model_garden(inputs), model, metrics)

    def build_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any], aux_losses: Any | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns Model Garden's losses by name, without those of the RPN."""
        losses = super().build_losses(outputs, labels, aux_losses)
        return {name: loss for name, loss in losses.items() if not name.startswith("rpn_")}

    def _build_rpn_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del outputs, labels
        return tf.constant(0.0), tf.constant(0.0)

    def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
        """Returns Model Garden's metrics, without those of the RPN."""
        metrics = super().build_metrics(training)
        return [metric for metric in metrics if not metric.name.startswith("rpn_")]


def _for_model_garden(
    inputs: tuple[tf.Tensor, Mapping[str, Any]],
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Adds the proposals under the name that Model Garden's steps pass on to a model."""
    images, labels = inputs
    return images, {**labels, "anchor_boxes": labels["proposals"]}
