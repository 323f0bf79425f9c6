import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libra_tf.data import (
    DatasetError,
    DetectionDataset,
    Split,
    make_shapes,
    prepare_coco_folder,
    progress,
    tfrecords,
)
from tests.data.folders import CocoFolder

pytestmark = pytest.mark.one_lane

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _prepare(folder: pathlib.Path, cache_dir: pathlib.Path) -> DetectionDataset:
    return prepare_coco_folder(folder, cache_dir, report=str)


def _decode_records(split: Split) -> dict[int, dict[str, Any]]:
    """Reads a split as Model Garden does; returns the decoded tensors by source id."""
    decoder = tf_example_decoder.TfExampleDecoder()
    files = tf.io.gfile.glob(split.input_path)
    examples = [decoder.decode(record) for record in tf.data.TFRecordDataset(files)]
    return {int(example["source_id"].numpy()): example for example in examples}


def _assert_records_equal_json(split: Split) -> None:
    coco = json.loads(pathlib.Path(split.annotation_file).read_text())
    examples = _decode_records(split)
    assert examples.keys() == {image["id"] for image in coco["images"]}
    for image in coco["images"]:
        example = examples[image["id"]]
        entries = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        height, width = image["height"], image["width"]
        assert example["image"].shape == (height, width, 3)
        assert (example["height"], example["width"]) == (height, width)
        boxes = np.array([a["bbox"] for a in entries]).reshape(-1, 4)
        corners = np.concatenate([boxes[:, 1::-1], (boxes[:, :2] + boxes[:, 2:])[:, ::-1]], axis=1)
        np.testing.assert_allclose(
            example["groundtruth_boxes"] * [height, width, height, width], corners, atol=1e-3
        )
        for key, name in (("classes", "category_id"), ("is_crowd", "iscrowd"), ("area", "area")):
            np.testing.assert_allclose(example[f"groundtruth_{key}"], [a[name] for a in entries])


