"""Checks of a whole data set folder without TensorFlow, so that mistakes are reported at once."""

import dataclasses
import pathlib
from collections.abc import Callable

from libra_tf.data import cache, images, progress
from libra_tf.data.annotations import AnnotationFile, ImageEntry
from libra_tf.data.problems import FindingLog
from libra_tf.data.source import SPLITS, Source, name_in


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """One image that can be used.

    Attributes:
      entry: the image's entry in the annotation file.
      path: the image file.
      facts: what the decoded file turned out to be.
      is_turned: whether its pixels have to be turned upright, since that is how its boxes were
        drawn.
    """

    entry: ImageEntry
    path: pathlib.Path
    facts: images.ImageFacts
    is_turned: bool = False


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


def check(source: Source, report: Callable[[str], None]) -> CheckedFolder:
    """Checks every annotation and every image of a data set.

    Args:
      source: the data set's folder in the layout that it has.
      report: receives each line about the progress.

    Returns:
      The checked splits, as many as the folder has, and the stats of their files.

    Raises:
      DatasetError: if anything is wrong; the message lists all kinds of mistakes.
    """
    problems = FindingLog()
    # Taken before the content is read, so that a change in between is noticed later.
    stats = cache.stats_of(source.folder, source.depends_on())
    files = source.read(problems)
    if len(files) == len(SPLITS):
        _check_categories_agree(files["train"], files["val"], problems)
    splits = {}
    for split, file in files.items():
        report(f"checking {len(file.images)} {split} images")
        located = _locate_images(source.image_root(split, file), file, problems)
        names = [name_in(source.folder, path) for _, path in located]
        stats.update(cache.stats_of(source.folder, names))
        splits[split] = CheckedSplit(file, _inspect_images(file, located, problems, report))
    problems.raise_if_any(f"data set {source.folder}")
    return CheckedFolder(splits, stats)


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
            continue
        is_turned = file.is_upright and not facts.shown_as_stored
        width, height = facts.upright_size if is_turned else (facts.width, facts.height)
        if (width, height) != (entry["width"], entry["height"]):
            problems.add(
                _size_problem(entry, facts),
                f"{place}, file {width}x{height}, annotations {entry['width']}x{entry['height']}",
            )
        else:
            checked.append(CheckedImage(entry, path, facts, is_turned))
    return checked


def _size_problem(entry: ImageEntry, facts: images.ImageFacts) -> str:
    if facts.upright_size == (entry["width"], entry["height"]):
        return (
            "annotated as viewers show it by EXIF orientation, which training ignores: rotate the "
            "pixels themselves (mogrify -auto-orient) and keep the annotations"
        )
    return (
        "size differs from the annotation file: correct width and height there, and also the boxes "
        "if the image was resized"
    )
