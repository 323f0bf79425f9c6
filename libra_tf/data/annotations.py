"""Reading and checking one annotation file in COCO's object detection format.

The format: https://cocodataset.org/#format-data, "Object Detection".
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

from libra_tf.data import boxes
from libra_tf.data.problems import DatasetError, FindingLog

# Model Garden carries image ids as int64.
_INT64 = range(-(2**63), 2**63)

_IMAGE_KEYS = ("id", "file_name", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_CATEGORY_KEYS = ("id", "name")


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """One split's annotation file, checked; boxes are still as the user drew them.

    Attributes:
      path: `pathlib.Path` of the JSON file.
      digest: `str`, SHA-256 of the file's bytes.
      images: list of COCO image entries (`dict`) in the file's order.
      annotations: list of COCO annotation entries (`dict`) in the file's order.
      class_names: `dict` of category id to name.
      left_out: file names of images beside them that no annotation file lists.
    """

    path: pathlib.Path
    digest: str
    images: list
    annotations: list
    class_names: dict
    left_out: tuple = ()


def read_annotation_file(path, problems):
    """Reads one annotation file and checks everything that needs no image.

    Args:
      path: `pathlib.Path` of the JSON file.
      problems: `FindingLog` that receives every mistake.

    Returns:
      `AnnotationFile` of the entries without mistakes, or `None` if the file is not COCO at all.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        problems.add("annotation file cannot be read", f"{path}: {error.strerror}")
        return None
    root = _parse(encoded, path, problems)
    if root is None:
        return None
    images = _checked_entries(root, "images", _IMAGE_KEYS, _check_image, path, problems)
    categories = _checked_entries(
        root, "categories", _CATEGORY_KEYS, _check_category, path, problems
    )
    annotations = _checked_entries(
        root, "annotations", _ANNOTATION_KEYS, _check_annotation, path, problems
    )
    _check_unique(images, "id", "image", path, problems)
    _check_unique(categories, "id", "category", path, problems)
    _check_unique(annotations, "id", "annotation", path, problems)
    named = [(image["file_name"], f"image {image['id']}") for image in images]
    check_file_names(named, path, problems)
    _check_references(root, annotations, path, problems)
    class_names = {category["id"]: category["name"] for category in categories}
    digest = hashlib.sha256(encoded).hexdigest()
    return AnnotationFile(path, digest, images, annotations, class_names)


def read_image_ids(path, open_file=open):
    """Reads of a COCO file no more than which images it lists.

    Args:
      path: path of the JSON file.
      open_file: opens it as `open` does; `tf.io.gfile.GFile` reaches remote files, too.

    Returns:
      List of `int`, in the file's order, each once.

    Raises:
      DatasetError: if the file cannot be read, or is not a COCO file as far as it is read.
    """
    entries = _read_section(path, "images", ("id",), _check_image_id, open_file)
    return list(dict.fromkeys(entry["id"] for entry in entries))


def read_category_names(path, open_file=open):
    """Reads of a COCO file no more than its categories.

    Args:
      path: path of the JSON file.
      open_file: as for `read_image_ids`.

    Returns:
      `dict` of category id to name.

    Raises:
      DatasetError: as `read_image_ids`.
    """
    entries = _read_section(path, "categories", _CATEGORY_KEYS, _check_category, open_file)
    return {entry["id"]: entry["name"] for entry in entries}


def read_json(path, open_file=open):
    """Reads a JSON file.

    Args:
      path: path of the file.
      open_file: as for `read_image_ids`.

    Returns:
      What `json` makes of it.

    Raises:
      DatasetError: if it cannot be read or is not JSON.
    """
    try:
        with open_file(path, "rb") as file:
            encoded = file.read()
    # TensorFlow's errors are no `OSError`.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path} cannot be read: {reason}") from error
    try:
        return json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error


def clip_annotations(annotation_file, issues):
    """Makes annotations whole: boxes inside their images, `area` and `iscrowd` filled in.

    Args:
      annotation_file: `AnnotationFile`.
      issues: `FindingLog` that receives every box that is clipped or dropped.

    Returns:
      List of new annotation entries (`dict`), without the boxes that have no area in the image.
    """
    images = {image["id"]: image for image in annotation_file.images}
    cleaned = []
    for annotation in annotation_file.annotations:
        image = images[annotation["image_id"]]
        clipped = boxes.clip_box(annotation["bbox"], image["width"], image["height"])
        change = _change(annotation["bbox"], clipped)
        if change is not None:
            issues.add(
                change,
                f"{annotation_file.path.name}: annotation {annotation['id']} of "
                f"{image['file_name']}, bbox {annotation['bbox']}, "
                f"image {image['width']}x{image['height']}",
            )
        if clipped is not None:
            cleaned.append(_completed(annotation, clipped))
    return cleaned


def _change(box, clipped):
    """Says what clipping did to a box; `None` if nothing."""
    if clipped is None:
        has_area = box[2] > 0 and box[3] > 0
        return (
            "boxes wholly outside their image, dropped"
            if has_area
            else "boxes without positive width and height, dropped"
        )
    if boxes.crosses_border(box, clipped):
        return "boxes across the border of their image, clipped"
    return None


