"""Mistakes in data.yaml and in label files: one clear error each, and no traceback for any text."""

import contextlib
import pathlib
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from libra_tf.data import (
    DatasetError,
    cache,
    checking,
    layouts,
    prepare_coco_folder,
    yolo_labels,
)
from libra_tf.data.problems import FindingLog
from tests.data.folders import YOLO, CocoFolder, to_yolo, write_yolo_config

pytestmark = pytest.mark.one_lane

NAMED = {**YOLO, "names": ["cat", "dog"]}


@pytest.fixture
def yolo_folder(coco_folder: CocoFolder, tmp_path: pathlib.Path) -> pathlib.Path:
    return to_yolo(coco_folder.path, tmp_path / "yolo")


def check(folder: pathlib.Path) -> checking.CheckedFolder:
    return checking.check(layouts.recognise(folder), report=str)


WRONG_CONFIGS = {
    "no_yaml": ("{", "cannot be read as YAML"),
    "no_date": ("a: 2020-99-99", "cannot be read as YAML"),
    "a_list": ("[1, 2]", "must hold keys such as train"),
    "empty": ("", "must hold keys such as train"),
    "no_train": ({"val": "images/val", "names": ["cat"]}, "no training images"),
    "two_for_validation": (
        {**NAMED, "valid": "images/train"},
        "val, valid.*Keep one",
    ),
    "no_names": ({"train": "images/train"}, "names is None"),
    "no_such_path": ({**NAMED, "train": "pictures"}, r"train is 'pictures', .*Tried: .*pictures"),
    "train_is_a_number": ({**NAMED, "train": 5}, "train is 5"),
    "train_is_a_picture": ({**NAMED, "train": "images/train/a.jpg"}, "neither a folder nor a text"),
    "no_pictures": ({**NAMED, "train": "labels/train"}, "no images in train"),
    "number_of_names": ({**NAMED, "nc": 3}, "nc is 3, but names lists 2"),
    "a_gap_in_names": ({**YOLO, "names": {0: "cat", 2: "dog"}}, "numbers from 0 to 1"),
    "a_name_that_yaml_reads": ({**YOLO, "names": ["cat", True]}, "name of class 1 is True"),
    "poses": ({**NAMED, "kpt_shape": [17, 3]}, "poses"),
}


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_wrong_data_yaml(yolo_folder, name):
    config, message = WRONG_CONFIGS[name]
    if isinstance(config, str):
        (yolo_folder / "data.yaml").write_text(config)
    else:
        write_yolo_config(yolo_folder, config)
    with pytest.raises(DatasetError, match=message) as error:
        check(yolo_folder)
    assert "data.yaml" in str(error.value)


