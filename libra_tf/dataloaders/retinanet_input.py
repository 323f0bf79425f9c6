"""RetinaNet's input parsers: Model Garden's, with additions for the Libra task."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from official.vision.dataloaders import retinanet_input
from official.vision.ops import anchor, preprocess_ops

from libra_tf.dataloaders import mmdetection_input, mmdetection_labels


class Parser(retinanet_input.Parser):
    """Model Garden's parser with a graph that TensorFlow can make deterministic.

    Model Garden's graph has control dependencies on its arguments. These get lost when op
    determinism splits the graph into a random and a parallel part ("input[0] == '^args_3', is not
    found"). Dependencies on the results of operations do not, so each argument passes through an
    identity first.
    """

    def parse_fn(
        self, is_training: bool
    ) -> Callable[[Mapping[str, tf.Tensor]], tuple[tf.Tensor, dict[str, Any]]]:
        """Returns the function that parses a decoded example."""
        parse = super().parse_fn(is_training)
        return lambda example: parse(tf.nest.map_structure(tf.identity, example))


class ParserWithObjects(Parser):
    """Also returns the objects, `gt_boxes` and `gt_classes`, which the losses do not need."""

    def _parse_train_data(
        self,
        data: Mapping[str, tf.Tensor],
        anchor_labeler: anchor.AnchorLabeler | None = None,
        input_anchor: Any = None,
    ) -> tuple[tf.Tensor, dict[str, Any]]:
        labeler = _RememberingLabeler(
            self._match_threshold, self._unmatched_threshold, self._box_coder_weights
        )
        image, labels = super()._parse_train_data(data, labeler, input_anchor)
        objects = {"gt_boxes": labeler.gt_boxes, "gt_classes": labeler.gt_classes}
        for name, rows in objects.items():
            labels[name] = preprocess_ops.clip_or_pad_to_fixed_size(
                rows, self._max_num_instances, -1
            )
        return image, labels


class _RememberingLabeler(anchor.AnchorLabeler):
    """Keeps the augmented boxes, which the parser passes only to its labeler."""

    def label_anchors(
        self,
        anchor_boxes: Mapping[str, tf.Tensor],
        gt_boxes: tf.Tensor,
        gt_labels: tf.Tensor,
        *args,
        **kwargs,
    ) -> tuple[Any, ...]:
        """See base class."""
        self.gt_boxes, self.gt_classes = gt_boxes, gt_labels[:, 0]
        return super().label_anchors(anchor_boxes, gt_boxes, gt_labels, *args, **kwargs)


class MMDetectionParser(mmdetection_input.MMDetectionMixin, Parser):
    """RetinaNet's parser that prepares input as MMDetection does."""

    def _label_anchors(
        self,
        anchors: Mapping[str, tf.Tensor],
        image_size: tf.Tensor,
        boxes: tf.Tensor,
        classes: tf.Tensor,
    ) -> dict[str, Any]:
        return mmdetection_labels.label_retinanet(
            anchors, image_size, boxes, classes, self._match_threshold, self._unmatched_threshold
        )
