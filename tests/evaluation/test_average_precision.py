"""Average precision and recall are pycocotools'."""

import numpy as np
import pytest
from hypothesis import given, settings

from libra_tf.evaluation import average_precision, matching, subject
from tests.evaluation import results

pytestmark = pytest.mark.one_lane

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def check(evaluated, kind):
    measured = average_precision.measure(matching.match(evaluated, kind))
    evaluation = results.evaluate(evaluated, kind)
    assert tuple(measured["all"]) == NAMES
    for name, value in zip(NAMES, evaluation.stats, strict=True):
        assert measured["all"][name] == pytest.approx(results.expected(value), abs=1e-6), name
    assert list(measured["classes"]) == list(evaluated.class_names)
    for class_id, values in measured["classes"].items():
        # pycocotools on this class alone.
        alone = results.evaluate(evaluated, kind, catIds=[class_id])
        alone.summarize()
        for name, value in zip(NAMES[:6], alone.stats, strict=False):
            assert values[name] == pytest.approx(results.expected(value), abs=1e-6), name
        assert values["num_objects"] == sum(
            entry["category_id"] == class_id and not entry["iscrowd"]
            for entry in evaluated.truth.dataset["annotations"]
        )


@settings(deadline=None, max_examples=60)
@given(results.subjects())
def test_boxes(evaluated):
    check(evaluated, subject.BOXES)


@settings(deadline=None, max_examples=25)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_masks(evaluated):
    assert evaluated.kinds == (subject.BOXES, subject.MASKS)
    check(evaluated, subject.MASKS)


def test_only_100_detections_of_a_class_count():
    box = [0.0, 0.0, 40.0, 40.0]
    found = [
        {"image_id": 1, "category_id": 2, "bbox": [100.0, 100.0, 9.0, 9.0], "score": 0.9}
        for _ in range(100)
    ]
    found.append({"image_id": 1, "category_id": 2, "bbox": box, "score": 0.5})
    objects = [{"id": 5, "image_id": 1, "category_id": 2, "bbox": box}]
    for last in (100, 101):
        evaluated = results.make([1], objects, found[-last:])
        check(evaluated, subject.BOXES)
        measured = average_precision.measure(matching.match(evaluated, subject.BOXES))["all"]
        assert measured["AR100"] == (1 if last == 100 else 0)


def test_half_in_a_crowd_is_ignored_at_half():
    place = {"image_id": 1, "category_id": 2}
    objects = [
        {"id": 1, **place, "bbox": [0.0, 0.0, 40.0, 16.0], "iscrowd": 1},
        {"id": 2, **place, "bbox": [100.0, 100.0, 50.0, 50.0]},
    ]
    found = [
        {**place, "bbox": [0.0, 0.0, 80.0, 16.0], "score": 0.9},
        {**objects[1], "score": 0.5},
    ]
    evaluated = results.make([1], objects, found)
    check(evaluated, subject.BOXES)
    measured = average_precision.measure(matching.match(evaluated, subject.BOXES))["all"]
    assert (measured["AP50"], measured["AP75"]) == pytest.approx((1, 0.5))


def test_an_object_with_the_id_0_is_found():
    """pycocotools alone takes the id 0 for no match."""
    place = {"image_id": 1, "category_id": 2, "bbox": [8.0, 8.0, 40.0, 40.0]}
    evaluated = results.make([1], [{"id": 0, **place}], [{"score": 0.5, **place}])
    measured = average_precision.measure(matching.match(evaluated, subject.BOXES))
    assert measured["all"]["AP"] == pytest.approx(1)


@settings(deadline=None, max_examples=10)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_nothing_is_modified(evaluated):
    before = repr((evaluated.truth.dataset, evaluated.detections.dataset))
    for kind in evaluated.kinds:
        average_precision.measure(matching.match(evaluated, kind))
    assert repr((evaluated.truth.dataset, evaluated.detections.dataset)) == before


def test_no_images():
    evaluated = results.make([], [], [])
    measured = average_precision.measure(matching.match(evaluated, subject.BOXES))
    assert set(measured["all"].values()) == {None}


def test_index_of_a_threshold():
    assert [matching.index_of(t) for t in np.linspace(0.5, 0.95, 10)] == list(range(1, 11))
    assert matching.index_of(0.1) == 0
