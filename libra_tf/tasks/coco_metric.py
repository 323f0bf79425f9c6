"""Model Garden's COCO evaluator with per-category metrics that work with plain pycocotools.

Model Garden's own reads them from `COCOeval.category_stats`, which only a fork of pycocotools has.
"""

import dataclasses
from typing import Any

import numpy as np
from official.vision.evaluation import coco_evaluator
from pycocotools import cocoeval

from libra_tf.data import annotations

_AREAS = {"": 0, " (small)": 1, " (medium)": 2, " (large)": 3}


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections in one image.

    Attributes:
      boxes: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the original image.
      classes: int64 `[N]`, category ids.
      scores: float32 `[N]`, in [0, 1].
      masks: float32 `[N, h, w]`, the probability in each cell of a regular grid over the box; None
        if the detector predicts no masks.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


class COCOEvaluator(coco_evaluator.COCOEvaluator):
    """COCO metrics for boxes and masks, overall and per category.

    The per-category keys are Model Garden's: `Precision mAP ByCategory/NAME`, optionally with
    `@50IoU`, `@75IoU`, ` (small)`, ` (medium)` or ` (large)` before the slash, and with the prefix
    `mask ` for masks. Categories that share a name have their ids after it. A category without
    objects has -1.

    Attributes:
      detections: detections of the last evaluation, by image id.
    """

    def evaluate(self) -> dict[str, Any]:
        """Returns the metrics by name and keeps the detections."""
        metrics = super().evaluate()
        names = ["source_id", "detection_boxes", "detection_classes", "detection_scores"]
        if self._include_mask:
            names.append("detection_masks")
        images = zip(*(np.concatenate(self._predictions[name]) for name in names), strict=True)
        self.detections = {
            int(image_id): Detections(_xywh_to_yxyx(boxes), classes.astype(int), *others)
            for image_id, boxes, classes, *others in images
        }
        return metrics

    def _retrieve_per_category_metrics(
        self, coco_eval: cocoeval.COCOeval, prefix: str = ""
    ) -> dict[str, Any]:
        # [IoU threshold, recall, category, area, max detections]
        precision = coco_eval.eval["precision"][..., -1]
        thresholds = coco_eval.params.iouThrs
        selections = {
            **{f"Precision mAP ByCategory{a}": precision[..., i] for a, i in _AREAS.items()},
            "Precision mAP ByCategory@50IoU": precision[np.isclose(thresholds, 0.5), ..., 0],
            "Precision mAP ByCategory@75IoU": precision[np.isclose(thresholds, 0.75), ..., 0],
        }
        start = f"{prefix} " if prefix else ""
        names = self._category_names()
        return {
            f"{start}{key}/{names.get(category, category)}": _mean_of_defined(values[:, :, index])
            for key, values in selections.items()
            for index, category in enumerate(coco_eval.params.catIds)
        }

    def _category_names(self) -> dict[int, str]:
        """Returns a different name for each category id; none without an annotation file."""
        if not self._annotation_file:
            return {}
        categories = self._coco_gt.cats.items()
        return annotations.distinct({id_: c.get("name", str(id_)) for id_, c in categories})


def _xywh_to_yxyx(boxes: np.ndarray) -> np.ndarray:
    x, y, width, height = np.moveaxis(boxes, -1, 0)
    return np.stack([y, x, y + height, x + width], axis=-1)


def _mean_of_defined(precision: np.ndarray) -> np.float32:
    defined = precision[precision > -1]
    return np.float32(defined.mean() if defined.size else -1)
