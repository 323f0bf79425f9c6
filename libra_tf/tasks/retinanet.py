"""Libra RetinaNet task."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.dataloaders import retinanet_input as model_garden_input
from official.vision.losses import loss_utils
from official.vision.tasks import retinanet

from libra_tf import compat
from libra_tf.configs import components
from libra_tf.configs import retinanet as exp_cfg
from libra_tf.dataloaders import retinanet_input
from libra_tf.modeling import box_losses
from libra_tf.tasks import coco_metric, histograms, libra, mmdetection

# RetinaNet does not sample; its histograms show what a sampler like the RPN's would take.
ANCHORS_TO_SAMPLE = 256


@task_factory.register_task_cls(exp_cfg.LibraRetinaNetTask)
class LibraRetinaNetTask(libra.LibraTaskMixin, retinanet.RetinaNetTask):
    """Trains RetinaNet with the balanced feature pyramid and the balanced L1 loss."""

    def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
        """Builds the data set of a split; see Model Garden's `RetinaNetTask`."""
        with (
            compat.substituted(model_garden_input, "Parser", self._parser_class(params)),
            mmdetection.parts_for(self.task_config.model),
        ):
            return super().build_inputs(params, input_context)

    def _parser_class(self, params: cfg.DataConfig) -> type[retinanet_input.Parser]:
        if params.is_training and self.task_config.analysis.enabled:
            return retinanet_input.ParserWithBoxes
        if not params.is_training and self.task_config.model.compatibility:
            return retinanet_input.KeepsShapeParser
        return retinanet_input.Parser

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
        self._offer_histograms(outputs, labels)
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

    def _count(self, outputs, labels, step):
        losses, parser = self.task_config.losses, self.task_config.train_data.parser
        anchors = [tf.reshape(boxes[0], [-1, 4]) for boxes in labels["anchor_boxes"].values()]
        of_samples = histograms.of_samples(
            tf.concat(anchors, axis=0),
            labels["gt_boxes"][0],
            components.IoUBalancing(),
            ANCHORS_TO_SAMPLE,
            0.5,
            parser.match_threshold,
            parser.unmatched_threshold,
            step,
        )
        predicted, targets = (
            loss_utils.multi_level_flatten(
                {level: boxes[:1] for level, boxes in by_level.items()}, last_dim=4
            )
            for by_level in (outputs["box_outputs"], labels["box_targets"])
        )
        is_positive = labels["box_weights"][:1, :, tf.newaxis] > 0
        return {
            **of_samples,
            **histograms.of_boxes(
                predicted - targets,
                tf.repeat(is_positive, 4, axis=2),
                losses.balanced_l1,
                losses.huber_loss_delta if losses.box_loss == "huber" else None,
            ),
        }

    def build_metrics(self, training: bool = True):
        """Builds the metrics, per category ones included when the config asks for them."""
        metrics = super().build_metrics(training)
        if not training and self.task_config.use_coco_metrics:
            self.coco_metric = coco_metric.build(
                self.task_config,
                max_num_eval_detections=self.task_config.max_num_eval_detections,
            )
        return metrics