def _average_precision_of_truth(annotation_file: str) -> float:
    """Measures the AP of the ground truth, without crowds, as detections with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotation_file)
        detections = [
            {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1 - 1e-6 * i}
            for i, a in enumerate(truth.dataset["annotations"])
            if not a["iscrowd"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_records_are_what_model_garden_reads(tiny_shapes):
    _assert_records_equal_json(tiny_shapes.val)


def test_truth_has_average_precision_1(tiny_shapes):
    assert _average_precision_of_truth(tiny_shapes.val.annotation_file) == pytest.approx(1.0)


def test_cleaned_annotations_are_the_given_ones(tiny_shapes):
    """Valid annotations pass through unchanged."""
    given = pathlib.Path(tiny_shapes.folder) / "annotations" / "instances_val.json"
    given = json.loads(given.read_text())
    cleaned = json.loads(pathlib.Path(tiny_shapes.val.annotation_file).read_text())
    assert cleaned["annotations"] == given["annotations"]
    assert cleaned["images"] == given["images"]


def test_boxes_without_area_are_dropped_and_listed(coco_folder, tmp_path):
    """The defects of BCCD, on one of our images."""
    rest = {"category_id": 1, "image_id": 10, "area": 0, "iscrowd": 0, "segmentation": []}
    coco_folder.coco["train"]["annotations"] += [
        {"id": 3951, "bbox": [504, 337, 0, 0], **rest},
        {"id": 4005, "bbox": [181, 329, 0, 0], **rest},
    ]
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    assert dataset.train.num_boxes == 3
    (issue,) = [text for text in dataset.issues if "without positive width and height" in text]
    assert "(2)" in issue and "annotation 3951 of a.jpg" in issue and "annotation 4005" in issue


def test_boxes_are_clipped_dropped_and_listed(coco_folder, tmp_path):
    coco_folder.coco["train"]["annotations"] = [
        {"id": 1, "image_id": 10, "category_id": 1, "bbox": [-5, -2, 15, 12], "area": 180},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [30, 20, 20, 5], "area": 20},
        {"id": 3, "image_id": 10, "category_id": 3, "bbox": [40, 0, 5, 5]},
        {"id": 4, "image_id": 11, "category_id": 3, "bbox": [5, 5, -1, 5]},
        {"id": 5, "image_id": 11, "category_id": 3, "bbox": [5, 5, 2.5, 4]},
    ]
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    cleaned = json.loads(pathlib.Path(dataset.train.annotation_file).read_text())["annotations"]
    assert {a["id"]: (a["bbox"], a["area"], a["iscrowd"]) for a in cleaned} == {
        1: ([0, 0, 10, 10], 100, 0),
        2: ([30, 20, 10, 5], 20, 0),
        5: ([5, 5, 2.5, 4], 10.0, 0),
    }
    assert (dataset.train.num_boxes, dataset.train.max_boxes_per_image) == (3, 2)
    text = "\n".join(dataset.issues)
    assert "clipped (2)" in text and "entirely outside their image, dropped (1)" in text
    assert "instances_train.json: annotation 2 of a.jpg, bbox [30, 20, 20, 5], image 40x30" in text
    _assert_records_equal_json(dataset.train)


def test_images_without_boxes_are_kept(coco_folder, tmp_path):
    coco_folder.coco["val"]["annotations"].pop()
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    assert dataset.val.num_examples == 2
    _assert_records_equal_json(dataset.val)
    assert dataset.train.num_examples == 3
    _assert_records_equal_json(dataset.train)


def test_category_ids_with_gaps_are_kept(coco_folder, tmp_path):
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    assert dataset.class_names == {1: "cat", 3: "dog"}
    assert dataset.num_classes == 4
    assert dataset.issues == ()


@pytest.mark.parametrize("ids", [(0, 1), (-4, 7), (5, 100_000)])
def test_unusable_category_ids_are_renumbered_everywhere(coco_folder, tmp_path, ids):
    new_ids = dict(zip((1, 3), ids, strict=True))
    for coco in coco_folder.coco.values():
        for category in coco["categories"]:
            category["id"] = new_ids[category["id"]]
        for annotation in coco["annotations"]:
            annotation["category_id"] = new_ids[annotation["category_id"]]
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    assert dataset.class_names == {1: "cat", 2: "dog"}
    assert dataset.num_classes == 3
    (issue,) = dataset.issues
    assert f"{ids[0]} -> 1 'cat'" in issue and f"{ids[1]} -> 2 'dog'" in issue
    cleaned = json.loads(pathlib.Path(dataset.val.annotation_file).read_text())
    assert [a["category_id"] for a in cleaned["annotations"]] == [1, 2, 2]
    _assert_records_equal_json(dataset.val)


def test_supercategories_are_kept(coco_folder, tmp_path):
    for coco in coco_folder.coco.values():
        for category in coco["categories"]:
            category["id"] += 10**6
            if category["name"] == "cat":
                category["supercategory"] = "animal"
        for annotation in coco["annotations"]:
            annotation["category_id"] += 10**6
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    for split in (dataset.train, dataset.val):
        categories = json.loads(pathlib.Path(split.annotation_file).read_text())["categories"]
        assert categories == [
            {"id": 1, "name": "cat", "supercategory": "animal"},
            {"id": 2, "name": "dog"},
        ]


def test_what_a_federated_data_set_says_is_kept(coco_folder, tmp_path):
    cat, dog = 0, 100_000
    plain = _prepare(coco_folder.path, tmp_path / "cache")
    for coco in coco_folder.coco.values():
        for category, id_, frequency in zip(coco["categories"], (cat, dog), "rf", strict=True):
            category.update(id=id_, frequency=frequency)
        for annotation in coco["annotations"]:
            annotation["category_id"] = {1: cat, 3: dog}[annotation["category_id"]]
        coco["images"][1]["neg_category_ids"] = [cat, 77]
        coco["images"][1]["not_exhaustive_category_ids"] = [dog]
    coco_folder.write()
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    cleaned = json.loads(pathlib.Path(dataset.val.annotation_file).read_text())
    assert cleaned["categories"] == [
        {"id": 1, "name": "cat", "frequency": "r"},
        {"id": 2, "name": "dog", "frequency": "f"},
    ]
    first, second = cleaned["images"]
    assert first == coco_folder.coco["val"]["images"][0]
    # 77 is no category.
    assert second["neg_category_ids"] == [1] and second["not_exhaustive_category_ids"] == [2]
    _assert_records_equal_json(dataset.val)
    # Null is as if there were no list.
    first, second = (coco["images"][:2] for coco in coco_folder.coco.values())
    for image in (*first, *second):
        image.setdefault("neg_category_ids", None)
        image.setdefault("not_exhaustive_category_ids", None)
    coco_folder.write()
    with_nulls = _prepare(coco_folder.path, tmp_path / "cache")
    assert json.loads(pathlib.Path(with_nulls.val.annotation_file).read_text()) == cleaned
    cleaned = json.loads(pathlib.Path(plain.val.annotation_file).read_text())
    assert not {key for entry in cleaned["categories"] for key in entry} - {"id", "name"}


def test_annotation_id_0_would_cost_average_precision(coco_folder, tmp_path):
    for annotation_id, annotation in enumerate(coco_folder.coco["val"]["annotations"]):
        annotation["id"] = annotation_id
    coco_folder.write()
    assert _average_precision_of_truth(_with_crowds(coco_folder)) < 0.9
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    assert _average_precision_of_truth(dataset.val.annotation_file) == pytest.approx(1.0)
    assert any("annotation ids below 1" in issue for issue in dataset.issues)


def _with_crowds(coco_folder: CocoFolder) -> str:
    """Fills in what pycocotools needs, without the code under test."""
    for annotation in coco_folder.coco["val"]["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    coco_folder.write()
    return str(coco_folder.annotation_path("val"))


def test_images_of_other_kinds_are_converted_and_listed(coco_folder, tmp_path):
    Image.new("CMYK", (40, 30), (255, 0, 0, 0)).save(coco_folder.image())
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (40, 30)).save(coco_folder.image("d.jpg"), exif=exif)
    dataset = _prepare(coco_folder.path, tmp_path / "cache")
    text = "\n".join(dataset.issues)
    assert "re-encoded as RGB PNG (1):\n    a.jpg, JPEG CMYK" in text
    assert "EXIF orientation" in text and "d.jpg, orientation 3" in text
    # Full cyan ink, no other: no red, all green and blue.
    np.testing.assert_allclose(
        _decode_records(dataset.train)[10]["image"][15, 20], [0, 255, 255], atol=2
    )


def test_doubts_about_the_split_are_issues(coco_folder, tmp_path):
    coco_folder.image("d.jpg").write_bytes(coco_folder.image("a.jpg").read_bytes())
    coco_folder.coco["val"]["annotations"] = []
    for coco in coco_folder.coco.values():
        coco["categories"].append({"id": 4, "name": "cat"})
    coco_folder.write()
    text = "\n".join(_prepare(coco_folder.path, tmp_path / "cache").issues)
    assert "in both train and val" in text and "train: a.jpg, val: d.jpg" in text
    assert "no boxes to evaluate with" in text
    assert "without boxes to train on (1):\n    4 'cat'" in text
    assert "shared by several ids (1):\n    'cat'" in text


def test_nothing_to_learn_from(coco_folder, tmp_path):
    coco_folder.coco["train"]["annotations"] = [
        {"id": 1, "image_id": 10, "category_id": 1, "bbox": [100, 0, 5, 5]}
    ]
    coco_folder.write()
    with pytest.raises(DatasetError, match=r"no usable boxes(.|\n)*annotation 1 of a.jpg"):
        _prepare(coco_folder.path, tmp_path / "cache")


def test_crowds_are_nothing_to_learn_from(coco_folder, tmp_path):
    for coco in coco_folder.coco.values():
        # The dogs become crowds, all of them.
        coco["annotations"][1]["iscrowd"] = 1
    coco_folder.coco["val"]["annotations"].pop(0)
    coco_folder.write()
    text = "\n".join(_prepare(coco_folder.path, tmp_path / "cache").issues)
    assert "without boxes to train on (1):\n    3 'dog'" in text
    assert "no boxes to evaluate with (1):\n    instances_val.json" in text
    coco_folder.coco["train"]["annotations"].pop(0)
    coco_folder.write()
    with pytest.raises(DatasetError, match=r"no usable boxes.*crowds.*instances_train\.json"):
        _prepare(coco_folder.path, tmp_path / "cache")


def test_second_run_uses_the_cache_until_anything_changes(coco_folder, tmp_path, monkeypatch):
    written = []
    write_split = tfrecords.write_split

    def counting(prefix, *arguments):
        written.append(prefix)
        write_split(prefix, *arguments)

    monkeypatch.setattr(tfrecords, "write_split", counting)
    first = _prepare(coco_folder.path, tmp_path / "cache")
    assert _prepare(coco_folder.path, tmp_path / "cache") == first
    assert len(written) == 2
    Image.new("RGB", (40, 30)).save(coco_folder.image())
    second = _prepare(coco_folder.path, tmp_path / "cache")
    assert len(written) == 4 and second.train.input_path != first.train.input_path
    coco_folder.coco["val"]["annotations"][0]["bbox"] = [1, 2, 3, 4]
    coco_folder.write()
    third = _prepare(coco_folder.path, tmp_path / "cache")
    assert len(written) == 6 and third.val.annotation_file != second.val.annotation_file


def test_an_older_copy_stays_and_is_named(coco_folder, tmp_path):
    # The files' times must be old enough to be recorded.
    time.sleep(2.1)
    first = _prepare(coco_folder.path, tmp_path / "cache")
    coco_folder.coco["val"]["annotations"][0]["bbox"] = [1, 2, 3, 4]
    coco_folder.write()
    lines = []
    second = prepare_coco_folder(coco_folder.path, tmp_path / "cache", lines.append)
    assert second.train.input_path != first.train.input_path
    former = pathlib.Path(first.train.input_path).parent
    (line,) = [line for line in lines if "may be deleted" in line]
    assert str(former) in line and str(coco_folder.path) in line
    # A run may be reading it.
    _assert_records_equal_json(first.train)
    # Nothing is converted, so there is nothing new to report.
    lines.clear()
    prepare_coco_folder(coco_folder.path, tmp_path / "cache", lines.append)
    assert not any("the cache" in line for line in lines)


def test_progress_is_reported(coco_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 2)
    coco_folder.coco["train"]["annotations"][0]["bbox"] = [-1, 0, 5, 5]
    coco_folder.write()
    lines = []
    prepare_coco_folder(coco_folder.path, tmp_path / "cache", lines.append)
    layout, *steps, size, note, last = lines
    assert layout.startswith(f"{coco_folder.path} is taken for COCO (train: annotations/")
    assert steps == [
        "checking 3 train images",
        "checked 2 of 3 images",
        "checking 2 val images",
        "checked 2 of 2 images",
        "writing 3 train images (TFRecord files: 1)",
        "wrote 2 of 3 images",
        "writing 2 val images (TFRecord files: 1)",
        "wrote 2 of 2 images",
    ]
    assert re.fullmatch(rf"the cache {tmp_path}/cache takes up \d+\.\d MB", size)
    assert note.startswith("- boxes that extend beyond their image, clipped (1):")
    assert str(tmp_path / "cache") in last


def test_the_folder_itself_is_left_alone(coco_folder, tmp_path):
    def state() -> dict[pathlib.Path, int]:
        return {path: path.stat().st_mtime_ns for path in coco_folder.path.rglob("*")}

    before = state()
    _prepare(coco_folder.path, tmp_path / "cache")
    assert state() == before


def test_image_that_changes_between_check_and_conversion(coco_folder, tmp_path):
    def report(line: str) -> None:
        if line.startswith("writing 3 train"):
            Image.new("RGB", (20, 20)).save(coco_folder.image())

    with pytest.raises(DatasetError, match=r"a\.jpg changed while"):
        prepare_coco_folder(coco_folder.path, tmp_path / "cache", report)
    assert list((tmp_path / "cache" / "entries").iterdir()) == []


def test_damage_that_only_tensorflow_refuses(coco_folder, tmp_path):
    path = coco_folder.image("b.png")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError, match=r"b\.png is damaged"):
        _prepare(coco_folder.path, tmp_path / "cache")


def test_many_images_are_spread_over_shards():
    assert [tfrecords.num_shards(n) for n in (1, 64, 65, 10_000, 118_287)] == [1, 1, 2, 157, 256]


@pytest.mark.slow
def test_two_runs_at_once_share_one_result(tmp_path):
    # Large enough for the runs to overlap, however differently long their imports take.
    folder = make_shapes(tmp_path / "shapes", 205, 87, image_size=480, report=lambda line: None)
    program = (
        "import sys\n"
        "from libra_tf.data import prepare_coco_folder\n"
        "print(prepare_coco_folder(*sys.argv[1:], report=str).train.input_path)\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, folder, tmp_path / "cache"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    paths = {run.communicate(timeout=300)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(paths) == 1
    assert len(list((tmp_path / "cache" / "entries").iterdir())) == 1
    assert sum(1 for _ in tf.data.TFRecordDataset(tf.io.gfile.glob(paths.pop().strip()))) == 205
