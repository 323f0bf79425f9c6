"""Libra RetinaNet task."""

from collections.abc import Mapping
from typing import Any

from official.core import task_factory
from official.vision.tasks import retinanet

from libra_tf.compat import keras
from libra_tf.configs import retinanet as exp_cfg
from libra_tf.modeling import box_losses, fine_tuning, freezing
from libra_tf.tasks import coco_metric


@task_factory.register_task_cls(exp_cfg.LibraRetinaNetTask)
class LibraRetinaNetTask(retinanet.RetinaNetTask):
    """Trains RetinaNet with the balanced feature pyramid and the balanced L1 loss."""

    def build_model(self) -> keras.Model:
        """Checks the config and builds the detector."""
        self.task_config.validate()
        model = super().build_model()
        if self.task_config.frozen_stages is not None:
            freezing.freeze_stages(model.backbone, self.task_config.frozen_stages)
        return model

    def initialize(self, model: keras.Model) -> None:
        """Loads what fits of `init_checkpoint`; see `libra_tf.modeling.fine_tuning`."""
        self.initialization_report = fine_tuning.initialize(model, self.task_config)

    def build_losses(
        self,
        outputs: Mapping[str, Any],
        labels: Mapping[str, Any],
        aux_losses: Any | None = None,
    ):
        """Returns total, class, box and model loss; see Model Garden's `RetinaNetTask`."""
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
