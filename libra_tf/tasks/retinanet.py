"""Libra RetinaNet task."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.dataloaders import retinanet_input as model_garden_input
from official.vision.evaluation import coco_evaluator
from official.vision.tasks import retinanet

from libra_tf import compat
from libra_tf.balance import boxes, quotas, samples
from libra_tf.compat import keras
from libra_tf.configs import retinanet as exp_cfg
from libra_tf.dataloaders import mmdetection_labels, retinanet_input
from libra_tf.modeling import box_losses, class_weights
from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors
from libra_tf.modeling.mmdetection import losses as mmdetection_losses
from libra_tf.tasks import coco_metric, histograms, libra, mmdetection

# Total, class, box and model loss.
Losses = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


@task_factory.register_task_cls(exp_cfg.LibraRetinaNetTask)
class LibraRetinaNetTask(libra.LibraTaskMixin, retinanet.RetinaNetTask):
    """Trains RetinaNet with the balanced feature pyramid and the balanced L1 loss."""

    def build_inputs(
        self, params: cfg.DataConfig, input_context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """Builds the data set of a split; see Model Garden's `RetinaNetTask`."""
        with (
            compat.substituted(model_garden_input, "Parser", self._parser_class(params)),
            mmdetection.parts_for(self.task_config.model),
            self._reading(params, input_context),
            mmdetection.batching_for(self.task_config.model, params, input_context),
        ):
            return super().build_inputs(params, input_context)

    def _parser_class(self, params: cfg.DataConfig) -> type[retinanet_input.Parser]:
        if self.task_config.model.compatibility:
            return retinanet_input.MMDetectionParser
        if params.is_training and self.task_config.analysis.enabled:
            return retinanet_input.ParserWithObjects
        return retinanet_input.Parser

    def build_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None = None,
    ) -> Losses:
        """Returns total, class, box and model loss; see Model Garden's `RetinaNetTask`.

        Several replicas divide their losses by the positive anchors of all of them, so the same
        images give the same gradients as on one device. Evaluation images that keep their shapes,
        as in MMDetection, have no targets; their losses are 0.

        Raises:
          ValueError: if weights of the classes are asked for, but not set.
        """
        if "cls_targets" not in labels:
            return (tf.constant(0.0),) * 4
        class_weights.check_filled(self.task_config.losses)
        self._offer_histograms(outputs, labels)
        if self.task_config.model.compatibility:
            return self._build_mmdetection_losses(outputs, labels, aux_losses)
        with class_weights.weighing_focal_loss(self.task_config.losses.class_weights):
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

    def _build_mmdetection_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None,
    ) -> Losses:
        losses = self.task_config.losses
        cls_loss, box_loss = mmdetection_losses.retinanet_losses(outputs, labels, losses)
        model_loss = cls_loss + losses.box_loss_weight * box_loss
        total_loss = losses.loss_weight * (model_loss + tf.add_n(aux_losses or [0.0]))
        return total_loss, cls_loss, box_loss, model_loss

    def _build_replica_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None,
    ) -> Losses:
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

    def _count(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any], step: tf.Tensor
    ) -> histograms.Counted:
        config = self.task_config
        parser, losses = config.train_data.parser, config.losses
        gt_boxes = labels["gt_boxes"][0]
        anchors = {level: boxes[0] for level, boxes in labels["anchor_boxes"].items()}
        thresholds = (parser.match_threshold, parser.unmatched_threshold)
        flat = tf.concat([tf.reshape(level, [-1, 4]) for level in anchors.values()], axis=0)
        if config.model.compatibility:
            is_valid = mmdetection_anchors.is_valid(anchors, labels["image_info"][0, 1])
            least = mmdetection_labels.RETINANET_MIN_POSITIVE_IOU
            matches = samples.match_mmdetection_anchors(
                flat, gt_boxes, *thresholds, least, is_valid
            )
        else:
            matches = samples.match_anchors(flat, gt_boxes, *thresholds)
        of_first_image = tf.nest.map_structure(
            lambda tensor: tensor[:1],
            (outputs["box_outputs"], labels["box_targets"], labels["box_weights"]),
        )
        quota = quotas.of_retinanet_anchors(parser)
        loss = boxes.box_loss(losses, losses.huber_loss_delta)
        return {
            **histograms.of_samples(matches, gt_boxes, quota, step),
            **histograms.of_boxes(boxes.of_anchors(*of_first_image), loss),
        }

    def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
        """Builds the metrics, including those per category if the config enables them."""
        with compat.substituted(coco_evaluator, "COCOEvaluator", coco_metric.COCOEvaluator):
            return super().build_metrics(training)
