"""Faster, Mask and Cascade R-CNN, as the measures see them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.analysis.batches import Batch
from libra_tf.analysis.detector import BoxHead, ClassHead, Detector, TrainingStep
from libra_tf.analysis.samples import Candidates
from libra_tf.balance import boxes, quotas, samples
from libra_tf.dataloaders import mmdetection_labels
from libra_tf.modeling import roi_sampler
from libra_tf.modeling.mmdetection import rois as mmdetection_rois
from libra_tf.runs.trained_run import TrainedRun


class TwoStage(Detector):
    """Faster, Mask or Cascade R-CNN: the candidates are the proposals, and the RPN's anchors."""

    def __init__(self, run: TrainedRun):
        super().__init__(run)
        model, losses = self.config.model, self.config.losses
        self.quotas = {
            "proposals": quotas.of_proposals(model.roi_sampler),
            "rpn_anchors": quotas.of_rpn_anchors(model.rpn_sampler, self.config.train_data.parser),
        }
        weights = {
            "rpn_score": losses.rpn_score_weight,
            "rpn_box": losses.rpn_box_weight,
            "frcnn_cls": losses.frcnn_class_weight,
            "frcnn_box": losses.frcnn_box_weight,
            **({"mask": losses.mask_weight} if model.include_mask else {}),
        }
        self.losses = {name: losses.loss_weight * weight for name, weight in weights.items()}
        self._is_mmdetections = bool(model.compatibility)
        # MMDetection's loss is L1, which has no knee of its own; see `boxes.box_loss`.
        knee = losses.balanced_l1.beta if self._is_mmdetections else losses.rpn_huber_loss_delta
        self.betas = {
            "rpn_box": knee,
            "frcnn_box": boxes.box_loss(losses, losses.frcnn_huber_loss_delta).beta,
        }
        self.modules = {
            "backbone": self.model.backbone.trainable_variables,
            "decoder": self.model.decoder.trainable_variables,
            "rpn_head": self.model.rpn_head.trainable_variables,
            **{
                f"detection_head{_suffix(stage)}": head.trainable_variables
                for stage, head in enumerate(self.model.detection_head)
            },
            **(
                {"mask_head": self.model.mask_head.trainable_variables}
                if model.include_mask
                else {}
            ),
        }

    _min_positive_iou = mmdetection_labels.RPN_MIN_POSITIVE_IOU

    def candidates(self, batch: Batch) -> dict[str, list[Candidates]]:
        """See base class."""
        parser = self.config.train_data.parser
        proposals, roi_losses, anchor_losses = self._propose(batch.images, batch.labels)
        roi_losses, anchor_losses = roi_losses.numpy(), anchor_losses.numpy()
        thresholds = (parser.rpn_match_threshold, parser.rpn_unmatched_threshold)
        return {
            "proposals": [
                self._match_proposals(batch, i, proposals[i], roi_losses[i])
                for i in range(len(proposals))
            ],
            "rpn_anchors": self._match_anchors(batch, *thresholds, anchor_losses),
        }

    @functools.cached_property
    def _propose(
        self,
    ) -> Callable[[tf.Tensor, dict[str, Any]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Function from images and labels to proposals and to the losses as background.

        These are proposals `[B, P, 4]`, and the losses of the proposals `[B, P]` and of the RPN's
        anchors `[B, N]`.
        """
        model = self.model

        @tf.function(autograph=False)
        def compute(
            images: tf.Tensor, labels: dict[str, Any]
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            features = model.decoder(model.backbone(images, training=False), training=False)
            scores, rpn_boxes = model.rpn_head(features, training=False)
            rois = roi_sampler.propose(model, rpn_boxes, scores, labels)
            logits, _ = model.detection_head[0](model.roi_aligner(features, rois), training=False)
            flat = [tf.reshape(scores[str(k)], [tf.shape(images)[0], -1]) for k in self.levels]
            background = -tf.nn.log_softmax(logits)[..., 0]
            return rois, background, tf.math.softplus(tf.concat(flat, axis=1))

        return compute

    def _match_proposals(
        self, batch: Batch, index: int, proposals: tf.Tensor, losses: np.ndarray
    ) -> Candidates:
        matches = samples.match_proposals(
            proposals, batch.gt_boxes(index), self.model.roi_sampler[0]
        )
        if self._is_mmdetections:
            levels = mmdetection_rois.assign_levels(proposals).numpy()
        else:
            levels = _levels_of_rois(proposals.numpy(), self.levels)
        return batch.candidates(index, proposals.numpy(), matches, levels, losses)

    def take_step(self, images: tf.Tensor, labels: dict[str, Any]) -> TrainingStep:
        """See base class."""
        outputs = self.model(
            images,
            image_shape=labels["image_info"][:, 1],
            anchor_boxes=labels["anchor_boxes"],
            gt_boxes=labels["gt_boxes"],
            gt_classes=labels["gt_classes"],
            **{name: labels[name] for name in ("gt_masks", "gt_outer_boxes") if name in labels},
            training=True,
        )
        losses = self.task.build_losses(outputs, labels)
        weighted = {name: self.losses[name] * losses[f"{name}_loss"] for name in self.losses}
        sampled = labels["rpn_score_targets"] if self._is_mmdetections else None
        errors = boxes.of_rpn(outputs["rpn_boxes"], labels["rpn_box_targets"], sampled)
        heads = [BoxHead("rpn_box", errors)]
        stages = range(len(self.model.detection_head))
        return TrainingStep(
            weighted,
            heads + [self._box_head(outputs, stage) for stage in stages],
            [_class_head(outputs, stage) for stage in stages],
        )

    def _box_head(self, outputs: dict[str, Any], stage: int) -> BoxHead:
        suffix = _suffix(stage)
        errors = boxes.of_rois(
            outputs[f"box_outputs{suffix}"],
            outputs[f"box_targets{suffix}"],
            outputs[f"class_targets{suffix}"],
            self.config.model.detection_head.class_agnostic_bbox_pred,
        )
        return BoxHead("frcnn_box", errors)


def _class_head(outputs: dict[str, Any], stage: int) -> ClassHead:
    suffix = _suffix(stage)
    return ClassHead(
        "frcnn_cls", [outputs[f"class_outputs{suffix}"]], [outputs[f"class_targets{suffix}"]]
    )


def _suffix(stage: int) -> str:
    return f"_{stage}" if stage else ""


def _levels_of_rois(rois: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """The level that each RoI `[N, 4]` is pooled from, by Model Garden's rule."""
    sides = rois[:, 2:] - rois[:, :2]
    with np.errstate(divide="ignore"):
        unlimited = np.floor(np.log2(np.sqrt(np.maximum(sides.prod(-1), 0)) / 224)) + 4
    return np.clip(unlimited, levels[0], levels[-1]).astype(np.int64)
