"""Libra Fast R-CNN task: the detector behind given proposals."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.common import dataset_fn as dataset_fn_lib
from official.core import task_factory
from official.vision.dataloaders import (
    input_reader,
    input_reader_factory,
    tf_example_decoder,
)

from libra_tf.compat import keras
from libra_tf.configs import fastrcnn as exp_cfg
from libra_tf.dataloaders import fastrcnn_input
from libra_tf.modeling import fast_rcnn
from libra_tf.tasks import maskrcnn


@task_factory.register_task_cls(exp_cfg.LibraFastRCNNTask)
class LibraFastRCNNTask(maskrcnn.LibraMaskRCNNTask):
    """Trains the second stage of a detector on proposals that come from files."""

    def build_model(self) -> keras.Model:
        """Builds Libra Faster R-CNN and leaves out its RPN."""
        model = fast_rcnn.FastRCNNModel.from_maskrcnn(super().build_model())
        # Warmed up as Model Garden does.
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
        """Builds the input dataset with Model Garden's reader and decoder.

        Raises:
          ValueError: if no folder of proposals is set.
        """
        if not params.proposals:
            name = "train_data" if params.is_training else "validation_data"
            raise ValueError(f"task.{name}.proposals is not set; name the folder of proposals")
        decoder = tf_example_decoder.TfExampleDecoder(
            regenerate_source_id=params.decoder.get().regenerate_source_id
        )
        reader = input_reader_factory.input_reader_generator(
            params,
            dataset_fn=dataset_fn or dataset_fn_lib.pick_dataset_fn(params.file_type),
            decoder_fn=decoder.decode,
            combine_fn=input_reader.create_combine_fn(params),
            parser_fn=self._build_parser(params).parse_fn(params.is_training),
        )
        return reader.read(input_context=input_context)

    def _build_parser(self, params: exp_cfg.DataConfig) -> fastrcnn_input.Parser:
        return fastrcnn_input.Parser(
            params.proposals,
            params.num_proposals,
            output_size=self.task_config.model.input_size[:2],
            max_level=self.task_config.model.max_level,
            max_num_instances=params.parser.max_num_instances,
            aug_rand_hflip=params.parser.aug_rand_hflip,
            aug_rand_vflip=params.parser.aug_rand_vflip,
            aug_scale_min=params.parser.aug_scale_min,
            aug_scale_max=params.parser.aug_scale_max,
            aug_type=params.parser.aug_type,
            skip_crowd_during_training=params.parser.skip_crowd_during_training,
            dtype=params.dtype,
        )

    def train_step(self, inputs, model, optimizer, metrics=None):
        """See base class."""
        return super().train_step(_for_model_garden(inputs), model, optimizer, metrics)

    def validation_step(self, inputs, model, metrics=None):
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
        """See base class; there are no metrics of an RPN."""
        metrics = super().build_metrics(training)
        return [metric for metric in metrics if not metric.name.startswith("rpn_")]


def _for_model_garden(inputs: tuple[tf.Tensor, Mapping[str, Any]]) -> tuple[tf.Tensor, dict]:
    """Renames the proposals to what Model Garden's steps hand to a model."""
    images, labels = inputs
    return images, {**labels, "anchor_boxes": labels["proposals"]}
