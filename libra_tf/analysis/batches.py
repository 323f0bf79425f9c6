"""Batches of training images, as the measures need them."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.analysis.samples import Candidates
from libra_tf.balance import samples


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some training images.

    Attributes:
      images: float `[B, height, width, 3]`, normalised.
      labels: as in training, with the objects: `gt_boxes` `[B, M, 4]`, `[ymin, xmin, ymax, xmax]`
        in pixels of `images`, and `gt_classes` `[B, M]`; -1 for padding at the end.
    """

    images: tf.Tensor
    labels: dict[str, Any]

    @functools.cached_property
    def boxes(self) -> list[np.ndarray]:
        """The objects of each image, float `[M, 4]`, without padding."""
        all_boxes = self.labels["gt_boxes"].numpy()
        return [rows[rows.max(axis=-1) >= 0] for rows in all_boxes]

    @functools.cached_property
    def classes(self) -> list[np.ndarray]:
        """The category ids of the objects of each image, int `[M]`, without padding."""
        all_classes = self.labels["gt_classes"].numpy().astype(np.int64)
        return [rows[: len(boxes)] for rows, boxes in zip(all_classes, self.boxes, strict=True)]

    def gt_boxes(self, index: int) -> tf.Tensor:
        """Returns the objects of an image, float `[M, 4]`; one box of padding if it has none.

        Args:
          index: which image.
        """
        return self.labels["gt_boxes"][index, : max(len(self.boxes[index]), 1)]

    def candidates(
        self,
        index: int,
        boxes: np.ndarray,
        matches: samples.Matches,
        levels: np.ndarray,
        losses: np.ndarray,
    ) -> Candidates:
        """Returns the candidates among the boxes that a detector considers in an image.

        Args:
          index: which image.
          boxes: float array `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
          matches: how they match the objects of the image.
          levels: int array `[N]`, the pyramid level that each is seen in.
          losses: float array `[N]`, the classification loss of each if it is background.
        """
        max_ious, kinds, instances = (tensor.numpy() for tensor in matches)
        classes = self.labels["gt_classes"][index].numpy()[instances]
        classes = np.where(max_ious > 0, classes, 0)
        is_candidate = kinds > samples.NO_CANDIDATE
        parts = (boxes, max_ious, kinds, instances, classes, levels, losses)
        return Candidates(
            *(part[is_candidate] for part in parts), num_instances=len(self.boxes[index])
        )
