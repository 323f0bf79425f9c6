"""Masks of detections, from the grid over their box to the pixels of their image."""

from typing import TYPE_CHECKING, Any

import numpy as np
from official.vision.ops import mask_ops

from libra_tf.data import segmentations

if TYPE_CHECKING:
    from libra_tf.inference.client.answers import Answer


def encode(answer: "Answer") -> list[dict[str, Any]]:
    """Pastes the masks of an answer into its image, as an evaluation does.

    Args:
      answer: the detections.

    Returns:
      For each detection its mask in COCO's run-length encoding; nothing if there are no masks.
    """
    if answer.masks is None:
        return []
    ymin, xmin, ymax, xmax = answer.boxes.astype(float).T
    boxes = np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=-1)
    # One at a time: all masks of a large image would take gigabytes.
    return [
        segmentations.compress(
            mask_ops.paste_instance_masks(mask[None], box[None], answer.height, answer.width)[0]
        )
        for mask, box in zip(answer.masks, boxes, strict=True)
    ]
