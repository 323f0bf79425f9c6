"""Category ids for the classes of a checkpoint."""

from collections.abc import Mapping
from typing import Any

# The ids that COCO skips between those of its 80 classes; MMDetection numbers them without gaps.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]
_COCO_ENDS = ("person", "toothbrush")


def read_names(meta: Mapping[str, Any]) -> list[str] | None:
    """Returns the class names in MMDetection's order, None if the checkpoint has none.

    Args:
      meta: the checkpoint's metadata.
    """
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = dataset.get("classes") or dataset.get("CLASSES") or meta.get("CLASSES")
    return list(map(str, names)) if isinstance(names, (list, tuple)) else None


def assign_ids(names: list[str] | None, num_labels: int) -> list[int]:
    """Returns the category ids of the classes, in MMDetection's order.

    COCO's classes get COCO's ids, 1 to 90 with gaps, as in its annotation files; other classes are
    numbered from 1.

    Args:
      names: the class names; None if they are not known.
      num_labels: the number of classes.
    """
    is_coco = num_labels == len(_COCO_IDS) and (
        names is None or (*names[:1], *names[-1:]) == _COCO_ENDS
    )
    return _COCO_IDS if is_coco else list(range(1, num_labels + 1))