def _completed(annotation, clipped):
    box_area = clipped[2] * clipped[3]
    area = annotation.get("area") or box_area
    if clipped != annotation["bbox"]:
        # COCO's area is that of the object's mask, of which no more is left than fits the box.
        area = min(area, box_area)
    return {
        **annotation,
        "bbox": clipped,
        "area": area,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _parse(encoded, path, problems):
    try:
        root = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        problems.add("annotation file is not JSON: export it again", f"{path}: {error}")
        return None
    if not isinstance(root, dict):
        problems.add(
            "annotation file is not COCO: its top level must be an object with the lists "
            "'images', 'annotations' and 'categories'",
            f"{path}: the top level is a {type(root).__name__}",
        )
        return None
    for section in ("images", "annotations", "categories"):
        if not isinstance(root.get(section), list):
            found = f"is a {type(root[section]).__name__}" if section in root else "is missing"
            problems.add(
                "annotation file is not COCO: 'images', 'annotations' and 'categories' must be "
                "lists",
                f"{path}: '{section}' {found}",
            )
            return None
    for section in ("images", "categories"):
        if not root[section]:
            problems.add(f"annotation file lists no {section}", str(path))
    return root


def _read_section(path, section, keys, check, open_file):
    root = read_json(path, open_file)
    if not (isinstance(root, dict) and isinstance(root.get(section), list)):
        raise DatasetError(
            f"{path} is not a COCO annotation file: its top level must be an object with a list "
            f"'{section}'"
        )
    problems = FindingLog()
    entries = _checked_entries(root, section, keys, check, pathlib.PurePath(path), problems)
    problems.raise_if_any(path)
    return entries


def _checked_entries(root, section, keys, check, path, problems):
    """Returns the entries of a section that have all keys and pass `check`."""
    valid = []
    for index, entry in enumerate(root[section]):
        place = f"{path.name}: {section}[{index}]"
        if not isinstance(entry, dict):
            problems.add("entry is not a JSON object", f"{place} is {shown(entry)}")
            continue
        missing = [key for key in keys if key not in entry]
        if missing:
            problems.add(f"entry of '{section}' lacks {', '.join(missing)}", place)
            continue
        complaint = check(entry)
        if complaint is None:
            valid.append(entry)
        else:
            problems.add(complaint, f"{place}: {shown({key: entry[key] for key in keys})}")
    return valid


def _check_image_id(image):
    return None if _is_int(image["id"]) else "image id must be an integer (64 bit)"


def _check_image(image):
    if complaint := _check_image_id(image):
        return complaint
    if not _is_text(image["file_name"]):
        return "file_name must be a text such as 'a.jpg'"
    if not all(_is_int(image[key]) and image[key] > 0 for key in ("width", "height")):
        return "image width and height must be positive integers (pixels)"
    return None


def _check_category(category):
    if not _is_int(category["id"]):
        return "category id must be an integer"
    if not _is_text(category["name"]):
        return "category name must be a text"
    return None


def _check_annotation(annotation):
    if not _is_int(annotation["id"]):
        return "annotation id must be an integer"
    if not _is_int(annotation["image_id"]):
        return "annotation's image_id must be an integer"
    if not _is_int(annotation["category_id"]):
        return "annotation's category_id must be an integer"
    box = annotation["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
        return "bbox must be four finite numbers [x, y, width, height] in pixels"
    area = annotation.get("area")
    if area is not None and not (is_finite(area) and area >= 0):
        return "area must be a number of square pixels, or be left out"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "iscrowd must be 0 or 1, or be left out"
    return None


def _check_unique(entries, key, noun, path, problems):
    first = {}
    for index, entry in enumerate(entries):
        if first.setdefault(entry[key], index) != index:
            problems.add(
                f"{noun} {key} repeated: every {noun} needs its own", f"{path.name}: {entry[key]}"
            )


def check_file_names(named, path, problems):
    """Checks that no image is annotated twice.

    Args:
      named: pairs of `str`: an image's file name, and what annotates it.
      path: `pathlib.Path` of the split's file or folder.
      problems: `FindingLog` that receives every mistake.
    """
    first = {}
    for file_name, place in named:
        # "a.jpg" and "./a.jpg" are one file.
        name = pathlib.PurePath(file_name)
        if first.setdefault(name, place) != place:
            problems.add(
                "file_name repeated: every image must be listed once",
                f"{path.name}: {file_name}, {first[name]} and {place}",
            )


def _check_references(root, annotations, path, problems):
    """Checks that every annotation's image and category are listed, be they valid or not."""
    image_ids = _listed_ids(root["images"])
    category_ids = _listed_ids(root["categories"])
    for annotation in annotations:
        place = f"{path.name}: annotation {annotation['id']}"
        if annotation["image_id"] not in image_ids:
            problems.add(
                "annotation of an image that is not listed: drop it or list the image",
                f"{place}, image_id {annotation['image_id']}",
            )
        if annotation["category_id"] not in category_ids:
            problems.add(
                f"annotation of a category that is not listed in 'categories' "
                f"({shown(sorted(category_ids))})",
                f"{place}, category_id {annotation['category_id']}",
            )


def _listed_ids(entries):
    ids = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return {entry_id for entry_id in ids if _is_int(entry_id)}


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def is_finite(value):
    """Says whether a JSON value is a number that a float can hold: no infinity and no NaN.

    Args:
      value: anything that `json` returns.

    Returns:
      `bool`.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # False for NaN as well, and integers may be too large for a float.
    return is_number and abs(value) <= sys.float_info.max


def _is_text(value):
    if not isinstance(value, str) or not value.strip():
        return False
    # JSON can spell half characters, which neither a record nor a file name can hold.
    return not any("\ud800" <= character <= "\udfff" for character in value)


def shown(value, limit=120):
    """Writes a JSON value for a message.

    Args:
      value: anything that `json` returns.
      limit: `int`, the most characters.

    Returns:
      `str`.
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
