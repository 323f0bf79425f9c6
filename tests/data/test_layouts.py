"""Folders as they come: every layout gives the records of the same data in COCO's own."""

import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from libra_tf.data import (
    DatasetError,
    cache,
    checking,
    layouts,
    make_shapes,
    prepare_coco_folder,
    set_aside,
)
from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.images import ImageFacts
from libra_tf.data.source import choose_splits
from tests.data.folders import (
    YOLO,
    CocoFolder,
    to_downloaded,
    to_roboflow,
    to_voc,
    to_yolo,
    write_yolo_config,
)
from tests.runner import test_run

pytestmark = pytest.mark.one_lane

Writer = Callable[[pathlib.Path, pathlib.Path], pathlib.Path]


def to_devkit(coco_folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    to_voc(coco_folder, target / "VOCdevkit" / "VOC2007")
    return target


def to_lower_case_voc(coco_folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    to_voc(coco_folder, target)
    (target / "JPEGImages").rename(target / "images")
    (target / "Annotations").rename(target / "annotations")
    return target


def to_nested_coco(coco_folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    shutil.copytree(coco_folder, target / "unpacked")
    return target


LAYOUTS: dict[str, tuple[Writer, str]] = {
    "coco_2017": (to_downloaded, r"COCO \(train: annotations/instances_train2017.json"),
    "coco_2017_below_images": (lambda c, t: to_downloaded(c, t, below_images=True), "COCO"),
    "roboflow": (to_roboflow, r"Roboflow's COCO export \(.*val: valid/_annotations.coco.json"),
    "yolo": (to_yolo, r"YOLO \(data.yaml, train: images/train, val: images/val\)"),
    "voc_devkit": (to_devkit, r"Pascal VOC \(train: ImageSets/Main/train.txt"),
    "voc_lower_case": (to_lower_case_voc, "Pascal VOC"),
    "voc_side_by_side": (lambda c, t: to_voc(c, t, side_by_side=True), "VOC.*train: train/, val"),
    "folder_in_a_folder": (to_nested_coco, r"COCO \(train: annotations/instances_train.json"),
}


def contents(folder: pathlib.Path, keeps_crowds: bool = True) -> dict[str, dict[str, list]]:
    """Returns by split and image the named boxes, to three decimals."""
    checked = checking.check(layouts.recognise(folder), report=str)
    found = {}
    for split, part in checked.splits.items():
        file = part.annotation_file
        found[split] = {
            image.path.name: sorted(
                [file.class_names[a["category_id"]], *(round(v, 3) for v in a["bbox"])]
                for a in file.annotations
                if a["image_id"] == image.entry["id"] and (keeps_crowds or not a.get("iscrowd", 0))
            )
            for image in part.images
        }
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_gives_the_contents_of_the_same_coco_folder(name, coco_folder, tmp_path):
    write, description = LAYOUTS[name]
    folder = write(coco_folder.path, tmp_path / name)
    keeps_crowds = name != "yolo"
    lines = []
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=lines.append)
    assert contents(folder, keeps_crowds) == contents(coco_folder.path, keeps_crowds)
    assert sorted(dataset.class_names.values()) == ["cat", "dog"]
    assert (dataset.train.num_examples, dataset.val.num_examples) == (3, 2)
    assert re.search(description, lines[0]), lines[0]


YOLO_PATHS = {
    "relative_to_the_file": {"train": "images/train", "val": "images/val"},
    "roboflow": {"train": "../images/train", "val": "../images/val"},
    "path_elsewhere": {"path": "../datasets/cells", "train": "images/train", "val": "images/val"},
    "lists": {"train": ["images/train"], "val": ["images/val"]},
    "text_files": {"train": "train.txt", "val": "./val.txt"},
    "with_dots": {"path": "./", "train": "./images/train/", "val": "./images/val"},
}


@pytest.mark.parametrize("form", YOLO_PATHS)
def test_every_form_of_paths_in_data_yaml(form, coco_folder, tmp_path):
    folder = to_yolo(coco_folder.path, tmp_path / "yolo", YOLO_PATHS[form])
    (folder / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.png\n")
    # The last one as an absolute path.
    (folder / "val.txt").write_text(f"{folder}/images/val/d.jpg\n")
    found = contents(folder)
    assert found["train"]["a.jpg"] == [["cat", 1, 2, 10, 12.5], ["dog", 20, 5, 20, 25]]
    assert "d.jpg" in found["val"]
    assert len(found["train"]) == (2 if form == "text_files" else 3)


def test_names_by_number_and_a_file_of_another_name(coco_folder, tmp_path):
    folder = to_yolo(coco_folder.path, tmp_path / "yolo")
    write_yolo_config(folder, {**YOLO, "nc": 2, "names": {0: "cat", 1: "dog"}})
    (folder / "data.yaml").rename(folder / "cells.yaml")
    (folder / "other.yaml").write_text("lr: 0.1\n")
    assert contents(folder)["train"]["a.jpg"][0][0] == "cat"


def test_outlines_give_boxes_and_segmentations(coco_folder, tmp_path):
    folder = to_yolo(coco_folder.path, tmp_path / "yolo")
    (folder / "labels/train/a.txt").write_text("1 0.25 0.5 0.75 0.5 0.5 1.0\n")
    checked = checking.check(layouts.recognise(folder), report=str)
    (found,) = checked.splits["train"].annotation_file.annotations
    assert found["bbox"] == [10, 15, 20, 15]
    assert found["segmentation"] == [[10, 15, 30, 15, 20, 30]]


def test_a_turned_photograph_is_labelled_as_it_is_seen(coco_folder, tmp_path):
    folder = to_yolo(coco_folder.path, tmp_path / "yolo")
    upright = Image.new("RGB", (30, 40))
    upright.paste("red", (0, 0, 15, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    # 6 says: turn a quarter to the right to see it upright.
    upright.transpose(Image.Transpose.ROTATE_90).save(
        folder / "images/train/a.png", exif=exif, format="PNG"
    )
    (folder / "images/train/a.jpg").unlink()
    (folder / "labels/train/a.txt").write_text("0 0.25 0.125 0.5 0.25\n")
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    assert any("turned upright" in issue for issue in dataset.issues)
    for record in tf.data.TFRecordDataset(tf.io.gfile.glob(dataset.train.input_path)):
        example = tf.train.Example.FromString(record.numpy()).features.feature
        if example["image/filename"].bytes_list.value[0] == b"a.png":
            pixels = tf.io.decode_image(example["image/encoded"].bytes_list.value[0]).numpy()
            assert pixels.shape == (40, 30, 3)
            assert (pixels[:10, :15] == [255, 0, 0]).all() and not pixels[10:].any()
            assert example["image/object/bbox/xmax"].float_list.value[0] == 0.5
            return
    raise AssertionError("the image is in no record")


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_trains_and_evaluates(name, tmp_path):
    shapes = make_shapes(tmp_path / "shapes", num_train=8, num_val=4, image_size=64, report=str)
    folder = LAYOUTS[name][0](pathlib.Path(shapes), tmp_path / name)
    result = test_run.run(
        "--mode=train_and_eval",
        "--experiment=libra_retinanet_demo",
        f"--dataset={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={tmp_path / 'run'}",
        f"--params_override={test_run.TINY.format(steps=2)}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "is taken for" in result.stdout and "AP50" in result.stdout


ONE_SPLIT = {
    "coco": lambda c, t: _one_json(to_downloaded(c, t)),
    "label_studio": lambda c, t: _result_json(c, t),
    "roboflow": lambda c, t: _without(to_roboflow(c, t), "valid"),
    "yolo": lambda c, t: _without_val_key(to_yolo(c, t)),
    "voc": lambda c, t: _without(to_voc(c, t), "ImageSets"),
    "voc_train_only": lambda c, t: _without(to_voc(c, t), "ImageSets/Main/val.txt"),
    "side_by_side": lambda c, t: _without(to_voc(c, t, side_by_side=True), "val"),
    "side_by_side_flat": lambda c, t: _flat(to_voc(c, t, side_by_side=True)),
}


def _without(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def _one_json(folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(folder / "val2017")
    return _without(folder, "annotations/instances_val2017.json")


def _result_json(coco_folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    shutil.copytree(coco_folder / "images", target / "images")
    coco = json.loads((coco_folder / "annotations/instances_train.json").read_text())
    for entry in coco["images"]:
        entry["file_name"] = f"images/{entry['file_name']}"
    (target / "result.json").write_text(json.dumps(coco))
    return target


def _without_val_key(folder: pathlib.Path) -> pathlib.Path:
    write_yolo_config(folder, {"train": "images/train", "names": ["cat", "dog"]})
    return folder


def _flat(folder: pathlib.Path) -> pathlib.Path:
    for path in [*(folder / "train").rglob("*.*")]:
        shutil.move(path, folder / path.name)
    return _without(_without(folder, "val"), "train")


@pytest.mark.parametrize("name", ONE_SPLIT)
def test_a_share_of_the_only_split_is_set_aside(name, coco_folder, tmp_path):
    folder = ONE_SPLIT[name](coco_folder.path, tmp_path / name)
    lines = []
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=lines.append)
    total = dataset.train.num_examples + dataset.val.num_examples
    assert (total, dataset.val.num_examples) == (5 if name == "voc" else 3, 1)
    (line,) = (line for line in lines if "one split only" in line)
    assert "1 of its images are for validation (--val_share=0.1)" in line
    whole = prepare_coco_folder(folder, tmp_path / "cache", report=str, val_share=1)
    assert whole.val.num_examples == total
    assert not any("both train and val" in issue for issue in whole.issues)


def test_the_share_is_remembered_and_another_one_is_another_data_set(coco_folder, tmp_path):
    folder = _without(to_roboflow(coco_folder.path, tmp_path / "roboflow"), "valid")
    time.sleep(2.1)  # The files' times must be old enough to be trusted.
    first = prepare_coco_folder(folder, tmp_path / "cache", report=str, val_share=0.4)
    lines = []
    again = prepare_coco_folder(folder, tmp_path / "cache", lines.append, val_share=0.4)
    assert again == first and not any("checking" in line for line in lines)
    other = prepare_coco_folder(folder, tmp_path / "cache", report=str, val_share=0.7)
    assert (first.val.num_examples, other.val.num_examples) == (1, 2)


def test_an_evaluation_on_all_images_leaves_the_training_data_alone(
    coco_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "_SETTLING_NS", 0)
    folder = _without(to_roboflow(coco_folder.path, tmp_path / "roboflow"), "valid")
    lines = []
    prepare_coco_folder(folder, tmp_path / "cache", report=str)
    prepare_coco_folder(folder, tmp_path / "cache", lines.append, val_share=1)
    prepare_coco_folder(folder, tmp_path / "cache", lines.append)
    assert not any("may be deleted" in line for line in lines), "the folder has not changed"
    assert sum("checking" in line for line in lines) == 1, "the training data are known"


def test_a_split_that_appears_later_is_noticed(coco_folder, tmp_path):
    folder = to_roboflow(coco_folder.path, tmp_path / "roboflow")
    shutil.move(folder / "valid", tmp_path / "valid")
    time.sleep(2.1)
    prepare_coco_folder(folder, tmp_path / "cache", report=str)
    shutil.move(tmp_path / "valid", folder / "valid")
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    assert (dataset.train.num_examples, dataset.val.num_examples) == (3, 2)


@settings(max_examples=50, deadline=None)
@given(
    contents=st.lists(st.integers(0, 12), min_size=2, max_size=40).filter(lambda c: len({*c}) > 1),
    share=st.floats(0.001, 0.999),
    seed=st.randoms(use_true_random=False),
)
def test_set_aside_by_content(contents, share, seed):
    """Nothing is lost, copies stay together, and neither names nor order matter."""
    split = _split_of(contents)
    parts = set_aside.for_validation(split, share)
    digests = {name: [i.facts.digest for i in part.images] for name, part in parts.items()}
    assert sorted(digests["train"] + digests["val"]) == sorted(map(_digest, contents))
    assert digests["train"] and digests["val"]
    assert not {*digests["train"]} & {*digests["val"]}
    assert abs(len({*digests["val"]}) - share * len({*contents})) <= 1
    for part in parts.values():
        file = part.annotation_file
        assert [a["image_id"] for a in file.annotations] == [i["id"] for i in file.images]
    shuffled = list(contents)
    seed.shuffle(shuffled)
    again = set_aside.for_validation(_split_of(shuffled), share)
    assert {i.facts.digest for i in again["val"].images} == {*digests["val"]}


def _digest(content: int) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def _split_of(contents: list[int]) -> checking.CheckedSplit:
    entries = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(contents))]
    boxes = [{"id": i, "image_id": i} for i in range(len(contents))]
    images = [
        checking.CheckedImage(
            entry, pathlib.Path("x"), ImageFacts(1, 1, "JPEG RGB", _digest(c), False, 1)
        )
        for entry, c in zip(entries, contents, strict=True)
    ]
    file = AnnotationFile(pathlib.Path("all.json"), "", entries, boxes, {1: "cat"})
    return checking.CheckedSplit(file, images)


@pytest.mark.parametrize("share", [0.4, 1])
def test_what_is_found_in_the_only_split_is_said_once(share, coco_folder, tmp_path):
    folder = _without(to_roboflow(coco_folder.path, tmp_path / "roboflow"), "valid")
    file = folder / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [-5, 2, 20, 20]
    content["annotations"][1]["segmentation"] = "nonsense"
    file.write_text(json.dumps(content))
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=str, val_share=share)
    for kind in ("extend beyond their image, clipped", "that cannot be used, left out"):
        (issue,) = (issue for issue in dataset.issues if kind in issue)
        assert "(1):" in issue


def test_nothing_to_set_aside(tmp_path):
    with pytest.raises(DatasetError, match="no two different images"):
        set_aside.for_validation(_split_of([3, 3]), 0.5)


def test_a_share_for_a_folder_with_both_splits_is_refused(coco_folder, tmp_path):
    with pytest.raises(DatasetError, match=r"--val_share=0.2: .*has a validation split"):
        prepare_coco_folder(coco_folder.path, tmp_path / "cache", report=str, val_share=0.2)


def test_the_share_of_a_run_gives_way_to_a_validation_split(coco_folder, tmp_path):
    lines = []
    dataset = prepare_coco_folder(
        coco_folder.path, tmp_path / "cache", lines.append, val_share=0.2, share_of_run=True
    )
    assert dataset.val.num_examples == 2
    assert any("has got a validation split since 0.2 of its images" in line for line in lines)


def _two_years(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    to_downloaded(coco_folder.path, target)
    for kind in ("annotations/instances_train{}.json", "train{}"):
        source, copy = (target / kind.format(year) for year in (2017, 2014))
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    return target


def _two_devkits(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    for year in (2007, 2012):
        to_voc(coco_folder.path, target / f"VOC{year}")
    return target


def _two_layouts(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    return to_yolo(coco_folder.path, to_roboflow(coco_folder.path, target))


def _yolo_with_cocos_val(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    """COCO as Ultralytics downloads it."""
    to_yolo(coco_folder.path, to_downloaded(coco_folder.path, target, below_images=True))
    return _without(target, "annotations/instances_train2017.json")


def _no_images(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    return _without(to_downloaded(coco_folder.path, target), "train2017")


def _no_yaml(coco_folder: CocoFolder, target: pathlib.Path) -> pathlib.Path:
    return _without(to_yolo(coco_folder.path, target), "data.yaml")


AMBIGUOUS = {
    "two_years": (_two_years, "several could be meant by train: train2014, train2017"),
    "two_devkits": (_two_devkits, "holds several data sets; name one of them: .*VOC2007.*VOC2012"),
    "two_layouts": (_two_layouts, "several layouts at once: Roboflow.*; YOLO"),
    "yolo_with_cocos_val": (_yolo_with_cocos_val, r"at once: COCO \(train: .*val2017.*; YOLO"),
    "no_images": (_no_images, r"missing the images of annotations/instances_train2017.json.*train"),
    "no_yaml": (_no_yaml, r"labels/ look like YOLO's, but the data.yaml with the names is missing"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_cannot_be_told_is_refused_with_the_list(name, coco_folder, tmp_path):
    write, message = AMBIGUOUS[name]
    with pytest.raises(DatasetError, match=message):
        layouts.recognise(write(coco_folder, tmp_path / name))


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["train", "val", "test"], {"train": "train", "val": "val"}),
        (["train", "valid", "test"], {"train": "train", "val": "valid"}),
        (["trainval", "test"], {"train": "trainval", "val": "test"}),
        (["train", "trainval", "val", "test"], {"train": "train", "val": "val"}),
        (["trainval", "val"], {"train": "trainval"}),
        (["default"], {"train": "default"}),
        (["a", "b"], {}),
        (["train", "test"], {"train": "train", "val": "test"}),
    ],
)
def test_names_of_splits(names, chosen):
    assert choose_splits(names) == chosen


@pytest.mark.parametrize("names", [["train", "val", "valid"], ["train", "train2017", "val"]])
def test_two_names_of_one_split_are_refused(names):
    with pytest.raises(ValueError, match="several could be meant by"):
        choose_splits(names)
