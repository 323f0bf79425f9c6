"""The images with the most errors, and what to draw on them.

`outcomes` says which errors there are.
"""

import collections
from typing import Any

from libra_tf.evaluation.outcomes import ERRORS, Outcome, Outcomes


def measure(found: Outcomes, num_images: int = 6) -> dict[str, Any]:
    """Counts the errors in each image.

    Args:
      found: what became of objects and detections.
      num_images: how many of the worst images to name.

    Returns:
      `totals`: by kind of error, how many there are in all images; `images`: by image id, only
      those with errors, the count of each kind; `worst`: the ids of the images with the most
      errors, most first; of equals, that with more missed objects, then the smaller id.
    """
    by_image: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
    for detection, of_detection in found.of_detections.items():
        if of_detection.outcome is not Outcome.CORRECT:
            image = found.subject.detections.anns[detection]["image_id"]
            by_image[image][of_detection.outcome] += 1
    for object_id, outcome in found.of_objects.items():
        if outcome is Outcome.MISSED:
            by_image[found.subject.truth.anns[object_id]["image_id"]][outcome] += 1

    def badness(image: int) -> tuple[int, int, int]:
        return -by_image[image].total(), -by_image[image][Outcome.MISSED], image

    return {
        "totals": _by_name(sum(by_image.values(), collections.Counter())),
        "images": {image: _by_name(by_image[image]) for image in sorted(by_image)},
        "worst": sorted(by_image, key=badness)[:num_images],
    }


def _by_name(counts: collections.Counter) -> dict[str, int]:
    return {error.value: counts[error] for error in ERRORS}
