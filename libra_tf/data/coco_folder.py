"""A user's folder, in any layout that `layouts` recognises: checked, converted once, described."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from libra_tf.data import (
    annotations,
    cache,
    checking,
    layouts,
    progress,
    segmentations,
    set_aside,
    tfrecords,
)
from libra_tf.data.annotations import Annotation, AnnotationFile, ImageEntry
from libra_tf.data.checking import CheckedSplit
from libra_tf.data.problems import SHOWN, DatasetError, FindingLog
from libra_tf.data.source import SPLITS, Source

_DESCRIPTION = "dataset.json"
# Part of every cache key: increment it when the same folder should give different records.
_CONVERSION_VERSION = 1
# Part of the key of a folder with masks: increment it when the same masks should give different
# records.
_MASKS_VERSION = 1
# Part of the key of a folder that says what `annotations.FEDERATED_KEYS` and `frequency` mean:
# increment it when the same folder should give other annotations.
_FEDERATED_VERSION = 1
# Part of every note: increment it when the same folder should have another key.
_KEY_VERSION = 3
_PARTLY_MASKED = "annotations without a segmentation, so those of all others are left out"
# Every id up to the largest costs the detector an output, so larger ids are renumbered, unless
# there really are that many categories.
_LARGEST_KEPT_CATEGORY_ID = 1000


@dataclasses.dataclass(frozen=True)
class Split:
    """One half of a converted data set.

    Attributes:
      input_path: glob of the TFRecord files, for Model Garden's `input_path`.
      annotation_file: path of the cleaned annotations as COCO JSON, for Model Garden's
        `annotation_file` and for pycocotools.
      num_examples: number of images, including those without boxes.
      num_boxes: number of boxes, including crowds.
      max_boxes_per_image: the most boxes in one image.
      num_masks: number of boxes with a segmentation. The TFRecords have masks if all boxes of the
        data set have one.
      num_objects: number of boxes of each category id, without crowds; None if the data set was
        converted by a version that did not count them.
    """

    input_path: str
    annotation_file: str
    num_examples: int
    num_boxes: int
    max_boxes_per_image: int
    num_masks: int = 0
    num_objects: Mapping[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class DetectionDataset:
    """A data set that is ready for training.

    Attributes:
      folder: the folder that it was made from.
      class_names: name of each category id (> 0).
      num_classes: the largest category id + 1; counts the background, as Model Garden does.
      train: the training images.
      val: the validation images.
      issues: everything clipped, dropped, renumbered, re-encoded or doubtful: one text per kind,
        with every place on a line of its own.
    """

    folder: str
    class_names: dict[int, str]
    num_classes: int
    train: Split
    val: Split
    issues: tuple[str, ...]


def prepare_coco_folder(
    folder: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
    needs_masks: str = "",
    val_share: float | None = None,
    share_of_run: bool = False,
) -> DetectionDataset:
    """Checks a folder and converts it to TFRecords unless they exist already.

    Everything is checked before anything is converted. The result is kept in a cache under a hash
    of the contents of annotation files and images; the folder itself may be read-only.

    Args:
      folder: the data set's folder, in one of the layouts of `layouts`.
      cache_dir: the cache's folder; `None` means `$XDG_CACHE_HOME/libra_tf` or
        `~/.cache/libra_tf`.
      report: receives each text, usually of one line, about progress and issues.
      needs_masks: what needs masks and what to do if there are none, for the message; empty if
        nothing needs them.
      val_share: the part of the images to set aside for validation if the folder has only one
        split; `None` means a tenth. 1 is for evaluation only: all of them.
      share_of_run: whether the share is what a run has set aside, and not what the user asks for.
        If the folder has got a validation split since then, that is used, and a line says so.

    Returns:
      The converted data set.

    Raises:
      DatasetError: if the folder cannot be used as it is (the message lists every kind of mistake
        with its first places), if boxes lack masks that are needed, if the cache cannot be written,
        or if a share is given for a folder that has a validation split.
    """
    folder = pathlib.Path(folder)
    source = layouts.recognise(folder)
    report(f"{folder} is taken for {source.description}")
    if share_of_run and val_share not in (None, 1) and len(source.splits) == len(SPLITS):
        report(
            f"{folder} has got a validation split since {val_share:g} of its images were set aside "
            "for validation; it is used now"
        )
        val_share = None
    share = _share_to_set_aside(source, val_share)
    store = cache.DatasetCache(cache_dir, _note_version(share))
    entry = store.recall(source.folder)
    if entry is None:
        entry = _check_and_convert(source, share, store, report, needs_masks)
    dataset, issues = _load(folder, entry)
    if needs_masks:
        counts = [(split.num_masks, split.num_boxes) for split in (dataset.train, dataset.val)]
        _require_masks(folder, counts, issues, needs_masks)
    if share is not None:
        number = dataset.val.num_examples
        purpose = "evaluation" if share == 1 else f"validation (--val_share={share:g})"
        report(f"{folder} has one split only: {number} of its images are for {purpose}")
    for message in issues.messages(SHOWN):
        report(message)
    report(f"{folder} is cached in {entry}")
    return dataset


def _share_to_set_aside(source: Source, share: float | None) -> float | None:
    """Returns the share, `None` if the folder has both splits."""
    if len(source.splits) < len(SPLITS):
        return set_aside.DEFAULT_SHARE if share is None else share
    if share is not None and share < 1:
        raise DatasetError(
            f"--val_share={share:g}: data set {source.folder} has a validation split of its own "
            f"({source.description}); leave --val_share out"
        )
    return None


def _note_version(share: float | None) -> int | str:
    return _KEY_VERSION if share is None else f"{_KEY_VERSION}, val_share={share!r}"


def _check_and_convert(
    source: Source,
    share: float | None,
    store: cache.DatasetCache,
    report: Callable[[str], None],
    needs_masks: str,
) -> pathlib.Path:
    checked = checking.check(source, report)
    splits = checked.splits
    if share is not None:
        splits = set_aside.for_validation(splits["train"], share)
    key = _content_key(splits)
    entry = store.find(key)
    if entry is None:
        plan = _plan_conversion(splits)
        if needs_masks:
            counts = [(_num_masks(entries), len(entries)) for entries in plan.cleaned.values()]
            _require_masks(source.folder, counts, plan.issues, needs_masks)
        entry = store.create(key, lambda target: _convert(plan, target, report))
        report(_space_taken(source.folder, store, key))
    store.remember(source.folder, key, checked.stats)
    return entry


def _require_masks(
    folder: pathlib.Path, counts: list[tuple[int, int]], issues: FindingLog, needs_masks: str
) -> None:
    """Refuses a folder unless all boxes have a mask; `counts` are of masks and boxes, by split."""
    num_masks, num_boxes = map(sum, zip(*counts, strict=True))
    if num_masks == num_boxes > 0:
        return
    about_masks = (_PARTLY_MASKED, annotations.UNUSABLE_SEGMENTATION)
    found = {k: places for k, places in issues.by_kind.items() if k.startswith(about_masks)}
    some = f"segmentations for {num_masks} of {num_boxes} boxes only"
    raise DatasetError(
        f"{folder} has {some if num_masks else 'no segmentations'}, and "
        + "\n".join([needs_masks, *FindingLog(found).messages(SHOWN)])
    )


def _num_masks(entries: list[Annotation]) -> int:
    return sum("segmentation" in entry for entry in entries)


def _space_taken(folder: pathlib.Path, store: cache.DatasetCache, key: str) -> str:
    """Describes the size of the cache, and what of it may be deleted."""
    text = f"the cache {store.folder} takes up {_megabytes(store.size())}"
    former = store.superseded(folder, key)
    if former is not None:
        text += (
            f"; {former} ({_megabytes(cache.size_of(former))}) was made from {folder} before it "
            "changed and may be deleted once no run needs it"
        )
    return text


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _content_key(splits: dict[str, CheckedSplit]) -> str:
    digest = hashlib.sha256(str(_CONVERSION_VERSION).encode())
    for split in splits.values():
        digest.update(split.annotation_file.digest.encode())
        for image in split.images:
            digest.update(image.facts.digest.encode())
    drawn = (a.get("segmentation") for s in splits.values() for a in s.annotation_file.annotations)
    if any(map(segmentations.is_given, drawn)):
        digest.update(f"masks {_MASKS_VERSION}".encode())
    if any(_is_federated(split.annotation_file) for split in splits.values()):
        digest.update(f"federated {_FEDERATED_VERSION}".encode())
    return digest.hexdigest()[:32]


def _is_federated(file: AnnotationFile) -> bool:
    return bool(file.frequencies) or any(
        image.get(key) is not None for image in file.images for key in annotations.FEDERATED_KEYS
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What to write.

    Attributes:
      splits: the checked splits by name.
      cleaned: by split, the annotations with clipped boxes and final ids.
      class_names: name of each final category id.
      supercategories: supercategory of each final category id that has one.
      frequencies: by final category id; see `AnnotationFile`.
      images: by split, the entries of the images with final category ids.
      issues: what the user has to know.
      with_masks: whether every annotation has a mask.
    """

    splits: dict[str, CheckedSplit]
    cleaned: dict[str, list[Annotation]]
    class_names: dict[int, str]
    supercategories: dict[int, str]
    frequencies: dict[int, str]
    images: dict[str, list[ImageEntry]]
    issues: FindingLog
    with_masks: bool


