"""Which detections find which objects: matched once, for every number of an evaluation.

pycocotools matches the detections of a class with its objects (`COCOeval.evaluateImg`) and
accumulates the precision (`COCOeval.accumulate`). Most of its time and memory go into classes that
were detected in an image without an object of theirs. Nothing can be matched there, so those are
done for all images at once.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console
from pycocotools import cocoeval

from libra_tf.cli.progress import Progress
from libra_tf.evaluation import overlaps
from libra_tf.evaluation.subject import Subject

_COCO = cocoeval.Params("bbox")
# COCO's, and the one below them that its error analysis begins at.
IOU_THRESHOLDS = (0.1, *_COCO.iouThrs.tolist())
COCO_THRESHOLDS = slice(1, None)
RECALLS = tuple(_COCO.recThrs.tolist())
SIZES = tuple(_COCO.areaRngLbl)
ALL_SIZES = SIZES.index("all")
# In an image and of a class.
MAX_DETECTIONS = tuple(_COCO.maxDets)
_AREA_RANGES = np.array(_COCO.areaRng, np.float64)


@dataclasses.dataclass(frozen=True)
class ClassMatches:
    """The N detections of a class, matched with its objects, for A sizes of these at T thresholds.

    Attributes:
      images: `[N]` int64, index of the image of each detection, ascending.
      scores: `[N]` float64, in descending order in each image.
      ranks: `[N]` int64, place of a detection among those of its class and image, from 0.
      matched: `[A, T, N]` bool, whether a detection found an object, which may be an ignored one.
      ignored: `[A, T, N]` bool, whether it counts neither as right nor as wrong.
      num_objects: `[A]` int64, how many objects count.
      object_images: index of the image of each object that counts among those of all sizes, int64.
    """

    images: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_objects: np.ndarray
    object_images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Matches:
    """The overlaps in all images, and what pycocotools makes of them.

    Attributes:
      category_ids: the K category ids in ascending order.
      supercategories: of each category, in the same order; None where it has none.
      kind: `subject.BOXES` or `subject.MASKS`.
      images: the overlaps in each image, in ascending order of the image ids.
      classes: the matches of each class, at `IOU_THRESHOLDS`, for `SIZES`.
    """

    category_ids: tuple[int, ...]
    supercategories: tuple[str | None, ...]
    kind: str
    images: tuple[overlaps.ImageOverlaps, ...]
    classes: tuple[ClassMatches, ...]

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """`[T, 101, K, A]` float64: pycocotools' interpolated precision at `RECALLS`.

        With 100 detections of a class in an image. NaN where there are no objects.
        """
        return _precision(self.classes, IOU_THRESHOLDS)

    @functools.cached_property
    def recall(self) -> np.ndarray:
        """`[T, K, A, M]` float64: recall with at most `MAX_DETECTIONS` of a class in an image.

        NaN where there are no objects.
        """
        return np.stack([_recall(class_) for class_ in self.classes], axis=1)

    def precision_excusing(
        self, excused: np.ndarray, progress: Progress | None = None
    ) -> np.ndarray:
        """Returns the precision if some classes could be mistaken for each other.

        Args:
          excused: `[K, K]` bool, whether detections of a class (first axis) are excused by objects
            of another class (second axis). To the first class those objects are crowds: a detection
            that lies on them, and finds no object of its own class, does not count.
          progress: shows how far it is.

        Returns:
          `[101, K, A]` float64, at the lowest of `IOU_THRESHOLDS`.
        """
        matcher = _Matcher(self.kind, self.images, excused, self.classes)
        classes = matcher.match(len(self.category_ids), "matching with excuses", progress)
        return _precision(classes, IOU_THRESHOLDS[:1])[0]


def match(subject: Subject, kind: str, progress: Progress | None = None) -> Matches:
    """Compares all detections with all objects of the same image.

    Args:
      subject: the objects and detections. It is not modified.
      kind: `subject.BOXES` or `subject.MASKS`, one of `subject.kinds`.
      progress: shows how far it is.

    Returns:
      What every module of numbers takes.
    """
    category_ids = tuple(subject.class_names)
    images = overlaps.measure(subject, kind)
    return Matches(
        category_ids=category_ids,
        supercategories=tuple(map(subject.supercategories.get, category_ids)),
        kind=kind,
        images=images,
        classes=_Matcher(kind, images).match(len(category_ids), "matching", progress),
    )


def silent() -> Progress:
    """Returns a progress that shows nothing."""
    return Progress(rich.console.Console(quiet=True, force_terminal=False))


def index_of(threshold: float) -> int:
    """Returns the place of a threshold among `IOU_THRESHOLDS`."""
    return int(np.flatnonzero(np.isclose(IOU_THRESHOLDS, threshold))[0])


def counting(classes: Sequence[ClassMatches], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Collects the detections of some classes that count, for objects of all sizes.

    Args:
      classes: at least one.
      threshold: one of `IOU_THRESHOLDS`.

    Returns:
      `[N]` float64 scores, and `[N]` bool, whether each detection has found an object.
    """
    at = ALL_SIZES, index_of(threshold)
    counted = [(class_, ~class_.ignored[at]) for class_ in classes]
    return (
        np.concatenate([class_.scores[kept] for class_, kept in counted]),
        np.concatenate([class_.matched[at][kept] for class_, kept in counted]),
    )


