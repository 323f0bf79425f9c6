"""COCO's average precision and recall.

https://cocodataset.org/#detection-eval
"""

from typing import Any

import numpy as np

from libra_tf.evaluation import matching
from libra_tf.evaluation.matching import ALL_SIZES, MAX_DETECTIONS, SIZES, Matches


def measure(matches: Matches) -> dict[str, Any]:
    """Measures how well a detector ranks and places its detections.

    Args:
      matches: see `matching.match`.

    Returns:
      `all` and `classes`. `all` has pycocotools' twelve numbers in 0..1: the average precision `AP`
      over the IoU thresholds 0.5, 0.55, ..., 0.95, `AP50` and `AP75` at one threshold, `APs`,
      `APm` and `APl` for small, medium and large objects; the average recall `AR1`, `AR10` and
      `AR100` with at most so many detections of a class in an image, and `ARs`, `ARm` and `ARl`
      with 100. `classes` has for each category id its average precisions and `num_objects`, the
      number of its objects that are not crowds. What has no objects is None.
    """
    recall = matches.recall[matching.COCO_THRESHOLDS]
    recalls = {
        f"AR{limit}": recall[:, :, ALL_SIZES, number] for number, limit in enumerate(MAX_DETECTIONS)
    }
    recalls |= {
        f"AR{size[0]}": recall[:, :, number, -1] for number, size in enumerate(SIZES) if number
    }
    return {
        "all": _average_precisions(matches.precision)
        | {name: matching.mean(values) for name, values in recalls.items()},
        "classes": {
            category_id: {
                **_average_precisions(matches.precision[:, :, [number]]),
                "num_objects": int(matches.classes[number].num_objects[ALL_SIZES]),
            }
            for number, category_id in enumerate(matches.category_ids)
        },
    }


def _average_precisions(precision: np.ndarray) -> dict[str, float | None]:
    """Averages precisions of the shape `[T, 101, K, A]`."""
    all_sizes = precision[..., ALL_SIZES]
    values = {
        "AP": all_sizes[matching.COCO_THRESHOLDS],
        "AP50": all_sizes[matching.index_of(0.5)],
        "AP75": all_sizes[matching.index_of(0.75)],
    }
    for number, size in enumerate(SIZES):
        if size != "all":
            values[f"AP{size[0]}"] = precision[matching.COCO_THRESHOLDS, ..., number]
    return {name: matching.mean(value) for name, value in values.items()}