def _plan_conversion(splits: dict[str, CheckedSplit]) -> _Plan:
    issues = FindingLog()
    train_file = splits["train"].annotation_file
    original_names = train_file.class_names
    new_ids = _usable_category_ids(original_names, issues)
    cleaned, images, frequencies = {}, {}, {}
    for name, split in splits.items():
        # Where all images are in both, what is found in them is said once.
        is_said = name != "train" and split is splits["train"]
        found = FindingLog() if is_said else issues
        clipped = annotations.clip_annotations(split.annotation_file, found)
        cleaned[name] = _renumbered(clipped, new_ids, name, found)
        images[name] = [_with_new_ids(i, new_ids) for i in split.annotation_file.images]
        for old, frequency in split.annotation_file.frequencies.items():
            if old in new_ids:
                frequencies[new_ids[old]] = frequency
        _note_images(split, found)
    class_names = {new_ids[old]: category for old, category in sorted(original_names.items())}
    supercategories = {
        new_ids[old]: name for old, name in train_file.supercategories.items() if old in new_ids
    }
    _note_contents(cleaned, class_names, splits, issues)
    _note_shared_images(splits, issues)
    with_masks = _note_missing_masks(cleaned, splits, issues)
    return _Plan(
        splits, cleaned, class_names, supercategories, frequencies, images, issues, with_masks
    )


