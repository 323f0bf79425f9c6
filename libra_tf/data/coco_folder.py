"""A user's folder, in COCO or Pascal VOC format -> checked, converted once, described.

The layouts are those of `checking` and `voc`.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib

from libra_tf.data import annotations, cache, checking, progress, tfrecords
from libra_tf.data.problems import SHOWN, DatasetError, FindingLog

_DESCRIPTION = "dataset.json"
# Part of every cache key and note: raise it when the same folder has to give other records than
# before.
_CONVERSION_VERSION = 1
# Every id up to the largest costs the detector an output, so larger ones are renumbered, unless
# there really are so many categories.
_LARGEST_KEPT_CATEGORY_ID = 1000


@dataclasses.dataclass(frozen=True)
class Split:
    """One half of a converted data set.

    Attributes:
      input_path: `str`, glob of the TFRecord files, for Model Garden's `input_path`.
      annotation_file: `str`, the cleaned annotations as COCO JSON, for Model Garden's
        `annotation_file` and for pycocotools.
      num_examples: `int`, images, those without boxes included.
      num_boxes: `int`, boxes, crowds included.
      max_boxes_per_image: `int`.
    """

    input_path: str
    annotation_file: str
    num_examples: int
    num_boxes: int
    max_boxes_per_image: int


@dataclasses.dataclass(frozen=True)
class DetectionDataset:
    """A data set that is ready for training.

    Attributes:
      folder: `str`, where it came from.
      class_names: `dict` of category id (> 0) to name.
      num_classes: `int`, the largest category id + 1: counts the background, as Model Garden does.
      train: `Split`.
      val: `Split`.
      issues: tuple of `str`, everything clipped, dropped, renumbered, re-encoded or doubtful: one
        text for each kind, with every place on a line of its own.
    """

    folder: str
    class_names: dict
    num_classes: int
    train: Split
    val: Split
    issues: tuple


def prepare_coco_folder(folder, cache_dir=None, report=print):
    """Checks a folder, COCO or Pascal VOC, and makes TFRecords of it, unless there are some.

    Everything is checked before anything is converted. The result is kept in a cache under a hash
    of the annotation files' and the images' contents; the folder itself may be read-only.

    Args:
      folder: path of the data set's folder.
      cache_dir: path of the cache; `None` means `$XDG_CACHE_HOME/libra_tf` or `~/.cache/libra_tf`.
      report: callable that is given texts (`str`, mostly of one line) about progress and issues.

    Returns:
      `DetectionDataset`.

    Raises:
      DatasetError: if the folder cannot be used as it is (the message lists every kind of mistake
        with its first places), or the cache cannot be written.
    """
    folder = pathlib.Path(folder)
    checking.check_layout(folder)
    store = cache.DatasetCache(cache_dir, _CONVERSION_VERSION)
    entry = store.recall(folder)
    if entry is None:
        entry = _check_and_convert(folder, store, report)
    dataset, issues = _load(folder, entry)
    for message in issues.messages(SHOWN):
        report(message)
    report(f"{folder} is cached in {entry}")
    return dataset


def _check_and_convert(folder, store, report):
    checked = checking.check_folder(folder, report)
    key = _content_key(checked.splits)
    entry = store.find(key)
    if entry is None:
        plan = _plan_conversion(checked.splits)
        entry = store.create(key, lambda target: _convert(plan, target, report))
        report(_space_taken(folder, store, key))
    store.remember(folder, key, checked.stats)
    return entry


def _space_taken(folder, store, key):
    """Says how large the cache has become, and what of it may go."""
    text = f"the cache {store.folder} holds {_megabytes(store.size())}"
    former = store.superseded(folder, key)
    if former is not None:
        text += (
            f"; {former} ({_megabytes(cache.size_of(former))}) was made of {folder} before it "
            "changed and may be deleted when no run needs it any more"
        )
    return text


def _megabytes(size):
    return f"{size / 1e6:,.1f} MB"


def _content_key(splits):
    digest = hashlib.sha256(str(_CONVERSION_VERSION).encode())
    for split in splits.values():
        digest.update(split.annotation_file.digest.encode())
        for image in split.images:
            digest.update(image.facts.digest.encode())
    return digest.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What to write: cleaned annotations, final category ids, and what the user has to know."""

    splits: dict
    cleaned: dict
    class_names: dict
    issues: FindingLog


def _plan_conversion(splits):
    issues = FindingLog()
    original_names = splits["train"].annotation_file.class_names
    new_ids = _usable_category_ids(original_names, issues)
    cleaned = {}
    for name, split in splits.items():
        clipped = annotations.clip_annotations(split.annotation_file, issues)
        cleaned[name] = _renumbered(clipped, new_ids, name, issues)
        _note_images(split, issues)
    class_names = {new_ids[old]: category for old, category in sorted(original_names.items())}
    _note_contents(cleaned, class_names, splits, issues)
    _note_shared_images(splits, issues)
    return _Plan(splits, cleaned, class_names, issues)


