"""Whether one detector is better than another, or whether the difference may be chance.

Both have detected in the same images. The images are a sample of those that could have been
photographed, so the average precision (AP) of a detector would be another one on other images.
The bootstrap (Efron, "Bootstrap methods: another look at the jackknife", 1979) shows by how much:
it draws as many images with replacement, again and again, each time the same ones for both
detectors, and looks at how the difference varies. What both find hard or easy then cancels out.

Which detection belongs to which object does not depend on the other images. So they are matched
once, and an image that is drawn n times counts n times in the sums of a draw.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.evaluation import matching
from libra_tf.evaluation.matching import ClassMatches, Matches
from libra_tf.evaluation.subject import Subject

# Percentiles of the differences: the limits of an interval of 95 %.
_LIMITS = (2.5, 97.5)
# With fewer images, the draws say too little of what other images would be like.
_FEWEST_IMAGES_OF_CLASS = 10
# With fewer draws, their percentiles are themselves chance.
_FEWEST_DRAWS = 100
_TRUTH_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


class Difference(TypedDict):
    """How much better one detector is than the other.

    Attributes:
      difference: AP of the first minus AP of the second, on all images, in -1..1.
      low: lower limit of the interval that holds the difference with 95 % confidence.
      high: its upper limit.
      is_significant: whether the interval is on one side of 0.
    """

    difference: float
    low: float
    high: float
    is_significant: bool


def compare(
    subject: Subject,
    other: Subject,
    kind: str,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    matches: Sequence[Matches] | None = None,
) -> dict[str, Difference]:
    """Measures by how much AP differs between two detectors, and how sure that is.

    The limits are percentiles of the differences in the draws (the percentile bootstrap). They are
    too close together if there are few images, such as less than 50.

    Args:
      subject: objects and detections of the first detector.
      other: the same objects with the detections of the second.
      kind: `BOXES` or `MASKS`.
      num_samples: how many times images are drawn, at least 100.
      seed: of the draws.
      progress: shows how far it is.
      matches: what `matching.match` returns for the two; None to match them here.

    Returns:
      `AP`, `AP50` and `AP75` as COCO defines them, with at most 100 detections per class and
      image; and AP of each class as `AP/NAME` if at least 10 images have objects of it. Of 20
      differences that are chance, one is expected to be significant: beware of it if there are
      many classes.

    Raises:
      UsageError: if the objects are not the same, if one of the two has no masks and `kind` is
        `MASKS`, if there are no objects, or if `num_samples` is too small.
    """
    _check(subject, other, kind)
    if num_samples < _FEWEST_DRAWS:
        raise UsageError(f"num_samples={num_samples}: draw images at least {_FEWEST_DRAWS} times")
    progress = progress or matching.silent()
    matches = matches or [matching.match(each, kind, progress) for each in (subject, other)]
    pair = [_Ranking(each.classes) for each in matches]
    num_images = len(subject.image_ids)
    generator = np.random.default_rng(seed)
    draws = []
    progress.start("comparing", num_samples, unit="draw")
    for done in range(num_samples):
        drawn = generator.integers(num_images, size=num_images)
        draws.append(_differences(pair, np.bincount(drawn, minlength=num_images)))
        progress.advance(done + 1)
    progress.stop()
    measured = _differences(pair, np.ones(num_images, int))
    names = ["AP", "AP50", "AP75", *(f"AP/{name}" for name in subject.class_names.values())]
    enough = [True] * 3 + list(pair[0].images_per_class() >= _FEWEST_IMAGES_OF_CLASS)
    return {
        name: _with_interval(difference, of_draws)
        for name, difference, of_draws, is_shown in zip(
            names, measured, np.transpose(draws), enough, strict=True
        )
        if is_shown
    }


def sentence(name: str, difference: Difference) -> str:
    """Says what a difference means.

    Args:
      name: of the metric, such as `AP50`.
      difference: a value of `compare`.

    Returns:
      Such as `+0.8 AP, 95 % between +0.2 and +1.4: more than chance`, in hundredths.
    """
    value, low, high = (f"{100 * difference[key]:+z.1f}" for key in ("difference", "low", "high"))
    verdict = "more than chance" if difference["is_significant"] else "may be chance"
    return f"{value} {name}, 95 % between {low} and {high}: {verdict}"


class _Ranking:
    """The detections of a detector, matched and sorted by score; gives AP for any draw of images.

    Detections with equal scores stay in the order of pycocotools: that of image ids and, in an
    image, that of the list of detections. The copies of an image follow one another. If it has
    several detections with the same class and score, the copies of each follow one another.
    """

    def __init__(self, classes: Sequence[ClassMatches]):
        self._thresholds = np.array(matching.IOU_THRESHOLDS[matching.COCO_THRESHOLDS])
        num_thresholds, self._num_classes = len(self._thresholds), len(classes)
        parts = list(map(_sorted_by_score, classes))
        # All detections, by class and then by score.
        self._images = np.concatenate([images for images, *_ in parts])
        is_true, is_ignored = (np.concatenate([p[i] for p in parts], axis=1) for i in (1, 2))
        ends = np.cumsum([len(images) for images, *_ in parts])
        starts = np.concatenate([[0], ends[:-1]])
        class_of = np.repeat(np.arange(self._num_classes), ends - starts)
        # A curve of precision over recall belongs to an IoU threshold and a class. Precision only
        # matters where recall grows: at the true positives.
        thresholds, self._true = np.nonzero(is_true)
        self._curves = thresholds * self._num_classes + class_of[self._true]
        self._class_starts = starts[class_of[self._true]]
        curves = np.arange(num_thresholds * self._num_classes)
        self._firsts = np.searchsorted(self._curves, curves)[self._curves]
        self._is_first = self._firsts == np.arange(len(self._true))
        self._find_ignored(is_ignored, thresholds)
        # Objects that count, with the index of their image and class.
        self._objects = np.stack(
            [
                np.concatenate([matches.object_images for matches in classes]),
                np.repeat(
                    np.arange(self._num_classes),
                    [len(matches.object_images) for matches in classes],
                ),
            ]
        )

    def _find_ignored(self, is_ignored: np.ndarray, thresholds: np.ndarray) -> None:
        """Finds which ignored detections of the same curve come before each true positive."""
        count = is_ignored.shape[1]
        of, self._ignored = np.nonzero(is_ignored)
        places = of * count + self._ignored
        self._ignored_to = np.searchsorted(places, thresholds * count + self._true)
        self._ignored_from = np.searchsorted(places, thresholds * count + self._class_starts)

    def images_per_class(self) -> np.ndarray:
        """Returns how many images have objects of each class, `[classes]`."""
        pairs = np.unique(self._objects, axis=1)
        return np.bincount(pairs[1], minlength=self._num_classes)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Computes AP.

        Args:
          weights: `[images]`, how many times each image is there.

        Returns:
          `[IoU thresholds, classes]`, in 0..1; NaN for classes without objects.
        """
        images, classes = self._objects
        num_objects = np.bincount(classes, weights[images], minlength=self._num_classes)
        weights = weights[self._images]
        true_weights = weights[self._true]
        true = _sums_before(true_weights)
        true = true[1:] - true[self._firsts]
        every = _sums_before(weights)
        ignored = _sums_before(weights[self._ignored])
        found = every[self._true + 1] - every[self._class_starts]
        found -= ignored[self._ignored_to] - ignored[self._ignored_from]
        precision = true / (found + np.spacing(1))
        recall = true / np.maximum(num_objects, 1)[self._curves % self._num_classes]
        # COCO averages the best precision at each of 101 recalls or above.
        reached = np.searchsorted(matching.RECALLS, recall, side="right")
        gained = np.diff(reached, prepend=0)
        gained[self._is_first] = reached[self._is_first]
        shape = len(self._thresholds), self._num_classes
        sums = np.bincount(self._curves, gained * self._best(precision), np.prod(shape))
        result = sums.reshape(shape) / len(matching.RECALLS)
        result[:, num_objects == 0] = np.nan
        return result

    def summary(self, weights: np.ndarray) -> np.ndarray:
        """Returns AP, AP50, AP75 and AP of each class; see `average_precision`."""
        values = self.average_precision(weights)
        at = [values[np.isclose(self._thresholds, threshold)] for threshold in (0.5, 0.75)]
        # None becomes NaN.
        means = np.array(list(map(matching.mean, [values, *at])), np.float64)
        return np.concatenate([means, values.mean(axis=0)])

    def _best(self, precision: np.ndarray) -> np.ndarray:
        """Returns the largest precision at each point of a curve or after it."""
        # A shift that is larger than any precision keeps the curves apart.
        shifts = 2 * (self._curves.max(initial=0) - self._curves)
        return np.maximum.accumulate((precision + shifts)[::-1])[::-1] - shifts