def mean(values: np.ndarray) -> float | None:
    """Returns the mean of the values that are not NaN; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def mean_curve(curves: np.ndarray) -> list[float] | None:
    """Averages the curves of classes with objects.

    Args:
      curves: `[101, K]` float64, NaN for classes without objects.

    Returns:
      The 101 means; None if no class has objects.
    """
    defined = curves[:, ~np.isnan(curves[0])]
    return defined.mean(axis=1).tolist() if defined.size else None


class _Matcher:
    """Matches the detections of a class with its objects, in all images.

    Attributes of all images have the detections of one image after those of another.
    """

    def __init__(
        self,
        kind: str,
        images: Sequence[overlaps.ImageOverlaps],
        excused: np.ndarray | None = None,
        without_excuses: Sequence[ClassMatches] = (),
    ):
        """Prepares to match.

        Args:
          kind: see `match`.
          images: the overlaps.
          excused: see `Matches.precision_excusing`, which needs the lowest threshold alone.
          without_excuses: the matches of each class if nothing is excused.
        """
        self._overlaps = images
        self._excused, self._without_excuses = excused, without_excuses
        self._evaluator = cocoeval.COCOeval(iouType=kind)
        thresholds = IOU_THRESHOLDS if excused is None else IOU_THRESHOLDS[:1]
        # pycocotools lets a threshold of 1 be met by a little less.
        self._thresholds = np.minimum(thresholds, 1 - 1e-10)
        self._evaluator.params.iouThrs = self._thresholds
        images = (overlaps.EMPTY, *images)
        self._scores, self._classes, self._areas = (
            np.concatenate([getattr(image, name) for image in images])
            for name in ("scores", "classes", "areas")
        )
        self._image_of = _images_of([len(image.scores) for image in self._overlaps])
        self._object_image_of = _images_of([len(image.crowds) for image in self._overlaps])
        self._first_in_image = np.searchsorted(self._image_of, np.arange(len(self._overlaps)))
        self._object_classes, self._object_areas, self._crowds = (
            np.concatenate([getattr(image, name) for image in images])
            for name in ("object_classes", "object_areas", "crowds")
        )
        # Of each class one after another, so that no class is looked for among all.
        self._by_class, self._objects_by_class = (
            np.argsort(classes, kind="stable") for classes in (self._classes, self._object_classes)
        )
        self._in_crowds = np.concatenate([self._most_in_crowds(image) for image in images])
        self._on_objects = np.concatenate([_most_on_objects(image) for image in images])

    def match(
        self, num_classes: int, phase: str, progress: Progress | None
    ) -> tuple[ClassMatches, ...]:
        """Matches the detections of each class; `phase` is what `progress` calls that."""
        self._progress = progress or silent()
        self._progress.start(phase, len(self._scores), unit="detection")
        self._num_done = 0
        classes = []
        for class_ in range(num_classes):
            found = _rows_of(class_, self._classes, self._by_class)
            classes.append(self._of_class(class_, found))
            if len(found):
                self._num_done += len(found)
                self._progress.advance(self._num_done)
        self._progress.stop()
        return tuple(classes)

    def _most_in_crowds(self, image: overlaps.ImageOverlaps) -> np.ndarray:
        """Returns `[D]`: how much of each detection the crowd that covers it most covers."""
        crowds = (image.classes[:, None] == image.object_classes) & image.crowds
        if self._excused is not None:
            crowds |= self._excused[image.classes[:, None], image.object_classes]
        return np.where(crowds, image.covered, 0).max(axis=1, initial=0)

    def _of_class(self, class_: int, found: np.ndarray) -> ClassMatches:
        image_of = self._image_of[found]
        ranks = np.arange(len(found)) - np.searchsorted(image_of, image_of)
        found, ranks = found[ranks < MAX_DETECTIONS[-1]], ranks[ranks < MAX_DETECTIONS[-1]]
        own = _rows_of(class_, self._object_classes, self._objects_by_class)
        ignored_objects = _outside(self._object_areas[own]) | self._crowds[own]
        if self._excused is None:
            ignored = np.repeat(_outside(self._areas[found])[:, None], len(self._thresholds), 1)
            matched = np.zeros_like(ignored)
        else:
            before = self._without_excuses[class_]
            ignored, matched = before.ignored[:, :1], before.matched[:, :1]
        in_crowds = self._in_crowds[found] >= self._thresholds[:, None]
        matches = ClassMatches(
            self._image_of[found],
            self._scores[found],
            ranks,
            matched | in_crowds,
            ignored | (in_crowds & ~matched),
            np.count_nonzero(~ignored_objects, axis=1),
            self._object_image_of[own][~ignored_objects[ALL_SIZES]],
        )
        self._match(class_, found, matches)
        return matches

    def _match(self, class_: int, found: np.ndarray, matches: ClassMatches) -> None:
        """Lets pycocotools match in the images where detections compete for objects.

        The other detections lie in crowds or on nothing.
        """
        competing = np.flatnonzero(self._on_objects[found] >= self._thresholds[0])
        image_of = self._image_of[found[competing]]
        for number in np.unique(image_of):
            places = competing[slice(*np.searchsorted(image_of, [number, number + 1]))]
            if self._excused is not None and not self._is_undecided(found[places]):
                continue
            self._progress.advance(self._num_done + int(places[0]))
            rows = found[places] - self._first_in_image[number]
            results = self._match_image(class_, self._overlaps[number], rows)
            for size, result in enumerate(results):
                matches.matched[size][:, places] = result["dtMatches"] > 0
                matches.ignored[size][:, places] = result["dtIgnore"]

    def _is_undecided(self, competing: np.ndarray) -> bool:
        """Returns whether excuses can change more than whether the excused detections count.

        One that found an object of another size may be matched with a crowd, and leave the object
        to another detection.
        """
        in_crowds = self._in_crowds[competing] >= self._thresholds[0]
        return len(competing) > 1 and bool(in_crowds.any())

    def _match_image(
        self, class_: int, image: overlaps.ImageOverlaps, rows: np.ndarray
    ) -> list[dict[str, Any]]:
        """Returns pycocotools' result for each size; its ids must not be 0."""
        own = image.object_classes == class_
        columns = np.flatnonzero(
            own if self._excused is None else own | self._excused[class_, image.object_classes]
        )
        crowds = image.crowds[columns] | ~own[columns]
        place = np.ix_(rows, columns)
        key = (0, class_)
        self._evaluator.ious = {key: np.where(crowds, image.covered[place], image.ious[place])}
        self._evaluator._gts = {
            key: [
                {"id": number, "area": area, "iscrowd": crowd, "ignore": crowd}
                for number, (area, crowd) in enumerate(
                    zip(image.object_areas[columns].tolist(), crowds.tolist(), strict=True), start=1
                )
            ]
        }
        self._evaluator._dts = {
            key: [
                {"id": number, "area": area, "score": score}
                for number, (area, score) in enumerate(
                    zip(image.areas[rows].tolist(), image.scores[rows].tolist(), strict=True),
                    start=1,
                )
            ]
        }
        return [
            self._evaluator.evaluateImg(*key, area_range, len(rows)) for area_range in _COCO.areaRng
        ]


