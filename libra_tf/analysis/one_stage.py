"""RetinaNet, as the measures see it."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from official.vision.losses import focal_loss, loss_utils

from libra_tf.analysis.batches import Batch
from libra_tf.analysis.detector import BoxHead, ClassHead, Detector, TrainingStep
from libra_tf.analysis.samples import Candidates
from libra_tf.balance import boxes, quotas
from libra_tf.compat import keras
from libra_tf.dataloaders import mmdetection_labels
from libra_tf.runs.trained_run import TrainedRun


class OneStage(Detector):
    """RetinaNet: the candidates are the anchors, and the losses take all of them."""

    def __init__(self, run: TrainedRun):
        super().__init__(run)
        losses = self.config.losses
        self.quotas = {"anchors": quotas.of_retinanet_anchors(self.config.train_data.parser)}
        self.losses = {
            "cls": losses.loss_weight,
            "box": losses.loss_weight * losses.box_loss_weight,
        }
        self.betas = {"box": boxes.box_loss(losses, losses.huber_loss_delta).beta}
        self.modules = {
            "backbone": self.model.backbone.trainable_variables,
            "decoder": self.model.decoder.trainable_variables,
            "head": self.model.head.trainable_variables,
        }

    _min_positive_iou = mmdetection_labels.RETINANET_MIN_POSITIVE_IOU

    def candidates(self, batch: Batch) -> dict[str, list[Candidates]]:
        """See base class."""
        parser = self.config.train_data.parser
        losses = self._background_losses(batch.images).numpy()
        thresholds = (parser.match_threshold, parser.unmatched_threshold)
        return {"anchors": self._match_anchors(batch, *thresholds, losses)}

    @functools.cached_property
    def _background_losses(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Function from images to the loss `[B, N]` of each anchor if it is background."""
        losses = self.config.losses
        loss_fn = focal_loss.FocalLoss(
            losses.focal_loss_alpha, losses.focal_loss_gamma, keras.losses.Reduction.NONE
        )

        @tf.function(autograph=False)
        def compute(images: tf.Tensor) -> tf.Tensor:
            features = self.model.decoder(
                self.model.backbone(images, training=False), training=False
            )
            scores = self.model.head(features, training=False)[0]
            logits = loss_utils.multi_level_flatten(scores, self.config.model.num_classes)
            return tf.reduce_sum(loss_fn(tf.zeros_like(logits), logits), axis=-1)

        return compute

    def take_step(self, images: tf.Tensor, labels: dict[str, Any]) -> TrainingStep:
        """See base class."""
        outputs = self.model(images, training=True)
        _, cls_loss, box_loss, _ = self.task.build_losses(outputs, labels)
        weighted = {"cls": self.losses["cls"] * cls_loss, "box": self.losses["box"] * box_loss}
        errors = boxes.of_anchors(
            outputs["box_outputs"], labels["box_targets"], labels["box_weights"]
        )
        targets = labels["cls_targets"]
        classes = ClassHead(
            "cls", [outputs["cls_outputs"][level] for level in targets], list(targets.values())
        )
        return TrainingStep(weighted, [BoxHead("box", errors)], [classes])