def _check(subject: Subject, other: Subject, kind: str) -> None:
    for name, each in (("first", subject), ("second", other)):
        if kind not in each.kinds:
            raise UsageError(
                f"the {name} of the two detectors has no '{kind}' detections to compare: compare "
                f"{' or '.join(repr(kind) for kind in each.kinds)}"
            )
    same = "; evaluate both on the same annotations"
    if subject.image_ids != other.image_ids:
        number = len(set(subject.image_ids) ^ set(other.image_ids))
        raise UsageError(
            f"the two detectors were evaluated on different images ({number} belong to one of them "
            f"only){same}"
        )
    if subject.class_names != other.class_names:
        raise UsageError(f"the two detectors were evaluated with different classes{same}")
    if _facts(subject) != _facts(other):
        raise UsageError(f"the two detectors were evaluated on different objects{same}")
    if all(entry["iscrowd"] for entry in subject.truth.anns.values()):
        raise UsageError("there are no objects in the images, so there is nothing to compare")


def _facts(subject: Subject) -> list[tuple[Any, ...]]:
    entries = (subject.truth.anns[id_] for id_ in sorted(subject.truth.anns))
    return [tuple(map(str, map(entry.get, _TRUTH_KEYS))) for entry in entries]


def _sorted_by_score(matches: ClassMatches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for the detections of a class, best first, `[N]` images, `[T, N]` true, ignored."""
    order = np.argsort(-matches.scores, kind="stable")
    is_matched, is_ignored = (
        values[matching.ALL_SIZES, matching.COCO_THRESHOLDS][:, order]
        for values in (matches.matched, matches.ignored)
    )
    return matches.images[order], is_matched & ~is_ignored, is_ignored


def _sums_before(values: np.ndarray) -> np.ndarray:
    """Returns the sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def _differences(pair: list[_Ranking], weights: np.ndarray) -> np.ndarray:
    first, second = (ranking.summary(weights) for ranking in pair)
    return first - second


def _with_interval(difference: float, of_draws: np.ndarray) -> Difference:
    # A draw without objects has no AP.
    low, high = np.percentile(of_draws[~np.isnan(of_draws)], _LIMITS)
    return Difference(
        difference=float(difference),
        low=float(low),
        high=float(high),
        is_significant=bool(low > 0 or high < 0),
    )