def _rows_of(class_: int, classes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns which entries are of a class, ascending; `order` sorts `classes` and is stable."""
    return order[slice(*np.searchsorted(classes, [class_, class_ + 1], sorter=order))]


def _images_of(counts: Sequence[int]) -> np.ndarray:
    """Returns the index of the image of each entry, if the images have so many entries."""
    return np.repeat(np.arange(len(counts)), np.array(counts, np.int64))


def _most_on_objects(image: overlaps.ImageOverlaps) -> np.ndarray:
    """Returns `[D]`: the greatest IoU of each detection with an object of its class."""
    objects = (image.classes[:, None] == image.object_classes) & ~image.crowds
    return np.where(objects, image.ious, 0).max(axis=1, initial=0)


def _outside(areas: np.ndarray) -> np.ndarray:
    """Returns `[A, N]`: which areas are outside each range."""
    return (areas < _AREA_RANGES[:, :1]) | (areas > _AREA_RANGES[:, 1:])


def _precision(classes: Sequence[ClassMatches], thresholds: Sequence[float]) -> np.ndarray:
    """Lets pycocotools accumulate; returns `[T, 101, K, A]`, NaN where there are no objects."""
    evaluator = cocoeval.COCOeval(iouType="bbox")
    params = evaluator.params
    params.iouThrs = np.array(thresholds)
    params.catIds = list(range(len(classes)))
    # The detections of all images are one after another, and already limited.
    params.imgIds = [0]
    params.maxDets = [max((len(class_.scores) for class_ in classes), default=0)]
    evaluator._paramsEval = params
    evaluator.evalImgs = [
        {
            "dtScores": class_.scores,
            "dtMatches": class_.matched[size],
            "dtIgnore": class_.ignored[size],
            "gtIgnore": np.zeros(class_.num_objects[size]),
        }
        for class_ in classes
        for size in range(len(SIZES))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0]
    precision[precision == -1] = np.nan
    return precision


def _recall(class_: ClassMatches) -> np.ndarray:
    """Returns `[T, A, M]`, NaN where there are no objects."""
    right = class_.matched & ~class_.ignored
    hits = np.stack(
        [right[..., class_.ranks < limit].sum(axis=-1) for limit in MAX_DETECTIONS], axis=-1
    )
    with np.errstate(invalid="ignore"):
        return (hits / class_.num_objects[:, None, None]).swapaxes(0, 1)
