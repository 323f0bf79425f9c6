"""Evaluation input as MMDetection prepares it: every image keeps its shape."""

from collections.abc import Mapping

import tensorflow as tf
from official.vision.dataloaders import maskrcnn_input

from libra_tf.dataloaders import mmdetection_images
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator


class KeepsShapeMixin:
    """For one of Model Garden's parsers: prepares evaluation images as MMDetection does.

    `output_size` has the two sides that images are resized to, in either order. Images get shapes
    of their own, so a batch holds one. There are no targets of anchors, so no losses.
    """

    def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict]:
        _, labels = super()._parse_eval_data(data)
        image, image_info = mmdetection_images.prepare(data["image"], *sorted(self._output_size))
        generator = AnchorGenerator(
            self._min_level,
            self._max_level,
            self._num_scales,
            self._aspect_ratios,
            self._anchor_size,
        )
        groundtruths = labels["groundtruths"]
        if "image_info" in groundtruths:
            groundtruths["image_info"] = image_info
        return tf.cast(image, self._dtype), {
            "image_info": image_info,
            "anchor_boxes": generator(tf.unstack(tf.shape(image)[:2])),
            "groundtruths": groundtruths,
        }


class MaskRCNNParser(KeepsShapeMixin, maskrcnn_input.Parser):
    """Mask R-CNN's parser that prepares evaluation images as MMDetection does."""
