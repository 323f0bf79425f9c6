"""What is evaluated: the objects and the detections of some images."""

import collections
import contextlib
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pycocotools import coco, mask

from libra_tf.cli.errors import UsageError, listed
from libra_tf.data import annotations, problems
from libra_tf.runs import differences

# The kinds of overlap that pycocotools compares by: of boxes and of masks.
BOXES, MASKS = "bbox", "segm"


@dataclasses.dataclass(frozen=True)
class Subject:
    """The objects and the detections of the same images.

    Attributes:
      truth: the objects, clipped to their images, of the evaluated images alone; crowds included.
        Images have all keys of the annotation file, categories their `frequency` if it states one.
        The ids of the objects are at least 1, since pycocotools takes 0 for none.
      detections: the detections, each with `image_id`, `category_id`, `bbox`
        (`[x, y, width, height]` in pixels), `score`, `area`, `id` and, with masks, `segmentation`
        (run-length encoded).
      kinds: `(BOXES,)`, or `(BOXES, MASKS)` if all objects and all detections have masks.
      num_objects_without_masks: if the detections have masks, how many objects have none.
    """

    truth: coco.COCO
    detections: coco.COCO
    kinds: tuple[str, ...]
    num_objects_without_masks: int

    @property
    def why_no_masks(self) -> str:
        """Why the masks of the detections are not measured; empty if they are, or have none."""
        number = self.num_objects_without_masks
        if not number:
            return ""
        have = "has" if number == 1 else "have"
        return f"masks are not measured, since {number} of the objects {have} none"

    @property
    def image_ids(self) -> list[int]:
        """Ids of the evaluated images, in ascending order."""
        return sorted(self.truth.imgs)

    @property
    def class_names(self) -> dict[int, str]:
        """Name of each category id, in ascending order of the ids, all different."""
        return annotations.distinct(
            {id_: self.truth.cats[id_]["name"] for id_ in sorted(self.truth.cats)}
        )

    @property
    def supercategories(self) -> dict[int, str]:
        """Supercategory of each category id that has one."""
        return {
            id_: category["supercategory"]
            for id_, category in self.truth.cats.items()
            if "supercategory" in category
        }


def make(
    annotation_file: annotations.AnnotationFile,
    results: Sequence[dict[str, Any]],
    image_ids: Iterable[int] | None = None,
) -> Subject:
    """Puts ground truth and detections together.

    Args:
      annotation_file: the ground truth; boxes and masks are clipped to their images, as for
        training.
      results: detections in COCO's results format (https://cocodataset.org/#format-results).
      image_ids: the images to evaluate on; None for all that the annotation file lists.

    Returns:
      The subject. Neither argument is modified.

    Raises:
      UsageError: if a detection belongs to an image or a category that is not listed.
    """
    listed_ids = {image["id"] for image in annotation_file.images}
    _check(results, "image_id", listed_ids, annotation_file)
    _check(results, "category_id", annotation_file.class_names.keys(), annotation_file)
    wanted = listed_ids if image_ids is None else set(image_ids)
    objects = [
        annotation
        for annotation in annotations.clip_annotations(annotation_file, problems.FindingLog())
        if annotation["image_id"] in wanted
    ]
    shift = max(0, 1 - min((entry["id"] for entry in objects), default=1))
    objects = [{**entry, "id": entry["id"] + shift} for entry in objects]
    images = [image for image in annotation_file.images if image["id"] in wanted]
    categories = annotations.category_entries(
        annotation_file.class_names, annotation_file.supercategories, annotation_file.frequencies
    )
    found = [result for result in results if result["image_id"] in wanted]
    # pycocotools prints its progress, and adds keys to the results.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {"images": images, "annotations": objects, "categories": categories}
        truth.createIndex()
        detections = truth.loadRes(list(map(dict, found))) if found else _none(images, categories)
    finds_masks = bool(found) and not _num_without_masks(found)
    missing = _num_without_masks(objects) if finds_masks else 0
    kinds = (BOXES, MASKS) if finds_masks and objects and not missing else (BOXES,)
    return Subject(truth, detections, kinds, missing)


def detected_area(entry: Mapping[str, Any], kind: str) -> float:
    """Returns the area of a detection in square pixels.

    pycocotools sets `area` to that of the box, even if there is a mask.

    Args:
      entry: the detection; its mask is run-length encoded.
      kind: `BOXES` or `MASKS`.
    """
    return float(mask.area(entry["segmentation"]) if kind == MASKS else entry["area"])


def of_listed_classes(
    results: Iterable[dict[str, Any]], annotation_file: annotations.AnnotationFile
) -> list[dict[str, Any]]:
    """Returns the detections of classes that the annotations list: of others, nothing is known.

    Args:
      results: detections in COCO's results format.
      annotation_file: the ground truth.
    """
    return [result for result in results if result["category_id"] in annotation_file.class_names]


def same_classes(class_names: Mapping[int, str], others: Mapping[int, str]) -> dict[int, int]:
    """Finds the classes that two lists have in common.

    A data set may number its classes otherwise than the detector that was trained on it: an id
    below 1 cannot be trained on. So classes are the same if their names are. One without a name is
    called by its number, which stands for the id. Names may be spelled differently; see
    `differences.spelling`.

    Args:
      class_names: names by category id.
      others: names by other category ids.

    Returns:
      For each id of `class_names` whose class the others have, their id.
    """
    same: dict[int, int] = {}
    # The surest first: "a" and "A" may be two classes.
    for find in (_with_same_id, _with_same_name, _with_same_spelling):
        own = {id_: name for id_, name in class_names.items() if id_ not in same}
        theirs = {id_: name for id_, name in others.items() if id_ not in same.values()}
        same |= find(own, theirs)
    return same


def _with_same_id(own: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    shared = own.keys() & theirs.keys()
    return {id_: id_ for id_ in shared if own[id_] in (theirs[id_], str(id_))}


def _with_same_name(own: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    ids = {name: id_ for id_, name in theirs.items()}
    return {id_: ids[name] for id_, name in own.items() if name in ids}


def _with_same_spelling(own: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    ids, their_ids = map(_by_spelling, (own, theirs))
    return {id_: their_ids[spelling] for spelling, id_ in ids.items() if spelling in their_ids}


def _by_spelling(names: Mapping[int, str]) -> dict[str, int]:
    """Returns the ids of the classes whose spelling no other class has."""
    number = collections.Counter(map(differences.spelling, names.values()))
    ids = {differences.spelling(name): id_ for id_, name in names.items()}
    return {spelling: id_ for spelling, id_ in ids.items() if number[spelling] == 1}


def _num_without_masks(entries: Sequence[dict[str, Any]]) -> int:
    return sum("segmentation" not in entry for entry in entries)


def _none(images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> coco.COCO:
    detections = coco.COCO()
    detections.dataset = {"images": images, "annotations": [], "categories": categories}
    detections.createIndex()
    return detections


def _check(
    results: Sequence[dict[str, Any]],
    key: str,
    known: Iterable[int],
    annotation_file: annotations.AnnotationFile,
) -> None:
    unknown = sorted({result[key] for result in results} - set(known))
    if unknown:
        raise UsageError(
            f"{annotation_file.path} does not list {key} {listed([str(id_) for id_ in unknown], 5)}"
            ", which detections have; name the annotations that they were made with"
        )
