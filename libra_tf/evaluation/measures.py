"""Every number of an evaluation."""

import dataclasses
from typing import Any

from libra_tf.cli.progress import Progress
from libra_tf.evaluation import (
    average_precision,
    calibration,
    coco_errors,
    confusion,
    counts,
    curves,
    matching,
    outcomes,
    tide,
    worst_images,
)
from libra_tf.evaluation.subject import Subject

# Used where no detection is right, so that no score is better than another.
_ANY_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of boxes or of masks.

    Attributes:
      numbers: the results of `average_precision`, `curves`, `coco_errors`, `tide`, `confusion`,
        `worst_images`, `counts` and `calibration` by name, and the `score_threshold` that errors
        were counted at.
      found: what became of each object and detection at that threshold.
      matches: what all of it was measured from.
    """

    numbers: dict[str, Any]
    found: outcomes.Outcomes
    matches: matching.Matches


def measure(
    subject: Subject,
    kind: str,
    score_threshold: float | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measures everything.

    Args:
      subject: the objects and detections.
      kind: one of `subject.kinds`.
      score_threshold: the score from which detections count as shown, in [0, 1]; None for the one
        with the greatest F1 over all classes.
      progress: shows how far it is.

    Raises:
      UsageError: if the threshold does not lie in [0, 1].
    """
    matches = matching.match(subject, kind, progress)
    of_curves = curves.measure(matches)
    if score_threshold is None:
        best = of_curves["scores"]["all"]["best"]
        score_threshold = _ANY_THRESHOLD if best is None else best["threshold"]
    found = outcomes.find(subject, matches, score_threshold)
    numbers = {
        "score_threshold": score_threshold,
        "average_precision": average_precision.measure(matches),
        "curves": of_curves,
        "coco_errors": coco_errors.measure(matches, progress),
        "tide": tide.measure(matches),
        "confusion": confusion.measure(found),
        "worst_images": worst_images.measure(found),
        "counts": counts.measure(found),
        "calibration": calibration.measure(
            *matching.counting(matches.classes, outcomes.IOU_THRESHOLD)
        ),
    }
    return Measured(numbers, found, matches)
