"""Recognises the layout of a data set's folder by looking at it.

`coco`, `yolo` and `voc` describe the layouts.
"""

import pathlib
from collections.abc import Iterator, Sequence

from libra_tf.cli.inputs import DATASET_LAYOUTS
from libra_tf.data import coco, voc, yolo
from libra_tf.data.problems import DatasetError
from libra_tf.data.source import SPLITS, Source

_MAX_LISTED = 20
# Archives are often unpacked into a folder of their own, and VOC's into VOCdevkit/VOC2007/.
_MAX_DEPTH = 2


def recognise(folder: pathlib.Path) -> Source:
    """Finds out what layout a folder has.

    Args:
      folder: the data set's folder, or one that holds it, at most two levels up.

    Returns:
      The folder in the layout that it has.

    Raises:
      DatasetError: if it has none, or it is not clear which one is meant, or a part is missing; the
        message lists what there is.
    """
    if not folder.is_dir():
        raise DatasetError(f"data set {folder} is not a folder: {DATASET_LAYOUTS}")
    if found := _found_in(folder):
        return found
    for depth in range(1, _MAX_DEPTH + 1):
        nested = {below: found for below in _below(folder, depth) if (found := _found_in(below))}
        if len(nested) > 1:
            names = ", ".join(str(below) for below in nested)
            raise DatasetError(
                f"data set {folder} holds several data sets; name one of them: {names}"
            )
        if nested:
            return next(iter(nested.values()))
    raise DatasetError(
        f"data set {folder} has none of the layouts that can be read: {DATASET_LAYOUTS}."
        f"{_hint(folder)} Found: {_listing(folder)}"
    )


def _found_in(folder: pathlib.Path) -> Source | None:
    """Returns the folder in its layout, `None` if it has none."""
    # Whoever writes all of COCO's files beside others, as some tools do, wants them to be read. On
    # a file system that ignores case, COCO's annotations/ is VOC's Annotations/, too.
    if found := coco.find_annotations(folder):
        if len(found.splits) < len(SPLITS):
            _refuse_several(folder, [found, *_readable_yolo(folder)])
        return found
    if found := voc.find(folder):
        return found
    exported = [source for source in (coco.find_roboflow(folder), yolo.find(folder)) if source]
    _refuse_several(folder, exported)
    if exported:
        return exported[0]
    # Beside labels/, a JSON file is a tool's notes.
    return None if (folder / "labels").is_dir() else coco.find_single_file(folder)


def _readable_yolo(folder: pathlib.Path) -> list[Source]:
    """Returns the folder in YOLO's layout, if that is complete.

    Of COCO in that layout, the validation split alone often has its annotation file beside it.
    """
    try:
        found = yolo.find(folder)
    except DatasetError:
        return []
    return [found] if found else []


def _refuse_several(folder: pathlib.Path, sources: Sequence[Source]) -> None:
    if len(sources) > 1:
        descriptions = "; ".join(source.description for source in sources)
        raise DatasetError(
            f"data set {folder} has several layouts at once: {descriptions}. Keep one of them"
        )


def _below(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    return (path for path in sorted(folder.glob("/".join("*" * depth))) if path.is_dir())


def _hint(folder: pathlib.Path) -> str:
    if (folder / "labels").is_dir():
        return " Its labels/ look like YOLO's, but the data.yaml with the names is missing."
    return ""


def _listing(folder: pathlib.Path) -> str:
    names = sorted(
        str(path.relative_to(folder)) + "/" * path.is_dir()
        for pattern in ("*", "annotations/*")
        for path in folder.glob(pattern)
    )
    more = ["..."] if len(names) > _MAX_LISTED else []
    return ", ".join(names[:_MAX_LISTED] + more) or "nothing"
