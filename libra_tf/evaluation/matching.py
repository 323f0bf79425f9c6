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

import numpy as np
from pycocotools import cocoeval

from libra_tf.evaluation import overlaps
from libra_tf.evaluation.subject import Subject

_COCO = cocoeval.Params("bbox")
# COCO's, and the one below them that its error analysis begins at.
IOU_THRESHOLDS = (0.1, *_COCO.iouThrs.tolist())
RECALLS = tuple(_COCO.recThrs.tolist())
SIZES = tuple(_COCO.areaRngLbl)
# In an image and of a class.
MAX_DETECTIONS = tuple(_COCO.maxDets)
_AREA_RANGES = np.array(_COCO.areaRng, np.float64)


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What became of the N detections of a class at T thresholds.

    Attributes:
      scores: `[N]` float64, image by image and in descending order in each.
      ranks: `[N]` int64, place of a detection among those of its class and image, from 0.
      matched: `[T, N]` bool, whether a detection found an object, which may be an ignored one.
      ignored: `[T, N]` bool, whether it counts neither as right nor as wrong.
      num_objects: objects that count.
    """

    scores: np.ndarray
    ranks: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_objects: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Precision and recall at T thresholds, of K classes and A sizes of objects.

    Attributes:
      precision: `[T, 101, K, A]` float64, pycocotools' interpolated precision at `RECALLS`, with
        100 detections in an image; NaN where there are no objects.
      recall: `[T, K, A, M]` float64, with the numbers of detections in `MAX_DETECTIONS`; NaN where
        there are no objects.
      outcomes: of each class, among objects of all sizes.
    """

    precision: np.ndarray
    recall: np.ndarray
    outcomes: tuple[Outcomes, ...]


@dataclasses.dataclass(frozen=True)
class Matches:
    """The overlaps in all images, and what pycocotools makes of them.

    Attributes:
      category_ids: the K category ids in ascending order.
      supercategories: of each category, in the same order; None where it has none.
      kind: `subject.BOXES` or `subject.MASKS`.
      images: the overlaps in each image, in ascending order of the image ids.
    """

    category_ids: tuple[int, ...]
    supercategories: tuple[str | None, ...]
    kind: str
    images: tuple[overlaps.ImageOverlaps, ...]

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        """COCO's evaluation at `IOU_THRESHOLDS`."""
        return self.excusing(np.zeros([len(self.category_ids)] * 2, bool), IOU_THRESHOLDS)

    def excusing(self, excused: np.ndarray, thresholds: Sequence[float]) -> Evaluation:
        """Evaluates as if some classes could be mistaken for each other.

        Args:
          excused: `[K, K]` bool, whether detections of a class (first axis) are excused by objects
            of another class (second axis). To the first class those objects are crowds: a detection
            that lies on them, and finds no object of its own class, does not count.
          thresholds: IoU thresholds.

        Returns:
          The evaluation.
        """
        return _Matcher(self, excused, thresholds).evaluate()


def match(subject: Subject, kind: str) -> Matches:
    """Compares all detections with all objects of the same image.

    Args:
      subject: the objects and detections. It is not modified.
      kind: `subject.BOXES` or `subject.MASKS`, one of `subject.kinds`.

    Returns:
      What every module of numbers takes.
    """
    return Matches(
        category_ids=tuple(subject.class_names),
        supercategories=tuple(map(subject.supercategories.get, subject.class_names)),
        kind=kind,
        images=overlaps.measure(subject, kind),
    )


