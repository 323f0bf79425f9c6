"""TIDE's errors are those of its authors' program."""

import pytest
import tidecv
from hypothesis import given, settings

from libra_tf.evaluation import matching, subject, tide
from tests.evaluation import results

pytestmark = pytest.mark.one_lane


def expected(evaluated, kind):
    """tidecv's result, or None where it divides by the number of classes, which is 0."""
    truth, found = tidecv.Data("truth"), tidecv.Data("found")
    for image_id in evaluated.image_ids:
        truth.add_image(image_id, "")
    for class_id, name in evaluated.class_names.items():
        truth.add_class(class_id, name)
    for entry in evaluated.truth.dataset["annotations"]:
        add = truth.add_ignore_region if entry["iscrowd"] else truth.add_ground_truth
        add(entry["image_id"], entry["category_id"], *region(evaluated.truth, entry, kind))
    for entry in evaluated.detections.dataset["annotations"]:
        regions = region(evaluated.detections, entry, kind)
        found.add_detection(entry["image_id"], entry["category_id"], entry["score"], *regions)
    measure = tidecv.TIDE(mode=tidecv.TIDE.MASK if kind == subject.MASKS else tidecv.TIDE.BOX)
    run = measure.evaluate(truth, found, name="")
    errors = {**run.fix_main_errors(), **run.fix_special_errors()}
    return {
        "AP50": run.ap / 100,
        "dAP": {error.short_name: gain / 100 for error, gain in errors.items()},
        "counts": {error.short_name: count for error, count in run.count_errors().items()},
    }


def region(source, entry, kind):
    return entry["bbox"], source.annToRLE(entry) if kind == subject.MASKS else None


def check(evaluated, kind):
    measured = tide.measure(matching.match(evaluated, kind))
    try:
        reference = expected(evaluated, kind)
    except ZeroDivisionError:
        assert None in (measured["AP50"], *measured["dAP"].values())
        return
    assert measured["counts"] == reference["counts"]
    assert measured["AP50"] == pytest.approx(reference["AP50"], abs=1e-4)
    assert measured["dAP"] == pytest.approx(reference["dAP"], abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(results.subjects())
def test_boxes(evaluated):
    check(evaluated, subject.BOXES)


@settings(deadline=None, max_examples=25)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_masks(evaluated):
    check(evaluated, subject.MASKS)


BOX = [0.0, 0.0, 80.0, 16.0]
HALF = [0.0, 0.0, 40.0, 16.0]
# An object of class 2, perhaps a crowd, perhaps another one; and the box of a detection.
EDGES = {
    "half_in_a_crowd": ([(HALF, 1)], BOX),
    "more_than_half_in_a_crowd": ([([0.0, 0.0, 41.0, 16.0], 1)], BOX),
    "right_and_in_a_crowd": ([(BOX, 0), (BOX, 1)], BOX),
    "iou_0.5": ([(HALF, 0)], BOX),
    "iou_0.5_of_an_object_that_is_found": ([(BOX, 0)], HALF),
    "iou_0.1": ([(BOX, 0)], [0.0, 0.0, 8.0, 16.0]),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("class_id", [2, 7])
def test_edges(name, class_id):
    objects, box = EDGES[name]
    elsewhere = [100.0, 100.0, 50.0, 50.0]
    objects = [
        {"id": number, "image_id": 1, "category_id": 2, "bbox": object_box, "iscrowd": is_crowd}
        for number, (object_box, is_crowd) in enumerate([*objects, (elsewhere, 0)], start=1)
    ]
    place = {"image_id": 1, "category_id": 2}
    found = [
        {**place, "bbox": BOX, "score": 0.9},
        {**place, "category_id": class_id, "bbox": box, "score": 0.8},
        {**place, "bbox": elsewhere, "score": 0.5},
    ]
    for kept in (found, found[1:]):
        check(results.make([1], objects, kept), subject.BOXES)


def test_only_100_detections_of_an_image_count():
    box = [8.0, 8.0, 40.0, 40.0]
    objects = [{"id": 1, "image_id": 1, "category_id": 2, "bbox": box}]
    elsewhere = {"image_id": 1, "category_id": 7, "bbox": [150.0, 150.0, 9.0, 9.0], "score": 0.9}
    found = [elsewhere] * 100 + [{**objects[0], "score": 0.5}]
    for last in (100, 101):
        evaluated = results.make([1], objects, found[-last:])
        check(evaluated, subject.BOXES)
        counts = tide.measure(matching.match(evaluated, subject.BOXES))["counts"]
        assert counts["Bkg"] == (99 if last == 100 else 100)


def test_without_anything_all_is_undefined():
    measured = tide.measure(matching.match(results.make([1], [], []), subject.BOXES))
    assert measured["AP50"] is None
    assert set(measured["dAP"].values()) == {None}
    assert set(measured["counts"].values()) == {0}
