"""Libra RetinaNet task."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import tensorflow as tf
from official.core import task_factory
from official.vision.dataloaders import retinanet_input
from official.vision.tasks import retinanet

from libra_tf.compat import keras
from libra_tf.configs import retinanet as exp_cfg
from libra_tf.dataloaders import mmdetection_input
from libra_tf.modeling import box_losses, fine_tuning, freezing
from libra_tf.tasks import coco_metric, mmdetection


class _Parser(retinanet_input.Parser):
    """Model Garden's parser with a graph that TensorFlow can make deterministic.

    The parser has control dependencies on its arguments, which get lost where op determinism
    splits it into a random and a parallel part ("input[0] == '^args_3', is not found"). On the
    results of operations they do not.
    """

    def parse_fn(self, is_training):
        """Returns the function that parses one decoded example."""
        parse = super().parse_fn(is_training)
        return lambda example: parse(tf.nest.map_structure(tf.identity, example))


class _KeepsShapeParser(mmdetection_input.KeepsShapeMixin, _Parser):
    """MMDetection's way of preparing evaluation images."""


@task_factory.register_task_cls(exp_cfg.LibraRetinaNetTask)
class LibraRetinaNetTask(retinanet.RetinaNetTask):
    """Trains RetinaNet with the balanced feature pyramid and the balanced L1 loss."""

    def build_model(self) -> keras.Model:
        """Checks the config and builds the detector."""
        self.task_config.validate()
        with mmdetection.parts_for(self.task_config.model):
            model = super().build_model()
        if self.task_config.frozen_stages is not None:
            freezing.freeze_stages(model.backbone, self.task_config.frozen_stages)
        return model

    def initialize(self, model: keras.Model) -> None:
        """Loads what fits of `init_checkpoint`; see `libra_tf.modeling.fine_tuning`."""
        self.initialization_report = fine_tuning.initialize(model, self.task_config)

    def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
        """Builds the data set of a split; see Model Garden's `RetinaNetTask`."""
        model_config = self.task_config.model
        parser = _KeepsShapeParser if model_config.compatibility else _Parser
        # Model Garden's task names the class of its parser and takes no other.
        with (
            mock.patch.object(retinanet_input, "Parser", parser),
            mmdetection.parts_for(model_config),
        ):
            return super().build_inputs(params, input_context)

    def build_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None = None,
    ):
        """Returns total, class, box and model loss; see Model Garden's `RetinaNetTask`.

        Several replicas divide their losses by the positive anchors of all of them, so that the
        same images give the same gradients as on one device. Evaluation images that keep their
        shapes, as in MMDetection, have no targets; their losses are 0.
        """
        if "cls_targets" not in labels:
            return (tf.constant(0.0),) * 4
        total_loss, cls_loss, box_loss, model_loss = self._build_replica_losses(
            outputs, labels, aux_losses
        )
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return total_loss, cls_loss, box_loss, model_loss
        ratio = box_losses.positives_over_share(labels["box_weights"])
        regularization = total_loss - self.task_config.losses.loss_weight * model_loss
        model_loss *= ratio
        total_loss = self.task_config.losses.loss_weight * model_loss + regularization
        return total_loss, ratio * cls_loss, ratio * box_loss, model_loss

    def _build_replica_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None,
    ):
        """Returns the four losses, divided by the positive anchors of this replica."""
        losses = self.task_config.losses
        if losses.box_loss == "huber":
            return super().build_losses(outputs, labels, aux_losses)
        # Predicting the targets makes Model Garden's own box loss exactly zero.
        total_loss, cls_loss, _, model_loss = super().build_losses(
            {**outputs, "box_outputs": labels["box_targets"]}, labels, aux_losses
        )
        box_loss = box_losses.retinanet_box_loss(
            losses.balanced_l1,
            labels["box_targets"],
            outputs["box_outputs"],
            labels["box_weights"],
        )
        weighted = losses.box_loss_weight * box_loss
        return (
            total_loss + losses.loss_weight * weighted,
            cls_loss,
            box_loss,
            model_loss + weighted,
        )

    def build_metrics(self, training: bool = True):
        """Builds the metrics, per category ones included when the config asks for them."""
        metrics = super().build_metrics(training)
        if not training and self.task_config.use_coco_metrics:
            self.coco_metric = coco_metric.build(
                self.task_config,
                max_num_eval_detections=self.task_config.max_num_eval_detections,
            )
        return metrics
