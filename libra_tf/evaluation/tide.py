"""TIDE: how much average precision each kind of error costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV 2020), section
2 and 3, with the rules of the authors' program, `tidecv` 1.0.1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from libra_tf.evaluation.matching import Matches
from libra_tf.evaluation.overlaps import EMPTY, ImageOverlaps

# In tidecv's order and with its names; the paper's section 2.2 explains them.
NAMES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)
_NO_ERROR = -1
_FOREGROUND, _BACKGROUND = 0.5, 0.1
# In an image, of all classes together.
_MAX_DETECTIONS = 100
_RECALLS = np.arange(101) / 100


def measure(matches: Matches) -> dict[str, Any]:
    """Counts errors, and measures what correcting all of one kind would gain.

    A detection is right from IoU 0.5 with an object of its class. `Cls`: wrong class, right place;
    `Loc`: right class, IoU between 0.1 and 0.5; `Both`: wrong class and such a place; `Dupe`: of an
    object that is found already; `Bkg`: no object has more than IoU 0.1. `Miss`: objects that are
    not found, and that no `Cls` or `Loc` is about. At most 100 detections of an image count.

    Args:
      matches: see `matching.match`.

    Returns:
      `AP50`, the average precision at IoU 0.5 in 0..1 as TIDE computes it: classes that were
      detected but have no objects count as 0. `dAP`: for each error, and for all false positives
      (`FalsePos`) and all false negatives (`FalseNeg`), the gain of this average precision, in
      0..1; tidecv prints percent. `counts`: how often each error occurs. Without detections and
      objects `AP50` is None, and a gain is None if nothing is left after the correction.
    """
    errors = _Errors.join([_errors_in(image) for image in (EMPTY, *matches.images)])
    average_precision = errors.average_precision()
    corrected = {name: errors.corrected(number) for number, name in enumerate(NAMES[:-1])}
    corrected["Miss"] = errors.without_missed()
    # tidecv takes losses, which come from the steps of recall, for nothing.
    gains = {
        name: None if gain is None else max(gain, 0.0)
        for name, gain in ((n, _gain(average_precision, v)) for n, v in corrected.items())
    }
    gains["FalsePos"] = _gain(average_precision, errors.without_false_positives())
    gains["FalseNeg"] = _gain(average_precision, errors.without_false_negatives())
    counts = {name: int(np.sum(errors.kinds == k)) for k, name in enumerate(NAMES[:-1])}
    counts["Miss"] = int(errors.missed.sum())
    return {"AP50": average_precision, "dAP": gains, "counts": counts}


def _gain(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


@dataclasses.dataclass(frozen=True)
class _Errors:
    """What is wrong with N detections and G objects, crowds left out.

    Attributes:
      scores: `[N]` float64.
      classes: `[N]` int64.
      right: `[N]` bool, whether a detection found an object.
      ignored: `[N]` bool, whether it lies in a crowd of its class. It has an error all the same.
      kinds: `[N]` int64, index of its error among `NAMES`; -1 if it is right.
      corrections: `[N]` int64, the class that it is right for once its error is corrected; -1 if
        the correction takes it away.
      object_classes: `[G]` int64.
      found: `[G]` bool, whether a detection found the object.
      missed: `[G]` bool, whether its error is `Miss`.
    """

    scores: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    kinds: np.ndarray
    corrections: np.ndarray
    object_classes: np.ndarray
    found: np.ndarray
    missed: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["_Errors"]) -> "_Errors":
        """Puts the detections and objects of images one after another."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def average_precision(self) -> float | None:
        """Returns what the detector has."""
        return _average_precision(*self._points(~self.ignored), self.object_classes)

    def corrected(self, kind: int) -> float | None:
        """Returns the average precision after all errors of a kind are corrected."""
        chosen = self.kinds == kind
        classes = np.where(chosen, self.corrections, np.where(self.ignored, -1, self.classes))
        points = dataclasses.replace(self, classes=classes, right=self.right | chosen)
        return _average_precision(
            *points._points(self._errors_first(classes >= 0)), self.object_classes
        )

    def without_missed(self) -> float | None:
        """Returns the average precision without the objects that are missed."""
        return _average_precision(
            *self._points(self._errors_first(~self.ignored)), self.object_classes[~self.missed]
        )

    def without_false_positives(self) -> float | None:
        """Returns the average precision with all that is wrong after all that is right."""
        points = dataclasses.replace(self, scores=self.right.astype(np.float64))
        return _average_precision(*points._points(~self.ignored), self.object_classes)

    def without_false_negatives(self) -> float | None:
        """Returns the average precision without the objects that no detection found."""
        return _average_precision(
            *self._points(self._errors_first(~self.ignored)), self.object_classes[self.found]
        )

    def _errors_first(self, kept: np.ndarray) -> np.ndarray:
        """Returns indices in tidecv's order after a correction, which decides between equals."""
        order = np.argsort(self.right, kind="stable")
        return order[kept[order]]

    def _points(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.classes[chosen], self.scores[chosen], self.right[chosen]


def _average_precision(
    classes: np.ndarray, scores: np.ndarray, right: np.ndarray, object_classes: np.ndarray
) -> float | None:
    """Averages over the classes that were detected or have objects; None if there are none."""
    present = np.union1d(classes, object_classes)
    if not present.size:
        return None
    # By class, and within a class by score.
    order = np.lexsort([-scores, classes])
    bounds = np.searchsorted(classes[order], [present, present + 1]).T
    num_objects = np.searchsorted(np.sort(object_classes), [present, present + 1])
    total = sum(
        _of_class(right[order[first:last]], number)
        for (first, last), number in zip(bounds, np.diff(num_objects, axis=0)[0], strict=True)
    )
    return float(total / len(present))


def _of_class(right: np.ndarray, num_objects: int) -> float:
    """Returns the mean interpolated precision of detections in descending order of the scores."""
    if not num_objects:
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / num_objects, _RECALLS)
    return float(np.append(precision, 0.0)[places].mean())


