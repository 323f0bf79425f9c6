"""Libra Mask R-CNN task: Faster, Mask and Cascade R-CNN with the Libra components."""

import random
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.common import dataset_fn as dataset_fn_lib
from official.core import task_factory
from official.vision.configs.maskrcnn import DataConfig
from official.vision.dataloaders import maskrcnn_input
from official.vision.evaluation import coco_evaluator
from official.vision.tasks import maskrcnn

from libra_tf import compat
from libra_tf.balance import boxes, quotas, samples
from libra_tf.compat import keras
from libra_tf.configs import maskrcnn as exp_cfg
from libra_tf.dataloaders import mmdetection_input, rpn_sampling
from libra_tf.modeling import box_losses, class_weights, roi_sampler
from libra_tf.modeling.mmdetection import losses as mmdetection_losses
from libra_tf.tasks import coco_metric, histograms, libra, mmdetection


@task_factory.register_task_cls(exp_cfg.LibraMaskRCNNTask)
class LibraMaskRCNNTask(libra.LibraTaskMixin, maskrcnn.MaskRCNNTask):
    """Trains a two-stage detector with balanced sampling, pyramid and box loss."""

    def build_model(self) -> keras.Model:
        """Builds Model Garden's detector and puts the balanced sampler into it."""
        model = super().build_model()
        sampler_config = self.task_config.model.roi_sampler
        if self.task_config.model.compatibility or sampler_config.type == "iou_balanced":
            roi_sampler.use_libra_sampler(
                model, sampler_config, ignore_fillers=bool(self.task_config.model.compatibility)
            )
        return model

    def build_inputs(
        self,
        params: DataConfig,
        input_context: tf.distribute.InputContext | None = None,
        dataset_fn: dataset_fn_lib.PossibleDatasetType | None = None,
    ) -> tf.data.Dataset:
        """Builds the data set of a split; in training, the RPN's sampler chooses the anchors."""
        with (
            mmdetection.parts_for(self.task_config.model),
            self._reading(params, input_context),
            mmdetection.batching_for(self.task_config.model, params, input_context),
        ):
            return self._build_inputs(params, input_context, dataset_fn)

    def _build_inputs(
        self,
        params: DataConfig,
        input_context: tf.distribute.InputContext | None,
        dataset_fn: dataset_fn_lib.PossibleDatasetType | None,
    ) -> tf.data.Dataset:
        config = self.task_config.model.rpn_sampler
        if self.task_config.model.compatibility:
            with compat.substituted(maskrcnn_input, "Parser", mmdetection_input.MaskRCNNParser):
                labelled = super().build_inputs(params, input_context, dataset_fn)
            if not params.is_training:
                return labelled
        elif rpn_sampling.is_model_gardens(config) or not params.is_training:
            return super().build_inputs(params, input_context, dataset_fn)
        else:
            labelled = super().build_inputs(
                rpn_sampling.label_all_anchors(params), input_context, dataset_fn
            )
        # Different in every run, but repeatable with `keras.utils.set_random_seed`.
        seed = random.randrange(2**31)
        first_batch = self._used(params, input_context).batches
        return rpn_sampling.sample_dataset(labelled, config, params.parser, seed, first_batch)

    def train_step(
        self,
        inputs: tuple[tf.Tensor, Mapping[str, Any]],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        metrics: list[keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """Takes one step; sampling depends on the step, so a resumed run draws the same samples."""
        roi_sampler.set_step(model, optimizer.iterations)
        return super().train_step(inputs, model, optimizer, metrics)

    def build_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any], aux_losses: Any | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns Model Garden's losses by name, and counts what the histograms show.

        Raises:
          ValueError: if weights of the classes are asked for, but not set.
        """
        class_weights.check_filled(self.task_config.losses)
        self._offer_histograms(outputs, labels)
        return super().build_losses(outputs, labels, aux_losses)

    def _count(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any], step: tf.Tensor
    ) -> histograms.Counted:
        model_config, losses = self.task_config.model, self.task_config.losses
        model, gt_boxes = self.training_histograms.model, labels["gt_boxes"][0]
        proposals = histograms.proposals_of_first_image(model, outputs, labels)
        matches = samples.match_proposals(proposals, gt_boxes, model.roi_sampler[0])
        errors = boxes.of_rois(
            outputs["box_outputs"][:1],
            outputs["box_targets"][:1],
            outputs["class_targets"][:1],
            model_config.detection_head.class_agnostic_bbox_pred,
        )
        loss = boxes.box_loss(losses, losses.frcnn_huber_loss_delta)
        return {
            **histograms.of_samples(
                matches, gt_boxes, quotas.of_proposals(model_config.roi_sampler), step
            ),
            **histograms.of_boxes(errors, loss),
        }

    def _build_rpn_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.task_config.model.compatibility:
            return mmdetection_losses.rpn_losses(outputs, labels)
        return super()._build_rpn_losses(outputs, labels)

    def _build_frcnn_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        config = self.task_config
        if config.model.compatibility:
            return mmdetection_losses.roi_losses(
                outputs, config.losses, config.model.detection_head.class_agnostic_bbox_pred
            )
        cls_loss, box_loss = super()._build_frcnn_losses(outputs, labels)
        if self.task_config.losses.box_loss == "huber":
            return cls_loss, box_loss
        return cls_loss, self._build_balanced_box_loss(outputs)

    def _build_balanced_box_loss(self, outputs: Mapping[str, Any]) -> tf.Tensor:
        """Averages the balanced L1 loss over the heads: one, or one per cascade stage."""
        losses = self.task_config.losses
        loss_fn = box_losses.BalancedFastrcnnBoxLoss(
            losses.balanced_l1,
            self.task_config.model.detection_head.class_agnostic_bbox_pred,
            losses.box_loss_normalizer,
        )
        num_stages = 1 + len(self.task_config.model.roi_sampler.cascade_iou_thresholds or ())
        suffixes = ["", *(f"_{stage}" for stage in range(1, num_stages))]
        return tf.add_n(
            [
                loss_fn(
                    outputs[f"box_outputs{suffix}"],
                    outputs[f"class_targets{suffix}"],
                    outputs[f"box_targets{suffix}"],
                )
                for suffix in suffixes
            ]
        ) / len(suffixes)

    def _build_coco_metrics(self) -> None:
        with compat.substituted(coco_evaluator, "COCOEvaluator", coco_metric.COCOEvaluator):
            super()._build_coco_metrics()