def _usable_category_ids(class_names, issues):
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


def _renumbered(entries, new_category_ids, split, issues):
    """Gives annotations their final category ids, and positive ids of their own."""
    # pycocotools takes a match with annotation 0 for no match.
    shift = max(0, 1 - min((entry["id"] for entry in entries), default=1))
    if shift:
        issues.add("annotation ids below 1, all raised", f"{split}: by {shift}")
    return [
        {
            **entry,
            "id": entry["id"] + shift,
            "category_id": new_category_ids[entry["category_id"]],
        }
        for entry in entries
    ]


def _note_images(split, issues):
    for file_name in split.annotation_file.left_out:
        issues.add(
            "images without an XML file, left out: where there is nothing to find, add one "
            "without objects",
            file_name,
        )
    for image in split.images:
        if image.facts.needs_conversion:
            issues.add(
                "images that Model Garden cannot decode as they are, re-encoded as RGB PNG",
                f"{image.entry['file_name']}, {image.facts.encoding}",
            )
        if not image.facts.shown_as_stored:
            issues.add(
                "images with an EXIF orientation, which training does not follow: make sure that "
                "the boxes fit the pixels as stored",
                f"{image.entry['file_name']}, orientation {image.facts.orientation}",
            )


def _note_contents(cleaned, class_names, splits, issues):
    names = {name: split.annotation_file.path.name for name, split in splits.items()}
    # Neither training nor evaluation asks to find a crowd.
    used = {
        name: [entry for entry in entries if not entry["iscrowd"]]
        for name, entries in cleaned.items()
    }
    if not used["train"]:
        raise DatasetError(
            "the train split has no usable box, so there is nothing to learn from (crowds and "
            f"difficult objects do not count): check the objects of {names['train']}\n"
            + "\n".join(issues.messages(SHOWN))
        )
    if not used["val"]:
        issues.add("no box to evaluate with", names["val"])
    trained = {entry["category_id"] for entry in used["train"]}
    for category_id, name in class_names.items():
        if category_id not in trained:
            issues.add("categories without a box to train with", f"{category_id} '{name}'")
    for name, count in collections.Counter(class_names.values()).items():
        if count > 1:
            issues.add("category names that several ids share", f"'{name}'")


def _note_shared_images(splits, issues):
    trained = {image.facts.digest: image.entry["file_name"] for image in splits["train"].images}
    for image in splits["val"].images:
        if image.facts.digest in trained:
            issues.add(
                "images that train and val share, so the evaluation flatters",
                f"train: {trained[image.facts.digest]}, val: {image.entry['file_name']}",
            )


def _convert(plan, target, report):
    description = {"class_names": plan.class_names, "issues": plan.issues.by_kind}
    for name, split in plan.splits.items():
        by_image = collections.defaultdict(list)
        for entry in plan.cleaned[name]:
            by_image[entry["image_id"]].append(entry)
        examples = [(image, by_image[image.entry["id"]]) for image in split.images]
        shards = tfrecords.num_shards(len(examples))
        report(f"writing {len(examples)} {name} images (TFRecord files: {shards})")
        announced = progress.announced(examples, len(examples), "written", report)
        tfrecords.write_split(str(target / name), announced, shards, plan.class_names)
        _write_annotations(target / _annotation_file(name), plan, name)
        description[name] = {
            "num_examples": len(examples),
            "num_boxes": len(plan.cleaned[name]),
            "max_boxes_per_image": max(map(len, by_image.values()), default=0),
        }
    (target / _DESCRIPTION).write_text(json.dumps(description))


def _write_annotations(path, plan, name):
    coco = {
        "images": plan.splits[name].annotation_file.images,
        "annotations": plan.cleaned[name],
        "categories": [
            {"id": category_id, "name": category}
            for category_id, category in plan.class_names.items()
        ],
    }
    path.write_text(json.dumps(coco))


def _annotation_file(split):
    return f"instances_{split}.json"


def _load(folder, entry):
    """Reads what `_convert` wrote; returns the data set and its issues as `FindingLog`."""
    description = json.loads((entry / _DESCRIPTION).read_text())
    class_names = {int(key): name for key, name in description["class_names"].items()}
    splits = {
        name: Split(
            input_path=str(entry / f"{name}-*.tfrecord"),
            annotation_file=str(entry / _annotation_file(name)),
            **description[name],
        )
        for name in checking.SPLITS
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
