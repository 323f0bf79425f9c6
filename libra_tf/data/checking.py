"""Checks of a whole data set folder without TensorFlow, so that mistakes are reported at once.

The folder in COCO format (for Pascal VOC format see `voc`):

    images/                           JPEG or PNG files, in subfolders or not
    annotations/instances_train.json  COCO object detection format; file names relative to images/
    annotations/instances_val.json
"""

import dataclasses
import pathlib
from collections.abc import Callable

from libra_tf.cli.inputs import DATASET_LAYOUTS
from libra_tf.data import annotations, cache, images, progress, voc
from libra_tf.data.annotations import AnnotationFile, ImageEntry
from libra_tf.data.problems import DatasetError, FindingLog

SPLITS = ("train", "val")
_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """One image that can be used.

    Attributes:
      entry: the image's entry in the annotation file.
      path: the image file.
      facts: what the decoded file turned out to be.
    """

    entry: ImageEntry
    path: pathlib.Path
    facts: images.ImageFacts


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """One split whose annotations and images can all be used.

    Attributes:
      annotation_file: the annotations.
      images: the images in the annotation file's order.
    """

    annotation_file: AnnotationFile
    images: list[CheckedImage]


@dataclasses.dataclass(frozen=True)
class CheckedFolder:
    """A folder that can be used.

    Attributes:
      splits: the splits by name.
      stats: the stats of every file, taken before it was read.
    """

    splits: dict[str, CheckedSplit]
    stats: cache.Stats


def check_layout(folder: pathlib.Path) -> None:
    """Checks that the folder contains what it must.

    Args:
      folder: the data set's folder.

    Raises:
      DatasetError: if it does not; the message lists what it contains instead.
    """
    if not folder.is_dir():
        raise DatasetError(f"data set {folder} is not a folder: {DATASET_LAYOUTS}")
    if voc.is_voc(folder):
        voc.VOCFolder(folder)
        return
    needed = ["images", *map(_annotation_path, SPLITS)]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise DatasetError(
            f"data set {folder} is missing {', '.join(missing)}: {DATASET_LAYOUTS}. Found: "
            f"{_listing(folder)}"
        )
    if not (folder / "images").is_dir():
        raise DatasetError(f"{folder / 'images'} is not a folder: {DATASET_LAYOUTS}")


def check_folder(folder: pathlib.Path, report: Callable[[str], None]) -> CheckedFolder:
    """Checks every annotation and every image of a folder that passed `check_layout`.

    Args:
      folder: the data set's folder.
      report: receives each line about the progress.

    Returns:
      The checked splits, and the stats of their files.

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
    """The annotations of a folder in COCO format; `voc.VOCFolder` is its counterpart.

    Attributes:
      image_root: the folder that image names are relative to.
    """

    image_root: pathlib.Path

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.image_root = folder / "images"

    def annotation_files(self) -> list[str]:
        return [_annotation_path(split) for split in SPLITS]

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        files = {
            split: annotations.read_annotation_file(
                self._folder / _annotation_path(split), problems
            )
            for split in SPLITS
        }
        return {split: file for split, file in files.items() if file is not None}


def _annotation_path(split: str) -> str:
    return f"annotations/{annotations.split_file_name(split)}"


def _listing(folder: pathlib.Path) -> str:
    names = sorted(
        str(path.relative_to(folder)) + "/" * path.is_dir()
        for pattern in ("*", "annotations/*")
        for path in folder.glob(pattern)
    )
    more = ["..."] if len(names) > _MAX_LISTED else []
    return ", ".join(names[:_MAX_LISTED] + more) or "nothing"


def _check_categories_agree(
    train: AnnotationFile, val: AnnotationFile, problems: FindingLog
) -> None:
    for category_id, name in val.class_names.items():
        if category_id not in train.class_names:
            problems.add(
                "category listed in val but not in train: list the same categories in both",
                f"id {category_id}, '{name}'",
            )
        elif train.class_names[category_id] != name:
            problems.add(
                "category id with different names in train and val: list the same categories in "
                "both",
                f"id {category_id}: '{train.class_names[category_id]}' and '{name}'",
            )


def _locate_images(
    image_root: pathlib.Path, file: AnnotationFile, problems: FindingLog
) -> list[tuple[ImageEntry, pathlib.Path]]:
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


def _inspect_images(
    file: AnnotationFile,
    located: list[tuple[ImageEntry, pathlib.Path]],
    problems: FindingLog,
    report: Callable[[str], None],
) -> list[CheckedImage]:
    checked = []
    inspected = images.inspect_images([path for _, path in located])
    inspected = progress.announced(inspected, len(located), "checked", report)
    for (entry, path), facts in zip(located, inspected, strict=True):
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


def _size_problem(entry: ImageEntry, facts: images.ImageFacts) -> str:
    if facts.shown_transposed and (facts.height, facts.width) == (entry["width"], entry["height"]):
        return (
            "annotated as viewers show it by EXIF orientation, which training ignores: rotate the "
            "pixels themselves (mogrify -auto-orient) and keep the annotations"
        )
    return (
        "size differs from the annotation file: correct width and height there, and also the boxes "
        "if the image was resized"
    )