def _usable_category_ids(class_names: dict[int, str], issues: FindingLog) -> dict[int, int]:
    """Maps the user's category ids to ids that Model Garden can train with."""
    ids = sorted(class_names)
    limit = max(_LARGEST_KEPT_CATEGORY_ID, len(ids))
    # 0 is the background in Model Garden.
    if ids[0] > 0 and ids[-1] <= limit:
        return {category_id: category_id for category_id in ids}
    new_ids = {category_id: number for number, category_id in enumerate(ids, start=1)}
    for old, new in new_ids.items():
        issues.add(
            f"category ids outside 1..{limit} (0 is the background), all renumbered",
            f"{old} -> {new} '{class_names[old]}'",
        )
    return new_ids


def _renumbered(
    entries: list[Annotation], new_category_ids: dict[int, int], split: str, issues: FindingLog
) -> list[Annotation]:
    """Gives annotations their final category ids, and positive ids of their own."""
    # pycocotools mistakes a match with annotation 0 for no match.
    shift = max(0, 1 - min((entry["id"] for entry in entries), default=1))
    if shift:
        issues.add("annotation ids below 1, all shifted up", f"{split}: by {shift}")
    return [
        {
            **entry,
            "id": entry["id"] + shift,
            "category_id": new_category_ids[entry["category_id"]],
        }
        for entry in entries
    ]


