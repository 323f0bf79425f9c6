"""Pascal VOC folders: the same records as the same data in COCO format, and clear errors."""

import json
import math
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.data import (
    DatasetError,
    Split,
    cache,
    checking,
    layouts,
    make_shapes,
    prepare_coco_folder,
    voc,
)
from tests.data.folders import CocoFolder, to_voc, write_xml

pytestmark = pytest.mark.one_lane

VARIABLE = {
    f"image/object/{name}": tf.io.VarLenFeature(kind)
    for name, kind in {
        "bbox/xmin": tf.float32,
        "bbox/xmax": tf.float32,
        "bbox/ymin": tf.float32,
        "bbox/ymax": tf.float32,
        "class/text": tf.string,
        "is_crowd": tf.int64,
        "area": tf.float32,
    }.items()
}
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    **VARIABLE,
}


def round_boxes(path: pathlib.Path) -> None:
    """Gives the boxes of a COCO file edges in whole pixels, as LabelImg's are."""
    coco = json.loads(path.read_text())
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        left, top = int(x), int(y)
        width, height = math.ceil(x + width) - left, math.ceil(y + height) - top
        annotation.update(bbox=[left, top, width, height], area=width * height)
    path.write_text(json.dumps(coco))


def records_of(split: Split) -> dict[bytes, dict[str, Any]]:
    """Returns all features except ids, by the image's name without folders."""
    records = {}
    for record in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(split.input_path))):
        example = tf.io.parse_single_example(record, FEATURES)
        example = {
            key: np.array(tf.sparse.to_dense(value) if key in VARIABLE else value).tolist()
            for key, value in example.items()
        }
        records[example.pop("image/filename").split(b"/")[-1]] = example
    return records


@pytest.mark.parametrize("side_by_side", [False, True])
def test_gives_the_records_of_the_same_coco_files(tmp_path, side_by_side):
    coco = pathlib.Path(make_shapes(tmp_path / "shapes", 24, 16, image_size=96, report=str))
    for split in ("train", "val"):
        round_boxes(coco / "annotations" / f"instances_{split}.json")
    # One layout is checked with the whole data set, the other with a part of it.
    max_images = 12 if side_by_side else None
    folder = to_voc(coco, tmp_path / "voc", side_by_side, max_images)
    from_voc = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    from_coco = prepare_coco_folder(coco, tmp_path / "cache", report=str)
    assert from_coco.class_names == {1: "circle", 2: "square", 3: "triangle", 4: "star"}
    assert from_voc.class_names == {1: "circle", 2: "square", 3: "star", 4: "triangle"}
    for split in ("train", "val"):
        ours, theirs = (records_of(getattr(d, split)) for d in (from_voc, from_coco))
        assert len(ours) == (max_images or len(theirs)) > 0
        assert ours == {name: theirs[name] for name in ours}


def test_bccd_is_described(bccd, tmp_path):
    """Real photographs, against the number of boxes in the files as its authors publish them."""
    dataset = prepare_coco_folder(bccd, tmp_path / "cache", report=str)
    assert dataset.folder == str(bccd)
    assert dataset.class_names == {1: "Platelets", 2: "RBC", 3: "WBC"}
    assert dataset.num_classes == 4
    train, val = dataset.train, dataset.val
    assert (train.num_examples, train.num_boxes) == (205, 2804)
    assert (val.num_examples, val.num_boxes, val.max_boxes_per_image) == (87, 1137, 30)
    # The source's own defects: two boxes of no height and width, and nothing else.
    (issue,) = dataset.issues
    assert "without positive width and height, dropped (2)" in issue
    assert "BloodImage_00343.jpg" in issue and "BloodImage_00338.jpg" in issue


def test_difficult_and_odd_files_of_the_small_folder(coco_folder, tmp_path):
    """Subfolders, crowds and images without boxes give the same records as in COCO format."""
    folder = to_voc(coco_folder.path, tmp_path / "voc")
    from_voc = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    from_coco = prepare_coco_folder(coco_folder.path, tmp_path / "cache", report=str)
    for split in ("train", "val"):
        ours, theirs = (records_of(getattr(d, split)) for d in (from_voc, from_coco))
        for record in [*ours.values(), *theirs.values()]:
            # In COCO format the area may be that of a mask, which VOC does not have.
            del record["image/object/area"]
        assert ours == theirs


def test_a_folder_is_read_again_when_an_xml_file_changes(voc_folder, tmp_path):
    before = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    path = voc_folder / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("cat", "lion"))
    after = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    assert "lion" in after.class_names.values() and "lion" not in before.class_names.values()


@pytest.fixture
def voc_folder(coco_folder: CocoFolder, tmp_path: pathlib.Path) -> pathlib.Path:
    return to_voc(coco_folder.path, tmp_path / "voc")


