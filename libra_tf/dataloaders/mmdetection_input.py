"""Input prepared as in MMDetection.

In evaluation an image keeps its shape. In training it is padded to one of two, landscape or
portrait, and all images of a batch have the same (`libra_tf.dataloaders.orientation`).
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.vision.dataloaders import maskrcnn_input
from official.vision.ops import box_ops, preprocess_ops

from libra_tf.dataloaders import mmdetection_images, mmdetection_labels
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator


class MMDetectionMixin:
    """Makes a Model Garden parser prepare images, boxes and targets as MMDetection does.

    `output_size` has the maximum lengths of the two sides, in either order. Of the augmentation,
    only the horizontal flip has an effect. Evaluation images differ in shape, so a batch holds only
    one. Their anchors get no targets, so there are no losses.
    """

    def _parse_train_data(
        self, data: Mapping[str, tf.Tensor], *args: Any
    ) -> tuple[tf.Tensor, dict[str, Any]]:
        """Parses an image for training.

        Args:
          data: a decoded example from Model Garden's decoder.
          *args: None here; Model Garden's RetinaNet accepts a labeler and anchors.

        Returns:
          image: `[height, width, 3]`, normalised, in one of the two shapes.
          labels: `image_info` (see `mmdetection_images.prepare`); `anchor_boxes` by level;
            `gt_boxes` `[max_num_instances, 4]` and `gt_classes` `[max_num_instances]`, padded with
            -1; and the targets of the anchors for all objects, see `mmdetection_labels`.
        """
        image, boxes, classes = (
            data["image"],
            data["groundtruth_boxes"],
            data["groundtruth_classes"],
        )
        is_object = trained_objects(boxes, data["groundtruth_is_crowd"], tf.shape(image)[:2])
        boxes, classes = (tf.boolean_mask(x, is_object) for x in (boxes, classes))
        image, image_info = mmdetection_images.resize_and_normalize(image, *self._sides)
        if self._aug_rand_hflip:
            # After resizing, whose rounding differs between an image and its mirror image.
            image, boxes, _ = preprocess_ops.random_horizontal_flip(image, boxes)
        image = mmdetection_images.pad_for_training(image, image_info[0], *self._sides)
        boxes = box_ops.clip_boxes(boxes * tf.tile(image_info[1], [2]), image_info[1])
        anchors = self._make_anchors(image)
        return tf.cast(image, self._dtype), {
            "image_info": image_info,
            "anchor_boxes": anchors,
            "gt_boxes": self._pad_objects(boxes),
            "gt_classes": self._pad_objects(classes),
            **self._label_anchors(anchors, image_info[1], boxes, classes),
        }

    def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, Any]]:
        _, labels = super()._parse_eval_data(data)
        image, image_info = mmdetection_images.prepare(data["image"], *self._sides)
        groundtruths = labels["groundtruths"]
        if "image_info" in groundtruths:
            groundtruths["image_info"] = image_info
        return tf.cast(image, self._dtype), {
            "image_info": image_info,
            "anchor_boxes": self._make_anchors(image),
            "groundtruths": groundtruths,
        }

    @property
    def _sides(self) -> list[int]:
        """The maximum lengths of the shorter and of the longer side, in pixels."""
        return sorted(self._output_size)

    def _make_anchors(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        generator = AnchorGenerator(
            self._min_level,
            self._max_level,
            self._num_scales,
            self._aspect_ratios,
            self._anchor_size,
        )
        return generator(tf.unstack(tf.shape(image)[:2]))

    def _pad_objects(self, rows: tf.Tensor) -> tf.Tensor:
        return preprocess_ops.clip_or_pad_to_fixed_size(rows, self._max_num_instances, -1)

    def _label_anchors(
        self,
        anchors: Mapping[str, tf.Tensor],
        image_size: tf.Tensor,
        boxes: tf.Tensor,
        classes: tf.Tensor,
    ) -> dict[str, Any]:
        """Returns the targets of the anchors; every detector defines it.

        Args:
          anchors: by level, `[height, width, anchors * 4]`.
          image_size: `[2]`, height and width without padding, in pixels.
          boxes: `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
          classes: `[M]`.
        """
        raise NotImplementedError


def trained_objects(boxes: tf.Tensor, is_crowd: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Returns which objects MMDetection trains on.

    They are no crowds, not thinner than a pixel, and at least partly inside of the image.

    Args:
      boxes: `[M, 4]`, `[ymin, xmin, ymax, xmax]` as shares of the sides.
      is_crowd: bool `[M]`.
      image_size: int32 `[2]`, height and width of the image as it is stored, in pixels.

    Returns:
      bool `[M]`.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]) * tf.cast(image_size, tf.float32)
    # Sides of exactly one pixel come back from their shares with an error in the last bits.
    is_thick = tf.reduce_all(sides > 1 - 1e-3, axis=1)
    inside = tf.clip_by_value(boxes, 0.0, 1.0)
    is_inside = tf.reduce_all(inside[:, 2:] > inside[:, :2], axis=1)
    return ~tf.cast(is_crowd, tf.bool) & is_thick & is_inside


class MaskRCNNParser(MMDetectionMixin, maskrcnn_input.Parser):
    """Mask R-CNN's parser that prepares input as MMDetection does. It labels all anchors."""

    def _label_anchors(
        self,
        anchors: Mapping[str, tf.Tensor],
        image_size: tf.Tensor,
        boxes: tf.Tensor,
        classes: tf.Tensor,
    ) -> dict[str, Any]:
        del classes
        return mmdetection_labels.label_rpn(
            anchors, image_size, boxes, self._rpn_match_threshold, self._rpn_unmatched_threshold
        )