def _with_new_ids(image: ImageEntry, new_category_ids: dict[int, int]) -> ImageEntry:
    """Returns an image's entry with final category ids in what a federated data set says of it."""
    lists = {
        key: [new_category_ids[old] for old in image[key] if old in new_category_ids]
        for key in annotations.FEDERATED_KEYS
        if image.get(key) is not None
    }
    others = {key: value for key, value in image.items() if key not in annotations.FEDERATED_KEYS}
    return {**others, **lists}


def _note_images(split: CheckedSplit, issues: FindingLog) -> None:
    for file_name in split.annotation_file.left_out:
        issues.add(
            "images without an XML file, left out: to keep an image that shows no objects, add an "
            "XML file without objects",
            file_name,
        )
    for image in split.images:
        if image.facts.needs_conversion:
            issues.add(
                "images that Model Garden cannot decode as they are, re-encoded as RGB PNG",
                f"{image.entry['file_name']}, {image.facts.encoding}",
            )
        if image.is_turned:
            issues.add(
                "images with an EXIF orientation, turned upright as their labels are",
                f"{image.entry['file_name']}, orientation {image.facts.orientation}",
            )
        elif not image.facts.shown_as_stored:
            issues.add(
                "images with an EXIF orientation, which training ignores: make sure that the boxes "
                "match the pixels as stored",
                f"{image.entry['file_name']}, orientation {image.facts.orientation}",
            )


def _note_contents(
    cleaned: dict[str, list[Annotation]],
    class_names: dict[int, str],
    splits: dict[str, CheckedSplit],
    issues: FindingLog,
) -> None:
    names = {name: split.annotation_file.path.name for name, split in splits.items()}
    # Neither training nor evaluation expects the detector to find crowds.
    used = {
        name: [entry for entry in entries if not entry["iscrowd"]]
        for name, entries in cleaned.items()
    }
    if not used["train"]:
        raise DatasetError(
            "the train split has no usable boxes, so there is nothing to learn from (crowds and "
            f"difficult objects do not count): check the objects in {names['train']}\n"
            + "\n".join(issues.messages(SHOWN))
        )
    if not used["val"]:
        issues.add("no boxes to evaluate with", names["val"])
    trained = {entry["category_id"] for entry in used["train"]}
    for category_id, name in class_names.items():
        if category_id not in trained:
            issues.add("categories without boxes to train on", f"{category_id} '{name}'")
    for name, count in collections.Counter(class_names.values()).items():
        if count > 1:
            issues.add("category names shared by several ids", f"'{name}'")


def _note_shared_images(splits: dict[str, CheckedSplit], issues: FindingLog) -> None:
    trained = {image.facts.digest: image.entry["file_name"] for image in splits["train"].images}
    if splits["train"] is splits["val"]:
        return
    for image in splits["val"].images:
        if image.facts.digest in trained:
            issues.add(
                "images in both train and val, so evaluation scores are inflated",
                f"train: {trained[image.facts.digest]}, val: {image.entry['file_name']}",
            )


