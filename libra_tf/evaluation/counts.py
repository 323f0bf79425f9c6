"""How many objects are detected, against how many there are: in each image and of each class."""

import collections
from typing import Any

from libra_tf.evaluation.outcomes import Outcomes


def measure(found: Outcomes) -> dict[str, Any]:
    """Counts objects and detections.

    Args:
      found: what became of objects and detections; crowds are in neither number.

    Returns:
      `images`: by image id `[objects, detections]`; `by_number_of_objects`: ascending, for the
      images with as many objects as `objects` says, `images`, how many these are, and
      `mean_detections`; `classes`: by category id `{"objects", "detections"}`; `all`: the same of
      all classes, `images_with_as_many`, `images_with_more` and `images_with_fewer` detections than
      objects, and `mean_absolute_difference` of the two in an image, None without images.
    """
    truth, detections = found.subject.truth.anns, found.subject.detections.anns
    objects = [truth[id_] for id_ in found.of_objects]
    kept = [detections[id_] for id_ in found.of_detections]
    num_objects, num_detections = (_count(entries, "image_id") for entries in (objects, kept))
    of_objects, of_detections = (_count(entries, "category_id") for entries in (objects, kept))
    images = {id_: [num_objects[id_], num_detections[id_]] for id_ in found.subject.image_ids}
    differences = [detected - real for real, detected in images.values()]
    return {
        "images": images,
        "by_number_of_objects": _by_number_of_objects(list(images.values())),
        "classes": {
            id_: {"objects": of_objects[id_], "detections": of_detections[id_]}
            for id_ in found.subject.class_names
        },
        "all": {
            "objects": len(objects),
            "detections": len(kept),
            "images_with_as_many": differences.count(0),
            "images_with_more": sum(difference > 0 for difference in differences),
            "images_with_fewer": sum(difference < 0 for difference in differences),
            "mean_absolute_difference": sum(map(abs, differences)) / len(differences)
            if differences
            else None,
        },
    }


def _count(entries: list[dict[str, Any]], key: str) -> collections.Counter:
    return collections.Counter(entry[key] for entry in entries)


def _by_number_of_objects(images: list[list[int]]) -> list[dict[str, Any]]:
    grouped = collections.defaultdict(list)
    for num_objects, num_detections in images:
        grouped[num_objects].append(num_detections)
    return [
        {
            "objects": num_objects,
            "images": len(grouped[num_objects]),
            "mean_detections": sum(grouped[num_objects]) / len(grouped[num_objects]),
        }
        for num_objects in sorted(grouped)
    ]
