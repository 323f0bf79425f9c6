"""Checks of a whole data set's folder, without TensorFlow: a user's mistakes show at once.

The folder, in COCO format (or in Pascal VOC format, see `voc`):

    images/                           JPEG or PNG files, in subfolders or not
    annotations/instances_train.json  COCO object detection format; file names relative to images/
    annotations/instances_val.json
"""

import dataclasses
import pathlib

from libra_tf.data import annotations, cache, images, progress, voc
from libra_tf.data.problems import DatasetError, FindingLog

SPLITS = ("train", "val")
_LAYOUT = (
    "the folder must hold images/, annotations/instances_train.json and "
    "annotations/instances_val.json (COCO), or JPEGImages/, Annotations/ and "
    "ImageSets/Main/train.txt and val.txt (Pascal VOC)"
)


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """One image that can be used.

    Attributes:
      entry: `dict`, the image's entry in the annotation file.
      path: `pathlib.Path` of the file.
      facts: `images.ImageFacts`.
    """

    entry: dict
    path: pathlib.Path
    facts: images.ImageFacts


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """One split whose annotations and images can all be used.

    Attributes:
      annotation_file: `annotations.AnnotationFile`.
      images: list of `CheckedImage`, in the annotation file's order.
    """

    annotation_file: annotations.AnnotationFile
    images: list


@dataclasses.dataclass(frozen=True)
class CheckedFolder:
    """A folder that can be used.

    Attributes:
      splits: `dict` of split name to `CheckedSplit`.
      stats: what `cache.stats_of` said of every file before it was read.
    """

    splits: dict
    stats: dict


def check_layout(folder):
    """Checks that the folder holds what it must.

    Args:
      folder: `pathlib.Path`.

    Raises:
      DatasetError: if it does not; the message lists what is there instead.
    """
    if not folder.is_dir():
        raise DatasetError(f"data set {folder} is not a folder: {_LAYOUT}")
    if voc.is_voc(folder):
        voc.VOCFolder(folder)
        return
    needed = ["images", *map(_annotation_name, SPLITS)]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise DatasetError(
            f"data set {folder} lacks {', '.join(missing)}: {_LAYOUT}. Found: {_listing(folder)}"
        )
    if not (folder / "images").is_dir():
        raise DatasetError(f"{folder / 'images'} is not a folder: {_LAYOUT}")


def check_folder(folder, report):
    """Checks every annotation and every image of a folder that passed `check_layout`.

    Args:
      folder: `pathlib.Path`.
      report: callable that is given lines (`str`) about the progress.

    Returns:
      `CheckedFolder`.

    Raises:
      DatasetError: if anything is wrong; the message lists all kinds of mistakes.
    """
    problems = FindingLog()
    source = voc.VOCFolder(folder) if voc.is_voc(folder) else _COCOFolder(folder)
    # Taken before the content is read, so that a change in between is noticed later.
    stats = cache.stats_of(folder, source.annotation_files())
    files = source.read(problems)
    if len(files) == len(SPLITS):
        _check_categories_agree(files["train"], files["val"], problems)
    splits = {}
    for split, file in files.items():
        report(f"checking {len(file.images)} {split} images")
        located = _locate_images(source.image_root, file, problems)
        stats.update(cache.stats_of(folder, [str(path.relative_to(folder)) for _, path in located]))
        splits[split] = CheckedSplit(file, _inspect_images(file, located, problems, report))
    problems.raise_if_any(f"data set {folder}")
    return CheckedFolder(splits, stats)


class _COCOFolder:
    """What is read of a folder in COCO format; `voc.VOCFolder` is its counterpart."""

    def __init__(self, folder):
        self._folder = folder
        self.image_root = folder / "images"

    def annotation_files(self):
        return [_annotation_name(split) for split in SPLITS]

    def read(self, problems):
        files = {
            split: annotations.read_annotation_file(
                self._folder / _annotation_name(split), problems
            )
            for split in SPLITS
        }
        return {split: file for split, file in files.items() if file is not None}


def _annotation_name(split):
    return f"annotations/instances_{split}.json"


def _listing(folder):
    names = sorted(
        str(path.relative_to(folder)) + "/" * path.is_dir()
        for pattern in ("*", "annotations/*")
        for path in folder.glob(pattern)
    )
    more = ["..."] if len(names) > 20 else []
    return ", ".join(names[:20] + more) or "nothing"


def _check_categories_agree(train, val, problems):
    for category_id, name in val.class_names.items():
        if category_id not in train.class_names:
            problems.add(
                "category of the val split that the train split does not list",
                f"id {category_id}, '{name}'",
            )
        elif train.class_names[category_id] != name:
            problems.add(
                "category id with different names in train and val: export both alike",
                f"id {category_id}: '{train.class_names[category_id]}' and '{name}'",
            )


def _locate_images(image_root, file, problems):
    root = image_root.resolve()
    located = []
    for entry in file.images:
        try:
            images.require_inside(root, entry["file_name"])
        except images.ImageError as problem:
            problems.add(str(problem), f"{file.path.name}: {entry['file_name']}")
        else:
            located.append((entry, image_root / entry["file_name"]))
    return located


def _inspect_images(file, located, problems, report):
    checked = []
    all_facts = images.inspect_images([path for _, path in located])
    all_facts = progress.announced(all_facts, len(located), "checked", report)
    for (entry, path), facts in zip(located, all_facts, strict=True):
        place = f"{file.path.name}: {entry['file_name']}"
        if isinstance(facts, images.ImageError):
            problems.add(str(facts), place)
        elif (facts.width, facts.height) != (entry["width"], entry["height"]):
            problems.add(
                _size_problem(entry, facts),
                f"{place}, file {facts.width}x{facts.height}, "
                f"annotations {entry['width']}x{entry['height']}",
            )
        else:
            checked.append(CheckedImage(entry, path, facts))
    return checked


def _size_problem(entry, facts):
    if facts.shown_transposed and (facts.height, facts.width) == (entry["width"], entry["height"]):
        return (
            "annotated as viewers show it by EXIF orientation, which training does not follow: "
            "turn the pixels themselves (mogrify -auto-orient) and keep the annotations"
        )
    return (
        "size differs from the annotation file's: correct width and height there, and the boxes "
        "if the image was resized"
    )
