"""COCO's error analysis is what pycocotools computes from changed ground truth.

As in the Python versions of COCO's MATLAB program, objects of other classes become crowds.
"""

import copy

import numpy as np
import pytest
from hypothesis import given, settings

from libra_tf.evaluation import coco_errors, matching, subject
from tests.evaluation import results

pytestmark = pytest.mark.one_lane


def curves(evaluated, kind):
    """The seven precisions, `[7, 101, K, A]`; -1 where there are no objects."""
    precision = results.evaluate(evaluated, kind, iouThrs=[0.75, 0.5, 0.1], maxDets=[100])
    stacked = np.concatenate(
        [precision.eval["precision"][..., 0], -np.ones([4, 101, len(evaluated.class_names), 4])]
    )
    names = evaluated.supercategories
    for number, class_id in enumerate(evaluated.class_names):
        similar = [id_ for id_, name in names.items() if name == names.get(class_id)]
        for row, excused in ((3, similar), (4, list(evaluated.class_names))):
            stacked[row, :, number] = one_class(evaluated, kind, class_id, excused)
    defined = stacked[2] > -1
    stacked[5] = np.where(defined, stacked[4] > 0, -1)
    stacked[6] = np.where(defined, 1, -1)
    return stacked


def one_class(evaluated, kind, class_id, excused):
    """The precision of a class at IoU 0.1 with objects of some others as its crowds."""

    def excuse(entry):
        if entry["category_id"] in excused and entry["category_id"] != class_id:
            entry.update(iscrowd=1, ignore=1, category_id=class_id)
        return entry

    evaluation = results.evaluate_coco(
        results.with_changed(evaluated.truth, excuse),
        results.with_changed(
            results.detections_of(evaluated, kind),
            lambda entry: entry if entry["category_id"] == class_id else None,
        ),
        kind,
        iouThrs=[0.1],
        maxDets=[100],
        catIds=[class_id],
    )
    return evaluation.eval["precision"][0, :, 0, :, 0]


def mean(values):
    """The mean over what is defined."""
    return np.mean(values[values > -1]) if (values > -1).any() else None


def check(evaluated, kind):
    measured = coco_errors.measure(matching.match(evaluated, kind))
    names = ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")
    for name, expected in zip(names, curves(evaluated, kind), strict=True):
        assert measured["all"][name] == pytest.approx(mean(expected[..., 0]), abs=1e-6), name
        for number, class_id in enumerate(evaluated.class_names):
            value = measured["classes"][class_id][name]
            assert value == pytest.approx(mean(expected[:, number, 0]), abs=1e-6), name
        for number, size in enumerate(("small", "medium", "large"), start=1):
            value = measured["sizes"][size][name]
            assert value == pytest.approx(mean(expected[..., number]), abs=1e-6), (name, size)
        curve = measured["curves"][name]
        expected_curve = [mean(values) for values in expected[..., 0]]
        assert (expected_curve if curve else expected_curve[0]) == pytest.approx(curve, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(results.subjects())
def test_boxes(evaluated):
    check(evaluated, subject.BOXES)


@settings(deadline=None, max_examples=25)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_masks(evaluated):
    check(evaluated, subject.MASKS)


def test_an_excuse_can_leave_an_object_to_another_detection():
    """Among small objects, a larger one excuses only one detection."""
    place = {"image_id": 1, "category_id": 2}
    large, left, right = [0.0, 0, 40, 40], [0.0, 0, 20, 20], [20.0, 20, 20, 20]
    small = {**place, "bbox": [100.0, 100, 20, 20]}
    objects = [{**place, "bbox": large}, {**place, "category_id": 9, "bbox": left}, small]
    objects = [{"id": number, **entry} for number, entry in enumerate(objects, start=1)]
    found = [
        {**place, "bbox": left, "score": 0.9},
        {**place, "bbox": right, "score": 0.8},
        {**small, "score": 0.5},
    ]
    evaluated = results.make([1], objects, found)
    check(evaluated, subject.BOXES)
    measured = coco_errors.measure(matching.match(evaluated, subject.BOXES))["sizes"]["small"]
    # The mean with the other class, whose object is not found.
    assert (measured["Loc"], measured["Oth"]) == pytest.approx((0.25, 0.5))


@settings(deadline=None, max_examples=30)
@given(results.subjects(min_objects=1))
def test_every_excuse_gains(evaluated):
    measured = coco_errors.measure(matching.match(evaluated, subject.BOXES))
    values = list(measured["all"].values())
    if values[0] is not None:
        assert values[1:] == sorted(values[1:])


def test_an_iou_of_a_tenth_is_enough_for_loc():
    place = {"image_id": 1, "category_id": 2}
    found = [{**place, "bbox": [0.0, 0.0, 8.0, 16.0], "score": 0.9}]
    evaluated = results.make([1], [{"id": 1, **place, "bbox": [0.0, 0.0, 80.0, 16.0]}], found)
    check(evaluated, subject.BOXES)
    measured = coco_errors.measure(matching.match(evaluated, subject.BOXES))["all"]
    assert (measured["C50"], measured["Loc"]) == pytest.approx((0, 1))


def test_without_supercategories_sim_is_loc():
    places = [[0.0, 0.0, 40.0, 40.0], [80.0, 80.0, 40.0, 40.0]]
    objects = [
        {"id": number, "image_id": 1, "category_id": class_id, "bbox": box}
        for number, (class_id, box) in enumerate(zip((2, 7), places, strict=True), start=1)
    ]
    # The dog is found, and before it the cat is taken for a dog.
    found = [
        {"image_id": 1, "category_id": 2, "bbox": box, "score": score}
        for box, score in zip(places, (0.5, 0.9), strict=True)
    ]
    evaluated = results.make([1], objects, found)
    known = coco_errors.measure(matching.match(evaluated, subject.BOXES))["classes"][2]
    assert (known["Loc"], known["Sim"]) == pytest.approx((0.5, 1))
    evaluated = copy.deepcopy(evaluated)
    for category in evaluated.truth.cats.values():
        del category["supercategory"]
    unknown = coco_errors.measure(matching.match(evaluated, subject.BOXES))["classes"][2]
    values = unknown["Loc"], unknown["Sim"], unknown["Oth"]
    assert values == pytest.approx((0.5, 0.5, 1))