def _note_missing_masks(
    cleaned: dict[str, list[Annotation]], splits: dict[str, CheckedSplit], issues: FindingLog
) -> bool:
    """Returns whether there are masks for all annotations; having some is noted."""
    if not any(map(_num_masks, cleaned.values())):
        return False
    # A set: an annotation may be in both splits.
    without_mask = {
        (splits[name].annotation_file.path, entry["id"])
        for name, entries in cleaned.items()
        for entry in entries
        if "segmentation" not in entry
    }
    for path, id_ in sorted(without_mask):
        issues.add(_PARTLY_MASKED, f"{path.name}: annotation {id_}")
    return not without_mask


def _convert(plan: _Plan, target: pathlib.Path, report: Callable[[str], None]) -> None:
    """Writes everything that `_load` reads."""
    description: dict[str, Any] = {
        "class_names": plan.class_names,
        "issues": plan.issues.by_kind,
    }
    for name in plan.splits:
        description[name] = _convert_split(plan, name, target, report)
    (target / _DESCRIPTION).write_text(json.dumps(description))


def _convert_split(
    plan: _Plan, name: str, target: pathlib.Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Writes the records and annotations of a split; returns its counts, as in `Split`."""
    by_image = collections.defaultdict(list)
    for entry in plan.cleaned[name]:
        by_image[entry["image_id"]].append(entry)
    examples = [(image, by_image[image.entry["id"]]) for image in plan.splits[name].images]
    shards = tfrecords.num_shards(len(examples))
    report(f"writing {len(examples)} {name} images (TFRecord files: {shards})")
    announced = progress.announced(examples, len(examples), "wrote", report)
    tfrecords.write_split(str(target / name), announced, shards, plan.class_names, plan.with_masks)
    _write_annotations(target / annotations.split_file_name(name), plan, name)
    return {
        "num_examples": len(examples),
        "num_boxes": len(plan.cleaned[name]),
        "max_boxes_per_image": max(map(len, by_image.values()), default=0),
        "num_masks": _num_masks(plan.cleaned[name]),
        "num_objects": _num_objects(plan, name),
    }


def _num_objects(plan: _Plan, name: str) -> dict[int, int]:
    counts = collections.Counter(
        entry["category_id"] for entry in plan.cleaned[name] if not entry["iscrowd"]
    )
    return {id_: counts[id_] for id_ in plan.class_names}


def _write_annotations(path: pathlib.Path, plan: _Plan, name: str) -> None:
    coco = {
        "images": plan.images[name],
        "annotations": plan.cleaned[name],
        "categories": annotations.category_entries(
            plan.class_names, plan.supercategories, plan.frequencies
        ),
    }
    # Polygons are arrays. Entry by entry, so that the text is never in memory as a whole.
    encode = json.JSONEncoder(default=list).encode
    with open(path, "w") as file:
        for opening, (section, entries) in zip(("{", ", ", ", "), coco.items(), strict=True):
            file.write(f'{opening}"{section}": [')
            for number, entry in enumerate(entries):
                file.write((", " if number else "") + encode(entry))
            file.write("]")
        file.write("}")


def _with_ids(counts: dict[str, int] | None) -> dict[int, int] | None:
    """Gives category ids, which are texts in JSON, their type."""
    return None if counts is None else {int(id_): count for id_, count in counts.items()}


def _load(folder: pathlib.Path, entry: pathlib.Path) -> tuple[DetectionDataset, FindingLog]:
    """Reads what `_convert` wrote; returns the data set and its issues."""
    description = json.loads((entry / _DESCRIPTION).read_text())
    class_names = {int(key): name for key, name in description["class_names"].items()}
    splits = {
        name: Split(
            input_path=str(entry / f"{name}-*.tfrecord"),
            annotation_file=str(entry / annotations.split_file_name(name)),
            **{**description[name], "num_objects": _with_ids(description[name].get("num_objects"))},
        )
        for name in SPLITS
    }
    issues = FindingLog(description["issues"])
    dataset = DetectionDataset(
        folder=str(folder),
        class_names=class_names,
        num_classes=max(class_names) + 1,
        issues=tuple(issues.messages()),
        **splits,
    )
    return dataset, issues