def check(folder: pathlib.Path) -> checking.CheckedFolder:
    return checking.check(layouts.recognise(folder), report=str)


def test_the_challenges_own_files_count_pixels_from_1(voc_folder):
    entry = {"file_name": "a.jpg", "width": 40, "height": 30}
    # The first pixel alone: xmin = xmax = 1.
    write_xml(
        voc_folder / "Annotations/a.xml", entry, [("cat", (1, 1, 0, 0), 0)], "The VOC2007 Database"
    )
    checked = check(voc_folder).splits["train"].annotation_file
    boxes = [a["bbox"] for a in checked.annotations if a["image_id"] == 1]
    assert boxes == [[0, 0, 1, 1]]


def test_the_size_may_be_left_out(voc_folder):
    path = voc_folder / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<width>40</width>", "<width>0</width>"))
    image = check(voc_folder).splits["train"].annotation_file.images[0]
    assert (image["width"], image["height"]) == (40, 30)


def replace(name: str, old: str, new: str) -> Callable[[pathlib.Path], None]:
    def spoil(folder: pathlib.Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


MISTAKES = {
    "not_xml": (replace("Annotations/a.xml", "</annotation>", ""), r"not XML(.|\n)*a\.xml"),
    "no_xml": (
        lambda f: (f / "Annotations/a.xml").unlink(),
        r"without a readable XML file(.|\n)*a\.xml",
    ),
    "other_root": (
        replace("Annotations/a.xml", "annotation>", "html>"),
        r"must be 'annotation'(.|\n)*'html'",
    ),
    "no_image": (
        lambda f: (f / "JPEGImages/a.jpg").unlink(),
        r"no image for this XML file in JPEGImages/(.|\n)*a\.xml",
    ),
    "bad_image": (lambda f: (f / "JPEGImages/a.jpg").write_text("x"), "not an image"),
    "no_name": (replace("Annotations/a.xml", "cat", " "), "object without a name"),
    "no_number": (
        replace("Annotations/a.xml", "<xmin>1</xmin>", "<xmin>one</xmin>"),
        r"four finite numbers(.|\n)*'one'",
    ),
    "nan": (replace("Annotations/a.xml", "<xmin>1<", "<xmin>nan<"), "four finite numbers"),
    "no_box": (replace("Annotations/a.xml", "bndbox", "polygon"), "four finite numbers"),
    "difficult": (replace("Annotations/a.xml", "t>0<", "t>maybe<"), "difficult must be 0 or 1"),
    "bad_size": (replace("Annotations/a.xml", "<width>40", "<width>wide"), "size must be"),
    "other_size": (
        replace("Annotations/a.xml", "<width>40", "<width>50"),
        r"size differs(.|\n)*file 40x30, annotations 50x30",
    ),
    "twice": (replace("ImageSets/Main/train.txt", "a\n", "a\na\n"), "listed twice"),
    "outside": (replace("ImageSets/Main/train.txt", "a\n", "../a\n"), "points outside"),
    "no_file": (replace("ImageSets/Main/train.txt", "a\n", ".\n"), "points outside"),
    "empty_list": (
        lambda f: (f / "ImageSets/Main/val.txt").write_text(""),
        r"without usable images(.|\n)*val\.txt",
    ),
    "no_list": (
        lambda f: [path.unlink() for path in (f / "ImageSets/Main").glob("*.txt")],
        r"is missing ImageSets/Main/train",
    ),
    "no_images": (lambda f: shutil.rmtree(f / "JPEGImages"), "is missing JPEGImages"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(voc_folder, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(voc_folder)
    with pytest.raises(DatasetError, match=message):
        check(voc_folder)


def test_all_mistakes_are_listed_at_once(voc_folder):
    for mistake in ("no_name", "twice"):
        MISTAKES[mistake][0](voc_folder)
    (voc_folder / "JPEGImages/d.jpg").write_text("not an image")
    replace("Annotations/b.xml", "<xmin>0</xmin>", "<xmin>zero</xmin>")(voc_folder)
    with pytest.raises(DatasetError, match=r"without a name(.|\n)*four finite") as error:
        check(voc_folder)
    assert "listed twice" in str(error.value) and "not an image" in str(error.value)


def test_boxes_across_the_border_are_clipped_and_listed(voc_folder, tmp_path):
    replace("Annotations/a.xml", "<xmax>40</xmax>", "<xmax>45</xmax>")(voc_folder)
    dataset = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    assert any("clipped" in issue and "a.jpg" in issue for issue in dataset.issues)


def test_objects_nowhere(voc_folder):
    for path in (voc_folder / "Annotations").rglob("*.xml"):
        path.write_text("<annotation/>")
    with pytest.raises(DatasetError, match="no usable object"):
        check(voc_folder)


def test_side_by_side_needs_training_images(pairs):
    shutil.copytree(pairs / "val", pairs / "test")
    shutil.rmtree(pairs / "train")
    with pytest.raises(DatasetError, match="not in train/"):
        check(pairs)


def test_either_val_or_valid_is_read(pairs):
    shutil.copytree(pairs / "val", pairs / "valid")
    with pytest.raises(DatasetError, match=r"by val: val, valid\. Keep one"):
        check(pairs)
    shutil.rmtree(pairs / "val")
    assert names_in(pairs, "val") == ["valid/d.jpg", "valid/e.png"]


def test_a_coco_folder_is_not_taken_for_voc(coco_folder):
    (coco_folder.path / "annotations" / "a.xml").write_text("<annotation/>")
    assert layouts.recognise(coco_folder.path).description.startswith("COCO")


@pytest.fixture
def pairs(coco_folder: CocoFolder, tmp_path: pathlib.Path) -> pathlib.Path:
    """Images and XML files side by side, one of them in a subfolder."""
    return to_voc(coco_folder.path, tmp_path / "pairs", side_by_side=True)


def names_in(folder: pathlib.Path, split: str = "train") -> list[str]:
    entries = check(folder).splits[split].annotation_file.images
    return [entry["file_name"] for entry in entries]


def test_a_file_added_in_a_subfolder_is_noticed(pairs, tmp_path):
    # The files' times must be old enough to be trusted.
    time.sleep(2.1)
    before = prepare_coco_folder(pairs, tmp_path / "cache", report=str)
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/z.jpg")
    shutil.copy(pairs / "train/a.xml", pairs / "train/sub/z.xml")
    after = prepare_coco_folder(pairs, tmp_path / "cache", report=str)
    assert after.train.num_examples == before.train.num_examples + 1


def test_an_xml_file_added_in_a_subfolder_without_lists_is_noticed(
    voc_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "_SETTLING_NS", 0)
    shutil.rmtree(voc_folder / "ImageSets")
    before = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    shutil.copy(voc_folder / "JPEGImages/a.jpg", voc_folder / "JPEGImages/sub/z.jpg")
    shutil.copy(voc_folder / "Annotations/a.xml", voc_folder / "Annotations/sub/z.xml")
    after = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    assert after.train.num_examples == before.train.num_examples + 1


def test_images_and_xml_files_in_subfolders(pairs):
    assert names_in(pairs) == ["train/a.jpg", "train/b.png", "train/sub/c.jpg"]
    # The same name in another folder is another image.
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/a.jpg")
    shutil.copy(pairs / "train/a.xml", pairs / "train/sub/a.xml")
    # XML files in a subfolder of their own.
    (pairs / "train/xmls").mkdir()
    shutil.move(pairs / "train/b.xml", pairs / "train/xmls")
    assert names_in(pairs) == ["train/a.jpg", "train/sub/a.jpg", "train/sub/c.jpg", "train/b.png"]


@pytest.mark.parametrize("copy", ["train/copy.xml", "train/xmls/a.xml"])
def test_two_xml_files_of_one_image(pairs, copy):
    (pairs / copy).parent.mkdir(exist_ok=True)
    shutil.copy(pairs / "train/a.xml", pairs / copy)
    with pytest.raises(DatasetError, match=r"duplicate file_name") as error:
        check(pairs)
    assert f"train: train/a.jpg, train/a.xml and {copy}" in str(error.value)


def test_suffixes_in_capitals(pairs, voc_folder):
    (pairs / "train/a.xml").rename(pairs / "train/a.XML")
    (pairs / "train/b.png").rename(pairs / "train/b.Png")
    assert names_in(pairs) == ["train/a.jpg", "train/b.Png", "train/sub/c.jpg"]
    for path in (pairs / "train").rglob("*.xml"):
        path.rename(path.with_suffix(".XML"))
    assert voc.find(pairs) is not None
    (voc_folder / "Annotations/a.xml").rename(voc_folder / "Annotations/a.Xml")
    (voc_folder / "JPEGImages/a.jpg").rename(voc_folder / "JPEGImages/a.Jpg")
    assert names_in(voc_folder) == ["a.Jpg", "b.png", "sub/c.jpg"]


def test_images_without_an_xml_file_are_left_out_and_listed(pairs, tmp_path):
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/new.JPG")
    lines = []
    dataset = prepare_coco_folder(pairs, tmp_path / "cache", lines.append)
    assert dataset.train.num_examples == 3
    (issue,) = [issue for issue in dataset.issues if "left out" in issue]
    assert issue.endswith("(1):\n    train/sub/new.JPG")
    assert issue in lines
    (pairs / "train/sub/new.JPG").unlink()
    assert prepare_coco_folder(pairs, tmp_path / "cache", lines.append).issues == ()
