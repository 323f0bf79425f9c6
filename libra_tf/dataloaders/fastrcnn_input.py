"""Input parser of Fast R-CNN: Mask R-CNN's parser, plus the proposals of each image."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.vision.dataloaders import maskrcnn_input
from official.vision.ops import box_ops, preprocess_ops

from libra_tf.dataloaders.proposals import read_proposals

# Class that marks a proposal among the instances. Real classes are positive, and padding is -1.
_PROPOSAL = -2


class Parser(maskrcnn_input.Parser):
    """Model Garden's parser of images and boxes that also returns the proposals of each image.

    In training, proposals pass through the base class as if they were instances, so they get the
    same random flip, scale and crop as the image. The labels contain neither anchors nor their
    targets.

    Args:
      folder: folder of proposals; see `libra_tf.dataloaders.proposals`.
      num_proposals: number of proposals per image. Surplus ones are cut off at the end, and missing
        ones are padded with boxes of -1, as Model Garden pads instances.
      max_level: coarsest level of the pyramid.
      max_num_instances: number of instances per image, cut and padded in the same way.
      **kwargs: arguments of Model Garden's parser; those for anchors have no effect.
    """

    def __init__(
        self,
        folder: str,
        num_proposals: int,
        max_level: int,
        max_num_instances: int = 100,
        **kwargs,
    ):
        # The base class always labels anchors. With this few of them, that costs nothing.
        few_anchors = {
            "min_level": max_level,
            "max_level": max_level,
            "num_scales": 1,
            "aspect_ratios": [1.0],
            "anchor_size": 1.0,
        }
        max_num_boxes = max_num_instances + num_proposals
        super().__init__(**{**kwargs, **few_anchors, "max_num_instances": max_num_boxes})
        self._folder = folder
        self._num_proposals = num_proposals
        self._num_instances = max_num_instances

    def _parse_train_data(
        self, data: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Parses an image for training.

        Args:
          data: a decoded example from Model Garden's decoder.

        Returns:
          image: `[height, width, 3]`, normalised.
          labels: `image_info` (see Model Garden); `gt_boxes` `[max_num_instances, 4]` and
            `proposals` `[num_proposals, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the scaled
            image, -1 for padding; `gt_classes` `[max_num_instances]`, -1 for padding.
        """
        proposals = self._read_proposals(data)
        image, labels = super()._parse_train_data(_with_instances(data, proposals))
        boxes, classes = labels["gt_boxes"], labels["gt_classes"]
        is_instance = tf.greater_equal(classes, 0)
        return image, {
            "image_info": labels["image_info"],
            "gt_boxes": _pad(tf.boolean_mask(boxes, is_instance), self._num_instances),
            "gt_classes": _pad(tf.boolean_mask(classes, is_instance), self._num_instances),
            "proposals": _pad(
                tf.boolean_mask(boxes, tf.equal(classes, _PROPOSAL)), self._num_proposals
            ),
        }

    def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, Any]]:
        """Parses an image for evaluation.

        Args:
          data: a decoded example from Model Garden's decoder.

        Returns:
          image: `[height, width, 3]`, normalised.
          labels: `image_info` and `groundtruths` (see Model Garden), and `proposals` as in
            training.
        """
        image, labels = super()._parse_eval_data(data)
        size, scale, offset = (labels["image_info"][row] for row in (1, 2, 3))
        boxes = preprocess_ops.resize_and_crop_boxes(
            self._read_proposals(data), scale, size, offset
        )
        boxes = tf.gather(boxes, box_ops.get_non_empty_box_indices(boxes))
        del labels["anchor_boxes"]
        return image, {**labels, "proposals": _pad(boxes, self._num_proposals)}

    def _read_proposals(self, data: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return read_proposals(self._folder, data["source_id"])[: self._num_proposals]


def _with_instances(data: Mapping[str, tf.Tensor], boxes: tf.Tensor) -> dict[str, tf.Tensor]:
    """Appends boxes, in pixels, to the instances of a decoded example."""
    num_boxes = tf.shape(boxes)[:1]
    classes, is_crowd = data["groundtruth_classes"], data["groundtruth_is_crowd"]
    added = {
        "groundtruth_boxes": box_ops.normalize_boxes(boxes, tf.shape(data["image"])[:2]),
        "groundtruth_classes": tf.fill(num_boxes, tf.cast(_PROPOSAL, classes.dtype)),
        "groundtruth_is_crowd": tf.zeros(num_boxes, is_crowd.dtype),
    }
    return {
        **data,
        **{key: tf.concat([data[key], value], axis=0) for key, value in added.items()},
    }


def _pad(rows: tf.Tensor, num_rows: int) -> tf.Tensor:
    return preprocess_ops.clip_or_pad_to_fixed_size(rows, num_rows, -1)
