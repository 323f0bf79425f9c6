"""What the measures need of a detector, the same for one stage and for two.

Images are the run's training images as its evaluation reads them: each once, not augmented. Labels
are made of them as its training makes them.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.losses import focal_loss, loss_utils
from official.vision.ops import anchor, box_matcher, iou_similarity, preprocess_ops

from libra_tf.analysis.samples import IGNORED, NEGATIVE, POSITIVE, Candidates, Quota
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.configs import fastrcnn, maskrcnn, retinanet
from libra_tf.dataloaders import rpn_sampling
from libra_tf.runs.trained_run import TrainedRun
from libra_tf.tasks import retinanet as retinanet_task

_MOST_IMAGES_A_BATCH = 8
_INVALID = -3


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some training images.

    Attributes:
      images: `[B, height, width, 3]`, normalised.
      labels: what the task's losses and the detector are given in training.
      boxes: by image, a float array `[M, 4]` of the objects, `[ymin, xmin, ymax, xmax]` in pixels
        of `images`.
      classes: by image, an int array `[M]`.
    """

    images: tf.Tensor
    labels: dict[str, Any]
    boxes: list[np.ndarray]
    classes: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class BoxHead:
    """The boxes that a head predicts and what it should predict.

    Attributes:
      loss: the name of the loss that learns from them.
      outputs: the predictions, one tensor or one of each level.
      errors: prediction - target, of the shapes of `outputs`.
      is_positive: bool, of the shapes of `outputs`: the coordinates that the loss counts.
      beta: the size of an error from which it is an outlier.
    """

    loss: str
    outputs: list[tf.Tensor]
    errors: list[tf.Tensor]
    is_positive: list[tf.Tensor]
    beta: float


class Detector(abc.ABC):
    """A trained detector.

    Args:
      run: where it is.

    Attributes:
      config: the config of its task.
      model: the Keras model.
      levels: its pyramid levels.
      quotas: by kind of candidates, how many are sampled.
      losses: by name, what the total loss multiplies it with.
      modules: by name, the trainable weights of its parts; the first two are shared by the losses.
    """

    quotas: dict[str, Quota]
    losses: dict[str, float]
    modules: dict[str, list[tf.Variable]]

    def __init__(self, run: TrainedRun):
        self.config = run.params.task
        self.task = run.build_task()
        self.model = run.load_model()
        self.levels = list(range(self.config.model.min_level, self.config.model.max_level + 1))

    def read(self, input_path: str | None, max_num_instances: int = 0) -> Iterator[Batch]:
        """Reads training images.

        Args:
          input_path: pattern of TFRecord files; None for those that the run was trained on.
          max_num_instances: the most objects of an image, if more than the run's config says.

        Raises:
          UsageError: if there are no such files.
        """
        data = self.config.train_data
        data = data.replace(
            input_path=input_path or data.input_path,
            is_training=False,
            drop_remainder=False,
            dtype="float32",
            global_batch_size=min(data.global_batch_size, _MOST_IMAGES_A_BATCH),
            parser={
                "max_num_instances": max(data.parser.max_num_instances, max_num_instances),
            },
        )
        try:
            dataset = self.task.build_inputs(data)
        except ValueError as error:
            raise UsageError(
                f"the training images {data.input_path} cannot be read ({error}); name a folder "
                "with --dataset"
            ) from error
        for images, labels in dataset:
            boxes, classes = _ground_truth(labels, data.parser.skip_crowd_during_training)
            yield self._with_labels(images, labels, boxes, classes)

    @abc.abstractmethod
    def candidates(self, batch: Batch) -> dict[str, list[Candidates]]:
        """Returns the candidates of every image, by kind of candidates."""

    @abc.abstractmethod
    def compute_losses(
        self, images: tf.Tensor, labels: dict[str, Any]
    ) -> tuple[dict[str, tf.Tensor], list[BoxHead]]:
        """Computes what a training step does: the losses, weighted, and the predicted boxes."""

    @abc.abstractmethod
    def _with_labels(self, images, labels, boxes, classes) -> Batch:
        """Makes a batch with the labels of training."""

    def _match_anchors(self, anchors, boxes, classes, labeler, losses):
        """The candidates among anchors, as Model Garden's labeler sees them."""
        if len(boxes):
            ious = labeler.similarity_calc(tf.constant(anchors), tf.constant(boxes))
            instances, indicators = (x.numpy() for x in labeler.matcher(ious))
            max_ious = tf.gather(ious, instances, batch_dims=1).numpy()
        else:
            instances = np.zeros(len(anchors), np.int32)
            indicators, max_ious = np.full(len(anchors), -1), np.zeros(len(anchors), np.float32)
        level_sizes = [len(level) for level in self._anchors_by_level]
        levels = np.repeat(self.levels, level_sizes)
        return _candidates(anchors, max_ious, indicators, instances, classes, levels, losses)

    def _keep_anchors(self, anchor_boxes):
        """Notes the anchors, which all images share; returns them as `[N, 4]`."""
        self._anchors_by_level = [
            tf.reshape(anchor_boxes[str(level)][0], [-1, 4]).numpy() for level in self.levels
        ]
        return np.concatenate(self._anchors_by_level)


