"""Reading and checking one annotation file in COCO's object detection format.

The format: https://cocodataset.org/#format-data, "Object Detection".
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from libra_tf.data import boxes, json_files, segmentations
from libra_tf.data.json_files import is_finite, shown
from libra_tf.data.problems import DatasetError, FindingLog
from libra_tf.data.segmentations import Segmentation

# Entries of a COCO file.
ImageEntry = dict[str, Any]
Annotation = dict[str, Any]

# How the issue of a segmentation that is left out begins.
UNUSABLE_SEGMENTATION = "segmentations that cannot be used, left out"
# Model Garden carries image ids as int64.
_INT64 = range(-(2**63), 2**63)

_IMAGE_KEYS = ("id", "file_name", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_CATEGORY_KEYS = ("id", "name")

# Lists of category ids that the images of a federated data set such as LVIS have; see
# `libra_tf.evaluation.lvis_ap`.
FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
# What a category of LVIS may say about how frequent it is: rare, common, frequent.
_FREQUENCIES = ("r", "c", "f")


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """One split's annotation file, checked; boxes are still as the user drew them.

    Attributes:
      path: the JSON file.
      digest: SHA-256 of the file's bytes.
      images: COCO image entries in the file's order.
      annotations: COCO annotation entries in the file's order.
      class_names: name of each category id.
      left_out: file names of images next to them that no annotation file lists.
      unusable_segmentations: what is wrong with segmentations that were left out, and the places.
      is_upright: whether sizes and boxes are those of the pictures as viewers show them, by their
        EXIF orientation, and not of the pixels as they are stored.
      supercategories: supercategory of each category id that has one.
      frequencies: `r`, `c` or `f` for the category ids of which the file says how frequent they are
        in training images, as LVIS does.
    """

    path: pathlib.Path
    digest: str
    images: list[ImageEntry]
    annotations: list[Annotation]
    class_names: dict[int, str]
    left_out: tuple[str, ...] = ()
    unusable_segmentations: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    is_upright: bool = False
    supercategories: Mapping[int, str] = dataclasses.field(default_factory=dict)
    frequencies: Mapping[int, str] = dataclasses.field(default_factory=dict)


def split_file_name(split: str) -> str:
    """Returns the name that COCO gives to a split's annotation file."""
    return f"instances_{split}.json"


def read_annotation_file(
    path: pathlib.Path, problems: FindingLog, open_file: json_files.Opener = open
) -> AnnotationFile | None:
    """Reads one annotation file and checks everything that does not need the images.

    Args:
      path: the JSON file.
      problems: receives every mistake.
      open_file: opens it for reading.

    Returns:
      The entries without mistakes, or `None` if the file is not COCO at all.
    """
    try:
        root, digest = _read_root(path, ("images", "annotations", "categories"), open_file)
    except DatasetError as error:
        problems.add("annotation file cannot be read as COCO JSON", str(error))
        return None
    for section in ("images", "categories"):
        if not root[section]:
            problems.add(f"annotation file lists no {section}", str(path))
    images, categories, annotations = (
        json_files.checked_entries(root[name], keys, complaint, f"{path.name}: {name}", problems)
        for name, keys, complaint in (
            ("images", _IMAGE_KEYS, _complaint_about_image),
            ("categories", _CATEGORY_KEYS, _complaint_about_category),
            ("annotations", _ANNOTATION_KEYS, _complaint_about_annotation),
        )
    )
    _check_unique_ids(images, "image", path, problems)
    _check_unique_ids(categories, "category", path, problems)
    _check_unique_ids(annotations, "annotation", path, problems)
    named = ((image["file_name"], f"image {image['id']}") for image in images)
    check_file_names(named, path, problems)
    _check_references(root, annotations, path, problems)
    unusable = FindingLog()
    annotations = _with_usable_segmentations(images, annotations, path, unusable)
    class_names = {category["id"]: category["name"] for category in categories}
    supercategories = {
        category["id"]: category["supercategory"]
        for category in categories
        if _is_text(category.get("supercategory"))
    }
    frequencies = {
        category["id"]: category["frequency"]
        for category in categories
        # Other programs may mean something else by the word.
        if category.get("frequency") in _FREQUENCIES
    }
    return AnnotationFile(
        path,
        digest,
        images,
        annotations,
        class_names,
        unusable_segmentations=unusable.by_kind,
        supercategories=supercategories,
        frequencies=frequencies,
    )