def index_of(threshold: float) -> int:
    """Returns the place of a threshold among `IOU_THRESHOLDS`."""
    return int(np.flatnonzero(np.isclose(IOU_THRESHOLDS, threshold))[0])


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
    """Matches with some objects as crowds of other classes; see `Matches.excusing`."""

    def __init__(self, matches: Matches, excused: np.ndarray, thresholds: Sequence[float]):
        self._images = matches.images
        self._num_classes = len(matches.category_ids)
        self._excused = excused
        self._evaluator = cocoeval.COCOeval(iouType=matches.kind)
        self._evaluator.params.iouThrs = np.array(thresholds)
        counts = np.array([len(image.scores) for image in matches.images], np.int64)
        self._image_of = np.repeat(np.arange(len(counts)), counts)
        self._first_in_image = np.append(0, np.cumsum(counts))
        self._scores = self._in_all_images("scores")
        self._classes = self._in_all_images("classes")
        self._areas = self._in_all_images("areas")
        self._object_classes = self._in_all_images("object_classes")
        self._object_areas = self._in_all_images("object_areas")
        self._crowds = self._in_all_images("crowds")
        self._in_crowds = np.concatenate(
            [self._most_in_crowds(image) for image in (overlaps.EMPTY, *self._images)]
        )

    def evaluate(self) -> Evaluation:
        by_class = [self._outcomes(class_) for class_ in range(self._num_classes)]
        results = [self._accumulate(by_class, limit) for limit in MAX_DETECTIONS]
        precision = results[-1]["precision"][..., 0]
        recall = np.concatenate([result["recall"] for result in results], axis=-1)
        for values in (precision, recall):
            # pycocotools' mark of what has no objects.
            values[values == -1] = np.nan
        all_sizes = tuple(outcomes[SIZES.index("all")] for outcomes in by_class)
        return Evaluation(precision, recall, all_sizes)

    def _in_all_images(self, name: str) -> np.ndarray:
        images = (overlaps.EMPTY, *self._images)
        return np.concatenate([getattr(image, name) for image in images])

    def _crowds_of(self, image: overlaps.ImageOverlaps) -> np.ndarray:
        """Returns `[D, G]`: to which detections which objects are crowds."""
        excused = self._excused[image.classes[:, None], image.object_classes]
        own = image.classes[:, None] == image.object_classes
        return excused | (own & image.crowds)

    def _most_in_crowds(self, image: overlaps.ImageOverlaps) -> np.ndarray:
        """Returns `[D]`: how much of each detection the crowd that covers it most covers."""
        return np.where(self._crowds_of(image), image.covered, 0).max(axis=1, initial=0)

    def _outcomes(self, class_: int) -> list[Outcomes]:
        """Returns the outcomes of a class for each range of areas."""
        found = np.flatnonzero(self._classes == class_)
        image_of = self._image_of[found]
        ranks = np.arange(len(found)) - np.searchsorted(image_of, image_of)
        kept = ranks < MAX_DETECTIONS[-1]
        found, image_of, ranks = found[kept], image_of[kept], ranks[kept]
        thresholds = self._evaluator.params.iouThrs[:, None]
        # pycocotools lets a threshold of 1 be met by a little less.
        in_crowds = self._in_crowds[found] >= np.minimum(thresholds, 1 - 1e-10)
        own = self._object_classes == class_
        results = []
        for outside, ignored_objects in zip(
            _outside(self._areas[found]),
            _outside(self._object_areas[own]) | self._crowds[own],
            strict=True,
        ):
            results.append(
                Outcomes(
                    self._scores[found],
                    ranks,
                    in_crowds.copy(),
                    in_crowds | outside,
                    int(np.count_nonzero(~ignored_objects)),
                )
            )
        self._match(class_, found, image_of, results)
        return results

    def _match(
        self, class_: int, found: np.ndarray, image_of: np.ndarray, results: list[Outcomes]
    ) -> None:
        """Lets pycocotools match in the images that have objects of the class."""
        for number in np.unique(image_of):
            image = self._images[number]
            if not (~image.crowds[image.object_classes == class_]).any():
                continue
            start, stop = np.searchsorted(image_of, [number, number + 1])
            rows = found[start:stop] - self._first_in_image[number]
            for result, matched in zip(
                results, self._match_image(class_, image, rows), strict=True
            ):
                result.matched[:, start:stop] = matched["dtMatches"] > 0
                result.ignored[:, start:stop] = matched["dtIgnore"]

    def _match_image(
        self, class_: int, image: overlaps.ImageOverlaps, rows: np.ndarray
    ) -> list[dict]:
        crowds = image.crowds | (image.object_classes != class_)
        columns = np.flatnonzero(
            (image.object_classes == class_) | self._excused[class_, image.object_classes]
        )
        overlap = np.where(crowds, image.covered, image.ious)[np.ix_(rows, columns)]
        objects = [
            # pycocotools takes the id 0 for none.
            {"id": column + 1, "area": area, "iscrowd": crowd, "ignore": crowd}
            for column, area, crowd in zip(
                columns.tolist(),
                image.object_areas[columns].tolist(),
                crowds[columns].tolist(),
                strict=True,
            )
        ]
        detections = [
            {"id": row + 1, "area": area, "score": score}
            for row, area, score in zip(
                rows.tolist(), image.areas[rows].tolist(), image.scores[rows].tolist(), strict=True
            )
        ]
        place = (0, class_)
        self._evaluator._gts = {place: objects}
        self._evaluator._dts = {place: detections}
        self._evaluator.ious = {place: overlap}
        return [
            self._evaluator.evaluateImg(*place, area_range, MAX_DETECTIONS[-1])
            for area_range in self._evaluator.params.areaRng
        ]

    def _accumulate(self, by_class: list[list[Outcomes]], limit: int) -> dict[str, np.ndarray]:
        """Lets pycocotools accumulate, with the first detections of each class and image."""
        params = self._evaluator.params
        params.catIds = list(range(self._num_classes))
        # The images are one after another in the outcomes of a class.
        params.imgIds = [0]
        params.maxDets = [len(self._scores)]
        self._evaluator._paramsEval = params
        self._evaluator.evalImgs = [
            {
                "dtScores": outcomes.scores[first],
                "dtMatches": outcomes.matched[:, first],
                "dtIgnore": outcomes.ignored[:, first],
                "gtIgnore": np.zeros(outcomes.num_objects),
            }
            for sizes in by_class
            for outcomes in sizes
            for first in [outcomes.ranks < limit]
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            self._evaluator.accumulate()
        return self._evaluator.eval


def _outside(areas: np.ndarray) -> np.ndarray:
    """Returns `[A, N]`: which areas are outside each range."""
    return (areas < _AREA_RANGES[:, :1]) | (areas > _AREA_RANGES[:, 1:])
