"""Precision against recall, and precision, recall and F1 against the score."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from libra_tf.evaluation import matching
from libra_tf.evaluation.matching import ALL_SIZES, RECALLS, ClassMatches, Matches

# IoU thresholds of the curves of precision against recall, by the names they have in the result.
_IOU_THRESHOLDS = {"0.5": 0.5, "0.75": 0.75}
_SCORE_IOU = 0.5
_SCORES = np.arange(101) / 100


def measure(matches: Matches) -> dict[str, Any]:
    """Computes the curves of a detector.

    Args:
      matches: see `matching.match`.

    Returns:
      `recall`: the 101 recalls 0, 0.01, ..., 1.

      `precision`: for the IoU thresholds `0.5` and `0.75` pycocotools' interpolated precision at
      these recalls, of objects of all sizes and with 100 detections of a class in an image:
      `classes` by category id, None for a class without objects, and `mean` over the others.

      `scores`: what is right if only detections with at least some score are shown, at IoU 0.5.
      `thresholds` are the scores 0, 0.01, ..., 1. `classes` has, by category id, `precision`,
      `recall` and `f1` at these thresholds, and `all` the same for the detections of all classes
      together. The precision of no detections is None, and so are recall and F1 without objects.
      `best` has the `threshold`, among all scores that detections have, with the greatest F1 (of
      equally good ones the highest), and its `precision`, `recall` and `f1`; it is None if no
      object is found. What pycocotools ignores does not count.
    """
    by_class = [_Counts.of([class_]) for class_ in matches.classes]
    return {
        "recall": list(RECALLS),
        "precision": {
            name: _precision(matches, threshold) for name, threshold in _IOU_THRESHOLDS.items()
        },
        "scores": {
            "thresholds": _SCORES.tolist(),
            "all": _against_scores(_Counts.of(matches.classes)),
            "classes": {
                category_id: _against_scores(counts)
                for category_id, counts in zip(matches.category_ids, by_class, strict=True)
            },
        },
    }


def _precision(matches: Matches, threshold: float) -> dict[str, Any]:
    index = matching.index_of(threshold), slice(None), slice(None), ALL_SIZES
    curves = matches.precision[index]
    return {
        "mean": matching.mean_curve(curves),
        "classes": {
            category_id: matching.mean_curve(curves[:, [number]])
            for number, category_id in enumerate(matches.category_ids)
        },
    }


@dataclasses.dataclass(frozen=True)
class _Counts:
    """What is right and wrong among the detections that have at least a score.

    Attributes:
      scores: `[N]` float64, of the detections that count, in ascending order.
      hits: `[N]` int64, how many of the detections from each one on find an object.
      num_objects: objects to be found.
    """

    scores: np.ndarray
    hits: np.ndarray
    num_objects: int

    @classmethod
    def of(cls, classes: Sequence[ClassMatches]) -> "_Counts":
        """Collects the detections of some classes."""
        scores, matched = matching.counting(classes, _SCORE_IOU)
        order = np.argsort(scores)
        hits = np.cumsum(matched[order][::-1])[::-1]
        num_objects = sum(int(class_.num_objects[ALL_SIZES]) for class_ in classes)
        return cls(scores[order], hits, num_objects)

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns precision, recall and F1 at thresholds; NaN where they are undefined."""
        first = np.searchsorted(self.scores, thresholds)
        shown = len(self.scores) - first
        hits = np.append(self.hits, 0)[first]
        with np.errstate(invalid="ignore"):
            precision = hits / shown
            recall = hits / np.full_like(hits, self.num_objects)
            f1 = 2 * hits / (shown + self.num_objects)
        return precision, recall, np.where(np.isnan(recall), np.nan, f1)


def _against_scores(counts: _Counts) -> dict[str, Any]:
    precision, recall, f1 = map(_without_nan, counts.at(_SCORES))
    return {"precision": precision, "recall": recall, "f1": f1, "best": _best(counts)}


def _best(counts: _Counts) -> dict[str, float] | None:
    if not counts.hits.any():
        return None
    thresholds = np.unique(counts.scores)[::-1]
    precision, recall, f1 = counts.at(thresholds)
    best = np.argmax(f1)
    values = {"threshold": thresholds, "precision": precision, "recall": recall, "f1": f1}
    return {name: float(value[best]) for name, value in values.items()}


def _without_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