def _errors_in(image: ImageOverlaps) -> _Errors:
    """Finds the errors in an image."""
    objects = np.flatnonzero(~image.crowds)
    scores, classes = image.scores[:_MAX_DETECTIONS], image.classes[:_MAX_DETECTIONS]
    ious = image.ious[:_MAX_DETECTIONS, objects]
    object_classes = image.object_classes[objects]
    same = classes[:, None] == object_classes
    right, found = _found(ious * same)
    ignored = _in_crowds(image)[:_MAX_DETECTIONS] & ~right
    kinds, about = _kinds(ious, same, found)
    kinds[right] = _NO_ERROR
    corrections, correctable = _corrections(kinds, about, found, object_classes)
    return _Errors(
        scores=scores,
        classes=classes,
        right=right,
        ignored=ignored,
        kinds=kinds,
        corrections=corrections,
        object_classes=object_classes,
        found=found,
        missed=~found & ~correctable,
    )


def _found(ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matches greedily, from the highest score down; `ious` are 0 between different classes.

    Returns:
      `[D]` which detections find an object, and `[G]` which objects are found.
    """
    right, found = (np.zeros(length, bool) for length in ious.shape)
    left = ious.copy()
    for row in np.flatnonzero(ious.max(axis=1, initial=0) >= _FOREGROUND):
        column = np.argmax(left[row])
        if left[row, column] >= _FOREGROUND:
            right[row] = found[column] = True
            left[:, column] = 0
    return right, found


def _in_crowds(image: ImageOverlaps) -> np.ndarray:
    """Returns `[D]`: whether each detection lies in a crowd of its class."""
    of_class = (image.classes[:, None] == image.object_classes) & image.crowds
    return (of_class & (image.covered > _FOREGROUND)).any(axis=1)


def _kinds(ious: np.ndarray, same: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the error that each detection would be, and which object it is about.

    The rules come in this order: `Loc`, `Cls`, `Dupe`, `Bkg`, and what is left is `Both`.
    """
    if not found.size:
        return np.full(len(ious), _BKG), np.zeros(len(ious), np.int64)
    own, others = ious * same, ious * ~same
    best_own = own.max(axis=1)
    is_loc = (best_own >= _BACKGROUND) & (best_own <= _FOREGROUND)
    kinds = np.select(
        [
            is_loc,
            others.max(axis=1) >= _FOREGROUND,
            (own * found).max(axis=1) >= _FOREGROUND,
            ious.max(axis=1) <= _BACKGROUND,
        ],
        [_LOC, _CLS, _DUPE, _BKG],
        _BOTH,
    )
    return kinds, np.where(is_loc, own.argmax(axis=1), others.argmax(axis=1))


def _corrections(
    kinds: np.ndarray, about: np.ndarray, found: np.ndarray, object_classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corrects, for each object that was not found, the first detection with `Cls` or `Loc`.

    Returns:
      `[D]` the class that each detection is right for after the correction, -1 if it goes away;
      and `[G]` whether a correction is about an object that was not found.
    """
    corrections = np.full(len(kinds), -1)
    correctable = np.zeros(len(found), bool)
    for row in np.flatnonzero((kinds == _CLS) | (kinds == _LOC)):
        column = about[row]
        if not found[column] and not correctable[column]:
            correctable[column] = True
            corrections[row] = object_classes[column]
    return corrections, correctable