def read_image_ids(path: str | os.PathLike[str], open_file: json_files.Opener = open) -> list[int]:
    """Reads which images a COCO file lists, and nothing else of it.

    Args:
      path: the JSON file.
      open_file: opens it for reading.

    Returns:
      The image ids in the file's order, without duplicates.

    Raises:
      DatasetError: if the file cannot be read, or the part that is needed is not COCO.
    """
    entries = _read_section(path, "images", ("id",), _complaint_about_image_id, open_file)
    return list(dict.fromkeys(entry["id"] for entry in entries))


def read_category_names(
    path: str | os.PathLike[str], open_file: json_files.Opener = open
) -> dict[int, str]:
    """Reads the categories of a COCO file, and nothing else of it.

    Args:
      path: the JSON file.
      open_file: opens it for reading.

    Returns:
      The name of each category id.

    Raises:
      DatasetError: if the file cannot be read, or the part that is needed is not COCO.
    """
    entries = _read_section(
        path, "categories", _CATEGORY_KEYS, _complaint_about_category, open_file
    )
    return {entry["id"]: entry["name"] for entry in entries}


def category_entries(
    class_names: Mapping[int, str],
    supercategories: Mapping[int, str],
    frequencies: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Returns COCO category entries.

    Args:
      class_names: name of each category id.
      supercategories: supercategory of each category id that has one.
      frequencies: frequency of each category id that has one; see `AnnotationFile`.
    """
    optional = {"supercategory": supercategories, "frequency": frequencies}
    return [
        {
            "id": id_,
            "name": name,
            **{key: values[id_] for key, values in optional.items() if id_ in values},
        }
        for id_, name in class_names.items()
    ]


def distinct(names: Mapping[int, str]) -> dict[int, str]:
    """Returns names of classes that are all different: of equal ones, each has its id.

    Args:
      names: by category id.
    """
    number = collections.Counter(names.values())
    return {id_: name if number[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}


def clip_annotations(annotation_file: AnnotationFile, issues: FindingLog) -> list[Annotation]:
    """Completes annotations: boxes and masks inside their images, `area` and `iscrowd` filled in.

    Args:
      annotation_file: the annotations and the images that they belong to.
      issues: receives every box and mask that is clipped or dropped.

    Returns:
      New entries, without those whose boxes have no area in the image. Only those with a mask have
      a `segmentation`.
    """
    for complaint, places in annotation_file.unusable_segmentations.items():
        for place in places:
            issues.add(f"{UNUSABLE_SEGMENTATION}: {complaint}", place)
    images = {image["id"]: image for image in annotation_file.images}
    cleaned = []
    for annotation in annotation_file.annotations:
        image = images[annotation["image_id"]]
        box = boxes.clip_box(annotation["bbox"], image["width"], image["height"])
        mask = _clipped_mask(annotation, image) if box is not None else None
        for change in (_change(annotation["bbox"], box), _change_of_mask(annotation, mask, image)):
            if change is not None:
                issues.add(
                    change,
                    f"{annotation_file.path.name}: annotation {annotation['id']} of "
                    f"{image['file_name']}, bbox {annotation['bbox']}, "
                    f"image {image['width']}x{image['height']}",
                )
        if box is not None:
            cleaned.append(_completed(annotation, box, mask, image))
    return cleaned


def check_file_names(
    named: Iterable[tuple[str, str]], path: pathlib.Path, problems: FindingLog
) -> None:
    """Checks that no image is annotated twice.

    Args:
      named: pairs of an image's file name and what annotates it.
      path: the split's file or folder, for the messages.
      problems: receives every mistake.
    """
    first: dict[pathlib.PurePath, str] = {}
    for file_name, place in named:
        # "a.jpg" and "./a.jpg" are one file.
        name = pathlib.PurePath(file_name)
        if first.setdefault(name, place) != place:
            problems.add(
                "duplicate file_name: list every image only once",
                f"{path.name}: {file_name}, {first[name]} and {place}",
            )


def _change(box: list[float], clipped: list[float] | None) -> str | None:
    """Describes what clipping did to a box; `None` if nothing."""
    if clipped is None:
        has_area = box[2] > 0 and box[3] > 0
        return (
            "boxes entirely outside their image, dropped"
            if has_area
            else "boxes without positive width and height, dropped"
        )
    if boxes.crosses_border(box, clipped):
        return "boxes that extend beyond their image, clipped"
    return None


def _clipped_mask(annotation: Annotation, image: ImageEntry) -> Segmentation | None:
    segmentation = annotation.get("segmentation")
    if not segmentations.is_given(segmentation):
        return None
    return segmentations.clip_segmentation(segmentation, image["width"], image["height"])


def _change_of_mask(
    annotation: Annotation, clipped: Segmentation | None, image: ImageEntry
) -> str | None:
    """Describes what clipping did to a mask; `None` if nothing."""
    if clipped is None or clipped is annotation["segmentation"]:
        return None
    if isinstance(clipped, dict):
        return "segmentations entirely outside their image, kept as empty masks"
    if segmentations.crosses_border(annotation["segmentation"], image["width"], image["height"]):
        return "segmentations that extend beyond their image, clipped"
    return None


def _completed(
    annotation: Annotation, box: list[float], mask: Segmentation | None, image: ImageEntry
) -> Annotation:
    completed = {**annotation, "bbox": box, "iscrowd": int(annotation.get("iscrowd", 0))}
    completed.pop("segmentation", None)
    box_area = box[2] * box[3]
    area = annotation.get("area")
    if mask is not None:
        completed["segmentation"] = mask
        area = area or segmentations.area(mask, image["width"], image["height"])
    area = area or box_area
    if box != annotation["bbox"]:
        # COCO's area is that of the object's mask; what remains of the mask fits in the box.
        area = min(area, box_area)
    completed["area"] = area
    return completed


def _read_root(
    path: str | os.PathLike[str], sections: tuple[str, ...], open_file: json_files.Opener = open
) -> tuple[dict[str, Any], str]:
    """Reads a COCO file; returns its top level and the SHA-256 of its bytes.

    Raises:
      DatasetError: if it cannot be read, is not JSON, or its top level lacks one of the lists.
    """
    encoded = json_files.read_bytes(path, open_file)
    root = json_files.parse(encoded, path, segmentations.pack)
    complaint = _complaint_about_root(root, sections)
    if complaint is not None:
        *others, last = (f"'{section}'" for section in sections)
        lists = f"the lists {', '.join(others)} and {last}" if others else f"a list {last}"
        raise DatasetError(
            f"{path} is not a COCO annotation file: {complaint}; the top level must be an object "
            f"with {lists}"
        )
    # Not the bytes: nobody needs them any longer, and COCO's are half a gigabyte.
    return root, hashlib.sha256(encoded).hexdigest()


def _complaint_about_root(root: Any, sections: tuple[str, ...]) -> str | None:
    if not isinstance(root, dict):
        return f"the top level is a {type(root).__name__}"
    for section in sections:
        if section not in root:
            return f"'{section}' is missing"
        if not isinstance(root[section], list):
            return f"'{section}' is a {type(root[section]).__name__}"
    return None


def _read_section(
    path: str | os.PathLike[str],
    section: str,
    keys: tuple[str, ...],
    complaint_about: Callable[[dict[str, Any]], str | None],
    open_file: json_files.Opener,
) -> list[dict[str, Any]]:
    root, _ = _read_root(path, (section,), open_file)
    problems = FindingLog()
    name = f"{pathlib.PurePath(path).name}: {section}"
    entries = json_files.checked_entries(root[section], keys, complaint_about, name, problems)
    problems.raise_if_any(path)
    return entries


def _complaint_about_image_id(image: ImageEntry) -> str | None:
    return None if _is_int(image["id"]) else "image id must be an integer (at most 64 bits)"


def _complaint_about_image(image: ImageEntry) -> str | None:
    if complaint := _complaint_about_image_id(image):
        return complaint
    if not _is_text(image["file_name"]):
        return "file_name must be non-empty, valid text such as 'a.jpg'"
    if not all(_is_int(image[key]) and image[key] > 0 for key in ("width", "height")):
        return "image width and height must be positive integers (pixels)"
    for key in FEDERATED_KEYS:
        ids = image.get(key)
        # Null is as if there were no list.
        if ids is not None and not (isinstance(ids, list) and all(map(_is_int, ids))):
            return f"{key} must be a list of category ids, or be omitted"
    return None


def _complaint_about_category(category: dict[str, Any]) -> str | None:
    if not _is_int(category["id"]):
        return "category id must be an integer"
    if not _is_text(category["name"]):
        return "category name must be non-empty, valid text"
    return None


def _complaint_about_annotation(annotation: Annotation) -> str | None:
    for key in ("id", "image_id", "category_id"):
        if not _is_int(annotation[key]):
            return f"annotation {key} must be an integer"
    if complaint := boxes.complaint_about_box(annotation["bbox"]):
        return complaint
    area = annotation.get("area")
    if area is not None and not (is_finite(area) and area >= 0):
        return "area must be a non-negative number (square pixels) or be omitted"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "iscrowd must be 0 or 1, or be omitted"
    return None


def _check_unique_ids(
    entries: list[dict[str, Any]], noun: str, path: pathlib.Path, problems: FindingLog
) -> None:
    seen = set()
    for entry in entries:
        if entry["id"] in seen:
            problems.add(
                f"duplicate {noun} id: every {noun} needs its own", f"{path.name}: {entry['id']}"
            )
        seen.add(entry["id"])


def _check_references(
    root: dict[str, Any], annotations: list[Annotation], path: pathlib.Path, problems: FindingLog
) -> None:
    """Checks that every annotation's image and category are listed, whether valid or not."""
    image_ids = _listed_ids(root["images"])
    category_ids = _listed_ids(root["categories"])
    for annotation in annotations:
        place = f"{path.name}: annotation {annotation['id']}"
        if annotation["image_id"] not in image_ids:
            problems.add(
                "annotation refers to an image that is not listed: remove it or list the image",
                f"{place}, image_id {annotation['image_id']}",
            )
        if annotation["category_id"] not in category_ids:
            problems.add(
                "annotation refers to a category that is not listed in 'categories' "
                f"({shown(sorted(category_ids))})",
                f"{place}, category_id {annotation['category_id']}",
            )


def _with_usable_segmentations(
    images: list[ImageEntry],
    annotations: list[Annotation],
    path: pathlib.Path,
    unusable: FindingLog,
) -> list[Annotation]:
    """Leaves out the segmentations that cannot be used: most detectors need only the box."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    kept = []
    for annotation in annotations:
        complaint = _complaint_about_segmentation(annotation, sizes)
        if complaint is not None:
            segmentation = shown(annotation["segmentation"])
            unusable.add(complaint, f"{path.name}: annotation {annotation['id']}: {segmentation}")
            annotation = {key: annotation[key] for key in annotation if key != "segmentation"}
        kept.append(annotation)
    return kept


def _complaint_about_segmentation(
    annotation: Annotation, sizes: Mapping[int, tuple[int, int]]
) -> str | None:
    segmentation, size = annotation.get("segmentation"), sizes.get(annotation["image_id"])
    if not segmentations.is_given(segmentation):
        return None
    complaint = segmentations.complaint_about_segmentation(segmentation)
    if complaint is None and size and not segmentations.has_size(segmentation, *size):
        return (
            "size of a run-length encoded segmentation differs from its image's: give it as "
            "[height, width]"
        )
    return complaint


def _listed_ids(entries: list[Any]) -> set[int]:
    ids = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return {entry_id for entry_id in ids if _is_int(entry_id)}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    # JSON can encode lone surrogates, which neither a record nor a file name can hold.
    return not any("\ud800" <= character <= "\udfff" for character in value)
