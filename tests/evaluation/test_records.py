"""What a page keeps for a later comparison."""

import dataclasses
import json

import pytest
import rich.console

from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.evaluation import checks, records, report
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane

OBJECTS = [(1, 1, [10, 10, 20, 20]), (2, 2, [30, 30, 40, 40])]
DETECTIONS = [(1, 1, [11, 10, 20, 20], 0.9), (2, 1, [30, 30, 40, 40], 0.8)]


def truth(objects=OBJECTS, num_classes=2):
    return scenes.annotation_file(objects, num_classes, num_images=3)


def write(folder, **changes):
    """Writes the page of an evaluation of two of three images."""
    folder.mkdir(exist_ok=True)
    options = {
        "name": "cells",
        "model": "ckpt-7",
        "annotations": "data",
        "truth": truth(),
        "results": scenes.results(DETECTIONS),
        "image_ids": [1, 2],
        "read_images": lambda _: {},
        "training_objects": {1: 5, 2: 6},
    }
    evaluation = report.Evaluation(**{**options, **changes})
    report.write(evaluation, str(folder), Progress(rich.console.Console(quiet=True)))
    return str(folder)


def test_an_evaluation_is_read_back(tmp_path):
    record = records.read(write(tmp_path / "run"))
    assert (record.name, record.image_ids) == ("cells", [1, 2])
    assert record.results == scenes.results(DETECTIONS)
    assert record.class_names == {1: "class 1", 2: "class 2"}
    records.check_same_truth(record, truth(), [2, 3])


def test_other_ids_and_digits_are_the_same_objects(tmp_path):
    record = records.read(write(tmp_path / "run"))
    same = truth([(image, category, [v + 0.01 for v in box]) for image, category, box in OBJECTS])
    for entry in same.annotations:
        entry["id"] += 70
    records.check_same_truth(record, same, [1])


@pytest.mark.parametrize(
    "other",
    [
        truth(OBJECTS[:1]),
        truth([*OBJECTS[:1], (2, 1, OBJECTS[1][2])]),
        truth([*OBJECTS[:1], (2, 2, [30, 30, 40, 41])]),
        truth([*OBJECTS[:1], (2, 2, OBJECTS[1][2], True)]),
        truth(num_classes=3),
        scenes.annotation_file(OBJECTS[:1], num_images=1),
    ],
    ids=["fewer", "class", "box", "crowd", "classes", "images"],
)
def test_other_objects_are_refused(tmp_path, other):
    record = records.read(write(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"other images, objects or classes .*val\.json"):
        records.check_same_truth(record, other, [1, 2])


def test_images_that_the_other_does_not_have_are_refused(tmp_path):
    record = records.read(write(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"on other images of val\.json"):
        records.check_same_truth(record, truth(), [3])


def test_classes_that_are_numbered_otherwise_are_compared_by_name(tmp_path):
    record = records.read(write(tmp_path / "one"))
    other = truth()
    ids = {1: 0, 2: 1}
    other = dataclasses.replace(
        other,
        annotations=[{**e, "category_id": ids[e["category_id"]]} for e in other.annotations],
        class_names={ids[id_]: name for id_, name in other.class_names.items()},
    )
    results = [{**r, "category_id": ids[r["category_id"]]} for r in scenes.results(DETECTIONS)]
    write(tmp_path / "two", truth=other, results=results, read_compared=lambda: record)
    compared = json.loads((tmp_path / "two" / "evaluation.json").read_text())["compared"]
    both = compared["kinds"]["bbox"]["average_precision"]
    assert both["this"] == {**both["other"], "classes": both["this"]["classes"]}
    assert both["this"]["all"]["AP"] > 0.3
    assert compared["kinds"]["bbox"]["differences"]["AP"]["difference"] == 0


def test_a_page_goes_with_its_detections(tmp_path):
    folder = write(tmp_path / "run")
    records.discard(folder)
    records.discard(folder)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["detections.json"]


def test_folders_without_a_page_name_the_command_that_writes_it(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder; name the folder of a run"):
        records.read(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="libra-tf predict --annotations"):
        records.read(str(tmp_path))
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(UsageError, match=f"libra-tf eval --report --model_dir={tmp_path}"):
        records.read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation.json", "{", "damaged"),
        ("evaluation.json", "[]", "damaged"),
        ("evaluation.json", '{"format": 0}', "another version"),
        ("detections.json", "[]", "was written after"),
        ("detections.json", "[", "damaged"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    folder = write(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        records.read(folder)


def test_objects_in_training(tmp_path):
    folder = write(tmp_path / "run")
    assert records.read_training_objects(folder, truth().class_names) == {1: 5, 2: 6}
    assert records.read_training_objects(folder, {1: "class 1"}) is None
    assert records.read_training_objects(str(tmp_path), truth().class_names) is None
    (tmp_path / "run" / "evaluation.json").write_text("{")
    assert records.read_training_objects(folder, truth().class_names) is None


def test_a_comparison_is_of_the_images_that_both_have(tmp_path):
    record = records.read(write(tmp_path / "one"))
    write(tmp_path / "two", image_ids=[2, 3], results=[], read_compared=lambda: record)
    compared = json.loads((tmp_path / "two" / "evaluation.json").read_text())["compared"]
    assert compared["num_images"] == 1
    # Both have the same name.
    assert compared["name"] == "cells, ckpt-7"
    # In the second image the other has its only object by another name.
    both = compared["kinds"]["bbox"]["average_precision"]
    assert [both[which]["all"]["AP"] for which in ("this", "other")] == [0, 0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 1.5, None), "--report_threshold=1.5: scores are numbers from 0 to 1"),
        ((None, "0.5", None), "--report_threshold=0.5: scores are numbers from 0 to 1"),
        (("no", None, None), "report='no': it is True or False"),
        ((False, 0.5, None), "--report_threshold=0.5 is for the page that --noreport leaves out"),
        ((False, None, "runs/a"), "--compare=runs/a is for the page"),
        ((None, None, "no/such"), "--compare=no/such: there is no such folder"),
    ],
)
def test_flags_that_cannot_be_followed(flags, message):
    with pytest.raises(UsageError, match=message):
        checks.check_report(*flags)