WRONG_LABELS = {
    "text": ("cat 0.5 0.5 0.1 0.1", "not a line of numbers"),
    "no_such_class": ("2 0.5 0.5 0.1 0.1", r"must be one of 0\.\.1"),
    "half_a_class": ("0.5 0.5 0.5 0.1 0.1", r"must be one of 0\.\.1"),
    "pixels": ("0 20 15 10 10", "fractions of the image's width and height"),
    "nan": ("0 nan 0.5 0.1 0.1", "not finite"),
    "too_short": ("0 0.5 0.5 0.1", "a class and x y width height"),
    "with_a_score": ("0 0.5 0.5 0.1 0.1 0.9", "a class and x y width height"),
    "odd_outline": ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "three or more points"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_wrong_labels(yolo_folder, name):
    line, message = WRONG_LABELS[name]
    (yolo_folder / "labels/train/a.txt").write_text(f"1 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DatasetError, match=message) as error:
        check(yolo_folder)
    assert "labels/train/a.txt, line 2" in str(error.value)


def test_labels_in_another_place(yolo_folder):
    shutil.move(yolo_folder / "labels", yolo_folder / "annotations_yolo")
    with pytest.raises(DatasetError, match=r"no image has a label file.*(.|\n)*labels/train/a.txt"):
        check(yolo_folder)


@pytest.mark.parametrize(
    ("copied", "name"),
    [
        ("labels/train/one/a.txt", "labels/train/sub/c.txt"),
        ("images/train/one/a.jpg", "images/train/empty/new.jpg"),
    ],
)
def test_a_folder_that_fills_later_is_noticed(yolo_folder, tmp_path, monkeypatch, copied, name):
    monkeypatch.setattr(cache, "_SETTLING_NS", 0)
    for folder in ("images/train/one", "images/train/empty", "labels/train/one"):
        (yolo_folder / folder).mkdir()
    # All images are in subfolders, and only one of these has labels.
    for file, folder in {"a.jpg": "one", "b.png": "sub"}.items():
        shutil.move(yolo_folder / "images/train" / file, yolo_folder / "images/train" / folder)
    shutil.move(yolo_folder / "labels/train/a.txt", yolo_folder / "labels/train/one")
    before = prepare_coco_folder(yolo_folder, tmp_path / "cache", report=str)
    (yolo_folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(yolo_folder / copied, yolo_folder / name)
    after = prepare_coco_folder(yolo_folder, tmp_path / "cache", report=str)
    assert after.train.input_path != before.train.input_path


def test_several_files_could_describe_the_folder(yolo_folder):
    shutil.copy(yolo_folder / "data.yaml", yolo_folder / "a.yaml")
    (yolo_folder / "data.yaml").rename(yolo_folder / "b.yaml")
    with pytest.raises(DatasetError, match=r"several files could describe it: a.yaml, b.yaml"):
        check(yolo_folder)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def _mutated_config(folder: pathlib.Path, key: str, value: object) -> None:
    config = {**NAMED, "nc": 2, key: value}
    (folder / "data.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")


def _passes_or_gives_the_one_error(folder: pathlib.Path) -> None:
    with contextlib.suppress(DatasetError):
        for split in check(folder).splits.values():
            for entry in split.annotation_file.annotations:
                assert len(entry["bbox"]) == 4


_SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=60, **_SETTINGS)
@given(
    key=st.sampled_from(["path", "train", "val", "test", "names", "nc", "kpt_shape"]), value=_VALUES
)
@example(key="train", value=["images/train", None])
@example(key="path", value="~nobody/x")
@example(key="path", value="a\0b")
@example(key="val", value="x" * 5000)
def test_any_value_in_data_yaml(yolo_folder, key, value):
    _mutated_config(yolo_folder, key, value)
    _passes_or_gives_the_one_error(yolo_folder)


_LINES = st.lists(
    st.lists(
        st.sampled_from(["0", "1", "2", "-1", "0.5", "1e400", "nan", "x", "", "0.25", "1.005"]),
        max_size=9,
    ).map(" ".join)
    | st.text(max_size=30),
    max_size=4,
).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(content=_LINES.map(lambda text: text.encode("utf-8", "ignore")) | st.binary(max_size=60))
def test_any_label_file(content):
    problems = FindingLog()
    for found in yolo_labels.parse(content, (40, 30), 2, "a.txt", problems):
        assert found["category_id"] in (1, 2)
        assert all(-41 <= value <= 41 for value in found["bbox"])


@pytest.mark.slow
@settings(max_examples=1000, **_SETTINGS)
@given(data=st.data())
def test_a_thousand_folders(yolo_folder, data):
    """Mutated files in a folder give a clear error or a data set."""
    if data.draw(st.booleans()):
        key = data.draw(st.sampled_from(["path", "train", "val", "names", "nc"]))
        _mutated_config(yolo_folder, key, data.draw(_VALUES))
    else:
        write_yolo_config(yolo_folder, NAMED)
    (yolo_folder / "labels/train/a.txt").write_bytes(data.draw(_LINES).encode("utf-8", "ignore"))
    _passes_or_gives_the_one_error(yolo_folder)
