"""Masks of detections, from the grid over their box to the pixels of their image."""

from typing import Any

import numpy as np
from official.vision.ops import box_ops, mask_ops

from libra_tf.data import segmentations


def encode(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> list[dict[str, Any]]:
    """Pastes masks into their image, as an evaluation does.

    Args:
      masks: `[N, h, w]`, the probability in each cell of a regular grid over the box.
      boxes: `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      Each mask in COCO's run-length encoding.
    """
    boxes = box_ops.yxyx_to_xywh(boxes.astype(float))
    # One at a time: all masks of a large image would take gigabytes.
    return [
        segmentations.compress(
            mask_ops.paste_instance_masks(mask[None], box[None], height, width)[0]
        )
        for mask, box in zip(masks, boxes, strict=True)
    ]