class OneStage(Detector):
    """RetinaNet: the candidates are the anchors, and the losses take all of them."""

    def __init__(self, run: TrainedRun):
        super().__init__(run)
        parser, losses = self.config.train_data.parser, self.config.losses
        self.quotas = {
            "anchors": Quota(retinanet_task.ANCHORS_TO_SAMPLE, 0.5, parser.unmatched_threshold),
        }
        self.losses = {
            "cls": losses.loss_weight,
            "box": losses.loss_weight * losses.box_loss_weight,
        }
        self.modules = {
            "backbone": self.model.backbone.trainable_variables,
            "decoder": self.model.decoder.trainable_variables,
            "head": self.model.head.trainable_variables,
        }
        self._labeler = anchor.AnchorLabeler(
            parser.match_threshold,
            parser.unmatched_threshold,
            self.config.model.detection_generator.box_coder_weights,
        )

    def _with_labels(self, images, labels, boxes, classes):
        anchors = {level: tensor[0] for level, tensor in labels["anchor_boxes"].items()}
        made = [
            self._labeler.label_anchors(
                anchors, tf.constant(b), tf.constant(c[:, None], tf.float32)
            )
            for b, c in zip(boxes, classes, strict=True)
        ]
        cls_targets, box_targets, _, cls_weights, box_weights = (
            tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *parts)
            for parts in zip(*made, strict=True)
        )
        labels = {
            "anchor_boxes": labels["anchor_boxes"],
            "cls_targets": tf.nest.map_structure(lambda x: tf.cast(x, tf.int32), cls_targets),
            "box_targets": box_targets,
            "cls_weights": cls_weights,
            "box_weights": box_weights,
        }
        return Batch(images, labels, boxes, classes)

    def candidates(self, batch):
        """See base class."""
        anchors = self._keep_anchors(batch.labels["anchor_boxes"])
        losses = self._background_losses(batch.images).numpy()
        images = zip(batch.boxes, batch.classes, losses, strict=True)
        return {
            "anchors": [
                self._match_anchors(anchors, boxes, classes, self._labeler, image_losses)
                for boxes, classes, image_losses in images
            ]
        }

    @functools.cached_property
    def _background_losses(self):
        losses = self.config.losses
        loss_fn = focal_loss.FocalLoss(
            losses.focal_loss_alpha, losses.focal_loss_gamma, keras.losses.Reduction.NONE
        )

        @tf.function
        def compute(images):
            features = self.model.decoder(
                self.model.backbone(images, training=False), training=False
            )
            scores = self.model.head(features, training=False)[0]
            logits = loss_utils.multi_level_flatten(scores, self.config.model.num_classes)
            return tf.reduce_sum(loss_fn(tf.zeros_like(logits), logits), axis=-1)

        return compute

    def compute_losses(self, images, labels):
        """See base class."""
        outputs = self.model(images, training=True)
        _, cls_loss, box_loss, _ = self.task.build_losses(outputs, labels)
        losses = self.config.losses
        beta = losses.balanced_l1.beta
        if losses.box_loss == "huber":
            beta = losses.huber_loss_delta
        is_positive = self._unflatten(labels["box_weights"] > 0, labels["box_targets"])
        levels = list(labels["box_targets"])
        head = BoxHead(
            "box",
            [outputs["box_outputs"][level] for level in levels],
            [outputs["box_outputs"][level] - labels["box_targets"][level] for level in levels],
            is_positive,
            beta,
        )
        weighted = {"cls": self.losses["cls"] * cls_loss, "box": self.losses["box"] * box_loss}
        return weighted, [head]

    def _unflatten(self, flat, targets):
        """`[B, N]`, of anchors, as `[B, H, W, A * 4]` of every level."""
        shapes = [tf.shape(target) for target in targets.values()]
        parts = tf.split(flat, [tf.reduce_prod(shape[1:]) // 4 for shape in shapes], axis=1)
        return [
            tf.reshape(tf.repeat(part, 4, axis=1), shape)
            for part, shape in zip(parts, shapes, strict=True)
        ]


class TwoStage(Detector):
    """Faster or Cascade R-CNN: the candidates are the proposals, and the anchors of the RPN."""

    def __init__(self, run: TrainedRun):
        super().__init__(run)
        sampler, rpn = self.config.model.roi_sampler, self.config.model.rpn_sampler
        parser, losses = self.config.train_data.parser, self.config.losses
        self.quotas = {
            "proposals": Quota(
                sampler.num_sampled_rois,
                sampler.foreground_fraction,
                sampler.background_iou_high_threshold,
                sampler,
            ),
            "rpn_anchors": Quota(
                parser.rpn_batch_size_per_im,
                parser.rpn_fg_fraction,
                parser.rpn_unmatched_threshold,
                rpn,
                rpn.max_negatives_per_positive,
            ),
        }
        weights = {
            "rpn_score": losses.rpn_score_weight,
            "rpn_box": losses.rpn_box_weight,
            "frcnn_cls": losses.frcnn_class_weight,
            "frcnn_box": losses.frcnn_box_weight,
        }
        self.losses = {name: losses.loss_weight * weight for name, weight in weights.items()}
        heads = self.model.detection_head
        self.modules = {
            "backbone": self.model.backbone.trainable_variables,
            "decoder": self.model.decoder.trainable_variables,
            "rpn_head": self.model.rpn_head.trainable_variables,
            **{
                f"detection_head{_suffix(stage)}": head.trainable_variables
                for stage, head in enumerate(heads)
            },
        }
        self._rpn_labeler = anchor.RpnAnchorLabeler(
            parser.rpn_match_threshold, parser.rpn_unmatched_threshold
        )
        self._iou = iou_similarity.IouSimilarity()
        self._matcher = box_matcher.BoxMatcher(
            [
                sampler.background_iou_low_threshold,
                sampler.background_iou_high_threshold,
                sampler.foreground_iou_threshold,
            ],
            [_INVALID, -1, -2, 1],
        )

    def _with_labels(self, images, labels, boxes, classes):
        data, rpn = self.config.train_data, self.config.model.rpn_sampler
        if not rpn_sampling.is_model_gardens(rpn):
            data = rpn_sampling.label_all_anchors(data)
        parser = data.parser
        labeler = anchor.RpnAnchorLabeler(
            parser.rpn_match_threshold,
            parser.rpn_unmatched_threshold,
            parser.rpn_batch_size_per_im,
            parser.rpn_fg_fraction,
        )
        anchors = {level: tensor[0] for level, tensor in labels["anchor_boxes"].items()}
        made = [
            labeler.label_anchors(anchors, tf.constant(b), tf.constant(c[:, None], tf.float32))
            for b, c in zip(boxes, classes, strict=True)
        ]
        scores, targets = (
            tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *parts)
            for parts in zip(*made, strict=True)
        )
        labels = {
            "anchor_boxes": labels["anchor_boxes"],
            "image_info": labels["image_info"],
            "gt_boxes": _padded(boxes, self.config.train_data.parser.max_num_instances),
            "gt_classes": _padded(classes, self.config.train_data.parser.max_num_instances),
            "rpn_score_targets": scores,
            "rpn_box_targets": targets,
        }
        if not rpn_sampling.is_model_gardens(rpn):
            dataset = tf.data.Dataset.from_tensors((images, labels))
            parser = self.config.train_data.parser
            _, labels = next(iter(rpn_sampling.sample_dataset(dataset, rpn, parser, seed=0)))
        return Batch(images, labels, boxes, classes)

    def candidates(self, batch):
        """See base class."""
        outputs = self._propose(batch.images, batch.labels)
        rois, roi_losses, anchor_losses = (x.numpy() for x in outputs)
        anchors = self._keep_anchors(batch.labels["anchor_boxes"])
        images = list(zip(batch.boxes, batch.classes, strict=True))
        return {
            "proposals": [
                self._match_proposals(rois[i], *images[i], roi_losses[i])
                for i in range(len(images))
            ],
            "rpn_anchors": [
                self._match_anchors(anchors, *images[i], self._rpn_labeler, anchor_losses[i])
                for i in range(len(images))
            ],
        }

    @functools.cached_property
    def _propose(self):
        model = self.model

        @tf.function
        def compute(images, labels):
            features = model.decoder(model.backbone(images, training=False), training=False)
            scores, boxes = model.rpn_head(features, training=False)
            rois, _ = model.roi_generator(
                boxes, scores, labels["anchor_boxes"], labels["image_info"][:, 1], training=True
            )
            if self.config.model.roi_sampler.mix_gt_boxes:
                rois = tf.concat([rois, tf.cast(labels["gt_boxes"], rois.dtype)], axis=1)
            logits, _ = model.detection_head[0](model.roi_aligner(features, rois), training=False)
            flat = [tf.reshape(scores[str(k)], [tf.shape(images)[0], -1]) for k in self.levels]
            background = -tf.nn.log_softmax(logits)[..., 0]
            return rois, background, tf.math.softplus(tf.concat(flat, axis=1))

        return compute

    def _match_proposals(self, rois, boxes, classes, losses):
        is_box = rois.max(-1) >= 0
        rois, losses = rois[is_box], losses[is_box]
        if not len(boxes):
            # Model Garden's sampler counts no box of such an image as a negative.
            nothing = np.zeros(len(rois))
            indicators = np.full(len(rois), _INVALID)
            return _candidates(rois, nothing, indicators, nothing, classes, nothing, losses)
        ious = self._iou(tf.constant(rois), tf.constant(boxes, tf.float32))
        instances, indicators = (x.numpy() for x in self._matcher(ious))
        sides = rois[:, 2:] - rois[:, :2]
        with np.errstate(divide="ignore"):
            # Model Garden's rule for the level that an RoI is pooled from.
            levels = np.floor(np.log2(np.sqrt(np.maximum(sides.prod(-1), 0)) / 224)) + 4
        levels = np.clip(levels, self.levels[0], self.levels[-1])
        max_ious = ious.numpy().max(-1)
        return _candidates(rois, max_ious, indicators, instances, classes, levels, losses)

    def compute_losses(self, images, labels):
        """See base class."""
        outputs = self.model(
            images,
            image_shape=labels["image_info"][:, 1],
            anchor_boxes=labels["anchor_boxes"],
            gt_boxes=labels["gt_boxes"],
            gt_classes=labels["gt_classes"],
            training=True,
        )
        losses = self.task.build_losses(outputs, labels)
        weighted = {name: self.losses[name] * losses[f"{name}_loss"] for name in self.losses}
        heads = [self._rpn_boxes(outputs, labels)]
        heads += [
            self._roi_boxes(outputs, stage) for stage in range(len(self.model.detection_head))
        ]
        return weighted, heads

    def _rpn_boxes(self, outputs, labels):
        predicted = [outputs["rpn_boxes"][str(level)] for level in self.levels]
        targets = [labels["rpn_box_targets"][str(level)] for level in self.levels]
        # Model Garden tells the positives by their targets.
        is_positive = [
            tf.repeat(
                tf.reduce_any(
                    tf.abs(tf.reshape(t, [*t.shape[:-1], t.shape[-1] // 4, 4])) > 1e-6, axis=-1
                ),
                4,
                axis=-1,
            )
            for t in targets
        ]
        errors = [p - t for p, t in zip(predicted, targets, strict=True)]
        beta = self.config.losses.rpn_huber_loss_delta
        return BoxHead("rpn_box", predicted, errors, is_positive, beta)

    def _roi_boxes(self, outputs, stage):
        suffix = f"_{stage}" if stage else ""
        predicted = outputs[f"box_outputs{suffix}"]
        classes = tf.cast(outputs[f"class_targets{suffix}"], tf.int32)
        targets = outputs[f"box_targets{suffix}"]
        if self.config.model.detection_head.class_agnostic_bbox_pred:
            errors, of_class = predicted - targets, classes > 0
            is_positive = tf.repeat(of_class[..., None], 4, axis=-1)
        else:
            num_classes = self.config.model.num_classes
            errors = predicted - tf.tile(targets, [1, 1, num_classes])
            of_class = tf.one_hot(classes, num_classes, on_value=True, off_value=False)
            is_positive = tf.repeat(of_class & (classes > 0)[..., None], 4, axis=-1)
        losses = self.config.losses
        beta = losses.balanced_l1.beta
        if losses.box_loss == "huber":
            beta = losses.frcnn_huber_loss_delta
        return BoxHead("frcnn_box", [predicted], [errors], [is_positive], beta)


def load(run: TrainedRun) -> Detector:
    """Loads the detector of a run.

    Raises:
      UsageError: if it is of a kind that the measures do not cover, or its weights cannot be read.
    """
    config = run.params.task
    if isinstance(config, retinanet.LibraRetinaNetTask):
        return OneStage(run)
    if isinstance(config, fastrcnn.LibraFastRCNNTask) or config.model.include_mask:
        kind = "Mask R-CNN" if config.model.include_mask else "Fast R-CNN with given proposals"
        raise UsageError(
            f"{run.model_dir} holds a {kind}, which the analysis does not cover; it reads "
            "RetinaNet, Faster R-CNN and Cascade R-CNN"
        )
    assert isinstance(config, maskrcnn.LibraMaskRCNNTask)
    return TwoStage(run)


def _suffix(stage):
    return f"_{stage}" if stage else ""


def _ground_truth(labels, skip_crowd):
    """The objects of every image, `[M, 4]` in pixels of the input and classes `[M]`."""
    truth, info = labels["groundtruths"], labels["image_info"].numpy()
    all_boxes, all_classes = [], []
    for i, (_, scaled_size, scale, offset) in enumerate(info):
        is_object = truth["classes"][i].numpy() > 0
        if skip_crowd:
            is_object &= truth["is_crowds"][i].numpy() != 1
        boxes = truth["boxes"][i].numpy()[is_object]
        boxes = preprocess_ops.resize_and_crop_boxes(boxes, scale, scaled_size, offset).numpy()
        not_empty = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        all_boxes.append(boxes[not_empty])
        all_classes.append(truth["classes"][i].numpy()[is_object][not_empty].astype(np.int32))
    return all_boxes, all_classes


def _padded(arrays, length):
    """Arrays of different lengths as one tensor, -1 behind their ends."""
    length = max([length, *map(len, arrays)])
    fill = [(0, 0)] * (arrays[0].ndim - 1)
    return tf.constant(
        np.stack([np.pad(a, [(0, length - len(a)), *fill], constant_values=-1) for a in arrays])
    )


def _candidates(boxes, max_ious, indicators, instances, classes, levels, losses):
    """Candidates of Model Garden's indicators, without those that are no candidates at all."""
    valid = indicators != _INVALID
    kinds = np.select([indicators >= 0, indicators == -1], [POSITIVE, NEGATIVE], IGNORED)
    instances = np.asarray(instances, np.int64)
    of_instance = classes[instances] if len(classes) else np.zeros(len(boxes), np.int64)
    of_instance = np.where(max_ious > 0, of_instance, 0)
    parts = (boxes, max_ious, kinds, instances, of_instance, np.asarray(levels, np.int64), losses)
    return Candidates(*(part[valid] for part in parts), num_instances=len(classes))
