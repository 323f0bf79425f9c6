"""Category ids of the classes of a checkpoint."""

from collections.abc import Mapping
from typing import Any

# Of the 80 classes of COCO; MMDetection numbers them without the gaps.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]
_COCO_ENDS = ("person", "toothbrush")


def read_names(meta: Mapping[str, Any]) -> list[str] | None:
    """Returns the names of the classes in MMDetection's order, None if the file has none.

    Args:
      meta: what the checkpoint says about itself.
    """
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = dataset.get("classes") or dataset.get("CLASSES") or meta.get("CLASSES")
    return list(map(str, names)) if isinstance(names, (list, tuple)) else None


def assign_ids(names: list[str] | None, num_labels: int) -> list[int]:
    """Returns the category ids of the classes in MMDetection's order.

    COCO's classes have COCO's ids, 1 to 90 with gaps, as in its annotation files; other classes are
    numbered from 1.

    Args:
      names: their names, None if they are not known.
      num_labels: how many there are.
    """
    is_coco = num_labels == len(_COCO_IDS) and (
        names is None or (names[0], names[-1]) == _COCO_ENDS
    )
    return _COCO_IDS if is_coco else list(range(1, num_labels + 1))
