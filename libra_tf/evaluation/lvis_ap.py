"""Average precision as LVIS defines it: of rare, common and frequent classes.

Source: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR
2019, sections 2 and 3, and its package `lvis`. With many classes nobody can say for each of them
whether it is in an image. In a federated data set, an image therefore lists

* `neg_category_ids`: classes that are not in it. Detections of a class that is neither among these
  nor among its objects are left out: they may be right.
* `not_exhaustive_category_ids`: classes with objects that are not annotated. Detections of these
  that belong to no object are ignored.

An image without the first key is annotated completely, as in COCO. In all else the rules are those
of COCO, except that there may be more detections.
"""

import collections
import contextlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import cocoeval

from libra_tf.evaluation import matching
from libra_tf.evaluation.subject import Subject, detected_area

# The letters of LVIS for how frequent a class is.
RARE, COMMON, FREQUENT = "r", "c", "f"
# The most training images of a rare class, and of a common one.
LIMITS = (10, 100)
# Of an image, all classes together.
MAX_DETECTIONS = 300
_AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}
_IOUS = {"": None, "50": 0.5, "75": 0.75}


def evaluate(
    subject: Subject,
    kind: str,
    training_images: Mapping[int, int] | None = None,
    limits: tuple[int, int] = LIMITS,
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """Measures AP as LVIS does.

    Args:
      subject: objects and detections.
      kind: `BOXES` or `MASKS`.
      training_images: how many training images have objects of each category id (see
        `images_per_class`), for the categories whose `frequency` the annotations do not state; None
        if that is unknown.
      limits: the most training images of a rare class, and of a common one.
      max_detections: the most detections in an image; the best ones count.

    Returns:
      `AP`, `AP50`, `AP75`, by size `APs`, `APm` and `APl`, and of rare, common and frequent classes
      `APr`, `APc` and `APf`; in 0..1, -1 if there are no such objects. Without the last three, if
      there is a class of which nothing says how frequent it is.
    """
    evaluation = _FederatedEvaluation(subject, kind, max_detections)
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    params = evaluation.params
    # [IoU thresholds, recalls, classes, sizes]
    precision = evaluation.eval["precision"][..., 0]
    of_size = {name: precision[..., params.areaRngLbl.index(a)] for name, a in _AREAS.items()}
    of_all = of_size[""]
    metrics = {
        f"AP{name}": _mean(of_all if iou is None else of_all[params.iouThrs == iou])
        for name, iou in _IOUS.items()
    }
    metrics |= {f"AP{name}": _mean(values) for name, values in of_size.items()}
    frequencies = _frequencies(subject, training_images, limits)
    if frequencies is None:
        return metrics
    of_class = np.array([frequencies[category_id] for category_id in params.catIds])
    return metrics | {
        f"AP{letter}": _mean(of_all[:, :, of_class == letter])
        for letter in (RARE, COMMON, FREQUENT)
    }


def images_per_class(annotations: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Counts in how many images each class is.

    Args:
      annotations: of the training images, in COCO's format.

    Returns:
      The number for each category id that there are annotations of.
    """
    places = {(entry["image_id"], entry["category_id"]) for entry in annotations}
    return dict(collections.Counter(category_id for _, category_id in places))


class _FederatedEvaluation(cocoeval.COCOeval):
    """pycocotools' evaluation, which leaves out what the images do not say."""

    def __init__(self, subject: Subject, kind: str, max_detections: int):
        super().__init__(subject.truth, subject.detections, kind)
        self.params.maxDets = [max_detections]

    def _prepare(self) -> None:
        super()._prepare()
        by_image = collections.defaultdict(list)
        for entries in self._dts.values():
            for entry in entries:
                by_image[entry["image_id"]].append(entry)
        self._dts.clear()
        for image_id, entries in by_image.items():
            best = sorted(entries, key=lambda entry: (-entry["score"], entry["id"]))
            for entry in best[: self.params.maxDets[0]]:
                if self._is_judged(image_id, entry["category_id"]):
                    area = detected_area(entry, self.params.iouType)
                    self._dts[image_id, entry["category_id"]].append({**entry, "area": area})

    def _is_judged(self, image_id: int, category_id: int) -> bool:
        negative = self.cocoGt.imgs[image_id].get("neg_category_ids")
        is_there = (image_id, category_id) in self._gts
        return negative is None or is_there or category_id in negative

    def evaluateImg(  # noqa: N802, pycocotools' name
        self,
        imgId: int,  # noqa: N803
        catId: int,  # noqa: N803
        aRng: list[float],  # noqa: N803
        maxDet: int,  # noqa: N803
    ) -> dict[str, Any] | None:
        """Matches the detections of a class in an image; see base class."""
        matches = super().evaluateImg(imgId, catId, aRng, maxDet)
        incomplete = self.cocoGt.imgs[imgId].get("not_exhaustive_category_ids") or ()
        if matches and catId in incomplete:
            matches["dtIgnore"] = matches["dtIgnore"] | (matches["dtMatches"] == 0)
        return matches


def _frequencies(
    subject: Subject, training_images: Mapping[int, int] | None, limits: tuple[int, int]
) -> dict[int, str] | None:
    """Returns the letter of each category id; None if one is unknown."""
    letters = {}
    for category_id, category in subject.truth.cats.items():
        if "frequency" in category:
            letters[category_id] = category["frequency"]
        elif training_images is None:
            return None
        else:
            count = training_images.get(category_id, 0)
            letters[category_id] = (RARE, COMMON, FREQUENT)[sum(count > limit for limit in limits)]
    return letters


def _mean(precision: np.ndarray) -> float:
    """Averages the precision where there are objects; -1 if there are none."""
    mean = matching.mean(np.where(precision > -1, precision, np.nan))
    return -1.0 if mean is None else mean
