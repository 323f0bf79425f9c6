"""Every kind of bad input gives one clear error, before TensorFlow is imported."""

import contextlib
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from libra_tf.data import DatasetError, annotations, checking, layouts
from libra_tf.data.problems import FindingLog
from tests.data.folders import Coco, CocoFolder

pytestmark = pytest.mark.one_lane

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _check(folder: pathlib.Path) -> checking.CheckedFolder:
    return checking.check(layouts.recognise(folder), report=str)


def _save_deep(folder: CocoFolder) -> None:
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(folder.image("b.png"))


def _save_animation(folder: CocoFolder) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(folder.image(), format="GIF", save_all=True, append_images=frames[1:])


def _save_turned(folder: CocoFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(folder.image(), exif=exif)


def _truncate(folder: CocoFolder) -> None:
    path = folder.image()
    path.write_bytes(path.read_bytes()[:-200])


def _link_outside(folder: CocoFolder) -> None:
    outside = folder.path.parent / "outside.jpg"
    shutil.move(folder.image(), outside)
    folder.image().symlink_to(outside)


def _link_to_itself(folder: CocoFolder) -> None:
    folder.image().unlink()
    folder.image().symlink_to(folder.image())


def _pipe(folder: CocoFolder) -> None:
    folder.image().unlink()
    os.mkfifo(folder.image())


_FILE_MISTAKES = {
    "absent": (lambda f: f.image().unlink(), "not in images/.*(.|\n)*instances_train.json: a.jpg"),
    "directory": (lambda f: (f.image().unlink(), f.image().mkdir()), "not a file"),
    "pipe": (_pipe, "not a file"),
    "empty": (lambda f: f.image().write_bytes(b""), "empty image file"),
    "no_image": (lambda f: f.image().write_text("text"), "not an image"),
    "truncated": (_truncate, "truncated or damaged"),
    "animation": (_save_animation, "animation"),
    "unsupported": (
        lambda f: Image.new("RGB", (40, 30)).save(f.image(), format="PPM"),
        "unsupported format PPM",
    ),
    "16_bit": (_save_deep, "more than 8 bits"),
    "other_size": (
        lambda f: Image.new("RGB", (30, 40)).save(f.image()),
        "size differs(.|\n)*a.jpg, file 30x40, annotations 40x30",
    ),
    "turned": (_save_turned, "EXIF orientation.*rotate the pixels"),
    "link_outside": (_link_outside, "symbolic link points outside"),
    "link_to_itself": (_link_to_itself, "not in images/"),
}


@pytest.mark.parametrize("name", _FILE_MISTAKES)
def test_bad_image_file(coco_folder, name):
    spoil, message = _FILE_MISTAKES[name]
    spoil(coco_folder)
    with pytest.raises(DatasetError, match=message):
        _check(coco_folder.path)


def _set(section: str, key: str, value: Any) -> Callable[[Coco], None]:
    def spoil(coco: Coco) -> None:
        coco[section][0][key] = value

    return spoil


def _drop(section: str, key: str) -> Callable[[Coco], Any]:
    return lambda coco: coco[section][0].pop(key)


def _copy_first(section: str, **changes: Any) -> Callable[[Coco], None]:
    return lambda coco: coco[section].append({**coco[section][0], **changes})


_ENTRY_MISTAKES = {
    "no_images_section": (lambda c: c.pop("images"), "'images' is missing"),
    "categories_no_list": (lambda c: c.update(categories={}), "'categories' is a dict"),
    "no_images": (lambda c: c.update(images=[], annotations=[]), "lists no images"),
    "no_categories": (lambda c: c.update(categories=[], annotations=[]), "lists no categories"),
    "entry_no_object": (
        lambda c: c["images"].append(5),
        r"not a JSON object(.|\n)*images\[3\] is 5",
    ),
    "no_file_name": (_drop("images", "file_name"), r"is missing file_name(.|\n)*: images\[0\]: "),
    "no_bbox": (_drop("annotations", "bbox"), r"is missing bbox(.|\n)*: annotations\[0\]: "),
    "no_name": (_drop("categories", "name"), r"is missing name(.|\n)*: categories\[0\]: "),
    "image_id_text": (_set("images", "id", "10"), "image id must be an integer"),
    "image_id_bool": (_set("images", "id", True), "image id must be an integer"),
    "image_id_huge": (_set("images", "id", 2**63), "image id must be an integer"),
    "width_zero": (_set("images", "width", 0), "positive integers"),
    "width_text": (_set("images", "width", "40"), "positive integers"),
    "file_name_number": (_set("images", "file_name", 5), "file_name must be non-empty, valid text"),
    "file_name_parent": (_set("images", "file_name", "../x.jpg"), "file_name points outside"),
    "file_name_absolute": (_set("images", "file_name", "/etc/passwd"), "file_name points outside"),
    "file_name_nul": (_set("images", "file_name", "a\0.jpg"), "file_name points outside"),
    "file_name_half_character": (_set("images", "file_name", "a\ud800.jpg"), "file_name must be"),
    "file_name_long": (_set("images", "file_name", "a" * 5000), "not in images/"),
    "category_id_text": (_set("categories", "id", "1"), "category id must be an integer"),
    "category_unnamed": (
        _set("categories", "name", " "),
        "category name must be non-empty, valid text",
    ),
    "bbox_short": (_set("annotations", "bbox", [1, 2, 3]), "four finite numbers"),
    "bbox_nan": (_set("annotations", "bbox", [1, 2, 3, float("nan")]), "four finite numbers"),
    "bbox_infinite": (_set("annotations", "bbox", [1, 2, 3, float("inf")]), "four finite"),
    "bbox_huge": (_set("annotations", "bbox", [1, 2, 3, 10**400]), "four finite numbers"),
    "bbox_text": (_set("annotations", "bbox", ["1", 2, 3, 4]), "four finite numbers"),
    "bbox_null": (_set("annotations", "bbox", None), "four finite numbers"),
    "area_text": (_set("annotations", "area", "5"), "area must be a non-negative number"),
    "iscrowd_text": (_set("annotations", "iscrowd", "yes"), "iscrowd must be 0 or 1"),
    "annotation_id_null": (_set("annotations", "id", None), "annotation id must be an integer"),
    "unknown_category": (
        _set("annotations", "category_id", 2),
        r"not listed in 'categories' \(\[1, 3\]\)",
    ),
    "unknown_image": (_set("annotations", "image_id", 99), "annotation 1, image_id 99"),
    "image_id_twice": (_copy_first("images", file_name="sub/c.jpg"), "duplicate image id"),
    "file_name_twice": (_copy_first("images", id=5, file_name="./a.jpg"), "duplicate file_name"),
    "annotation_id_twice": (_copy_first("annotations"), "duplicate annotation id"),
    "category_id_twice": (_copy_first("categories", name="cow"), "duplicate category id"),
}


@pytest.mark.parametrize("name", _ENTRY_MISTAKES)
def test_bad_entry(coco_folder, name):
    spoil, message = _ENTRY_MISTAKES[name]
    spoil(coco_folder.coco["train"])
    coco_folder.write()
    with pytest.raises(DatasetError, match=message):
        _check(coco_folder.path)


@pytest.mark.parametrize(
    "encoded", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"]
)
def test_annotation_file_that_is_not_json(coco_folder, encoded):
    coco_folder.annotation_path("val").write_bytes(encoded)
    with pytest.raises(DatasetError, match=r"COCO JSON(.|\n)*instances_val.json is not JSON"):
        _check(coco_folder.path)


def test_annotation_file_that_is_a_list(coco_folder):
    coco_folder.annotation_path("val").write_text("[1, 2]")
    with pytest.raises(
        DatasetError,
        match=r"val.json is not a COCO .*: the top level is a list",
    ):
        _check(coco_folder.path)


def test_annotation_file_with_byte_order_mark(coco_folder):
    path = coco_folder.annotation_path("val")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(_check(coco_folder.path).splits["val"].images) == 2


def test_categories_must_agree(coco_folder):
    coco_folder.coco["val"]["categories"][1]["name"] = "wolf"
    coco_folder.coco["val"]["categories"].append({"id": 4, "name": "cow"})
    coco_folder.write()
    with pytest.raises(DatasetError, match=r"'dog' and 'wolf'(.|\n)*id 4, 'cow'"):
        _check(coco_folder.path)


def test_all_mistakes_are_reported_at_once_and_counted(coco_folder):
    coco = coco_folder.coco["train"]
    coco["annotations"].extend(
        {"id": 100 + n, "image_id": 77, "category_id": 1, "bbox": [0, 0, 1, 1]} for n in range(8)
    )
    coco_folder.write()
    _truncate(coco_folder)
    coco_folder.image("e.png").unlink()
    with pytest.raises(DatasetError) as error:
        _check(coco_folder.path)
    message = str(error.value)
    assert "truncated or damaged" in message
    assert "instances_val.json: e.png" in message
    assert "(8):" in message and "annotation 104" in message and "... and 3 more" in message
    assert "annotation 105" not in message


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of keys to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        yield (*place, key)
        if isinstance(child, (dict, list)):
            yield from _places(child, (*place, key))


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_value_anywhere_passes_or_gives_the_one_error(coco_folder, data):
    coco = copy.deepcopy(coco_folder.coco["train"])
    *parents, key = data.draw(st.sampled_from(list(_places(coco))))
    spoilt = coco
    for parent in parents:
        spoilt = spoilt[parent]
    spoilt[key] = data.draw(_JSON_VALUES)
    coco_folder.annotation_path("train").write_text(json.dumps(coco))
    with contextlib.suppress(DatasetError):
        checked = _check(coco_folder.path).splits["train"]
        for entry in annotations.clip_annotations(checked.annotation_file, FindingLog()):
            x, y, width, height = entry["bbox"]
            assert x >= 0 and y >= 0 and width > 0 and height > 0
            assert x + width <= 40.001 and y + height <= 30.001


def test_layout(tmp_path, coco_folder):
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        _check(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"none of the layouts (.|\n)*Found: nothing"):
        _check(tmp_path / "empty")
    coco_folder.annotation_path("val").rename(coco_folder.path / "annotations" / "other.json")
    with pytest.raises(DatasetError, match=r"not clear which .*annotations/other.json"):
        _check(coco_folder.path)


def test_valid_folder_passes(coco_folder):
    splits = _check(coco_folder.path).splits
    assert [image.entry["id"] for image in splits["train"].images] == [10, 11, 12]
    assert splits["train"].images[2].path == coco_folder.image("sub/c.jpg")


def _checked_names(folder: CocoFolder) -> list[str]:
    return [image.entry["file_name"] for image in _check(folder.path).splits["train"].images]


def test_links_inside_the_folder_are_fine(coco_folder):
    shutil.move(coco_folder.image(), coco_folder.image("sub/original.jpg"))
    coco_folder.image().symlink_to(coco_folder.image("sub/original.jpg"))
    assert _checked_names(coco_folder) == ["a.jpg", "b.png", "sub/c.jpg"]


def test_folder_of_images_may_be_a_link(coco_folder, tmp_path):
    shutil.move(coco_folder.path / "images", tmp_path / "elsewhere")
    (coco_folder.path / "images").symlink_to(tmp_path / "elsewhere")
    assert _checked_names(coco_folder) == ["a.jpg", "b.png", "sub/c.jpg"]


def test_mistakes_are_reported_without_tensorflow(coco_folder, tmp_path):
    coco_folder.image().unlink()
    program = (
        "import sys\n"
        "from libra_tf.data import DatasetError, prepare_coco_folder\n"
        "try:\n"
        "    prepare_coco_folder(sys.argv[1], sys.argv[2])\n"
        "except DatasetError:\n"
        "    print('refused', 'tensorflow' in sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, coco_folder.path, tmp_path / "cache"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.endswith("refused False\n")
