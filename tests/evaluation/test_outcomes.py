"""What becomes of objects and detections, against TIDE and by hand."""

import collections

import hypothesis
import numpy as np
import pytest
import tidecv
from hypothesis import strategies as st
from tidecv.errors import main_errors

from libra_tf.cli.errors import UsageError
from libra_tf.evaluation import subject
from libra_tf.evaluation.outcomes import Outcome
from tests.evaluation import results, scenes

pytestmark = pytest.mark.one_lane

DOG, CAT = 1, 2
SEEDS = st.integers(0, 2**32 - 1)
# What TIDE calls the errors of a single class.
TIDE = {
    Outcome.BADLY_PLACED: main_errors.BoxError,
    Outcome.DUPLICATE: main_errors.DuplicateError,
    Outcome.FALSE: main_errors.BackgroundError,
    Outcome.MISSED: main_errors.MissedError,
}


def found_in(objects, detections, threshold=0.5, kind=subject.BOXES):
    made = scenes.make(objects, detections, num_images=4, num_classes=3)
    return scenes.find_outcomes(made, kind, threshold)


def by_tide(objects, detections):
    truth, found = tidecv.Data("truth"), tidecv.Data("found")
    for image, category, box, *_ in objects:
        truth.add_ground_truth(image, category, box)
    for image, category, box, score in detections:
        found.add_detection(image, category, score, box)
    # Otherwise it leaves out the images without objects.
    for image in range(1, 5):
        truth.add_image(image, f"{image}.jpg")
    run = tidecv.TIDE().evaluate(truth, found, mode=tidecv.TIDE.BOX)
    return {outcome: len(run.error_dict[error]) for outcome, error in TIDE.items()}


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(SEEDS, st.sampled_from([0.0, 0.3, 0.7]))
def test_one_class_has_the_errors_of_tide(seed, threshold):
    objects, detections = scenes.random(seed, num_classes=1)
    found = found_in(objects, detections, threshold)
    counts = collections.Counter(of.outcome for of in found.of_detections.values())
    counts[Outcome.MISSED] = list(found.of_objects.values()).count(Outcome.MISSED)
    expected = by_tide(objects, [d for d in detections if d[3] >= threshold])
    assert {outcome: counts[outcome] for outcome in TIDE} == expected
    assert counts[Outcome.MIXED_UP] == 0


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(results.subjects())
def test_objects_are_taken_as_in_pycocotools(made):
    """In its evaluation without categories."""
    evaluation = results.evaluate(
        made,
        "bbox",
        useCats=0,
        iouThrs=np.array([0.5]),
        areaRng=[[0, 1e10]],
        areaRngLbl=["all"],
        maxDets=[100],
    )
    taken, left_out = {}, set()
    for image in filter(None, evaluation.evalImgs):
        matched = image["dtMatches"][0].astype(int)
        for id_, object_id, ignored in zip(
            image["dtIds"], matched, image["dtIgnore"][0], strict=True
        ):
            if ignored:
                left_out.add(id_)
            elif object_id:
                taken[id_] = object_id
    found = scenes.find_outcomes(made, subject.BOXES, 0.0).of_detections
    takers = {
        id_: of.object_id
        for id_, of in found.items()
        if of.outcome in (Outcome.CORRECT, Outcome.MIXED_UP)
    }
    assert takers == taken
    assert made.detections.anns.keys() - found.keys() == left_out


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(SEEDS)
def test_everything_that_counts_has_one_outcome(seed):
    objects, detections = scenes.random(seed)
    found = found_in(objects, detections, 0.4)
    assert len(found.of_objects) == len(objects)
    assert len(found.of_detections) == sum(score >= 0.4 for *_, score in detections)
    taken = [
        of.object_id
        for of in found.of_detections.values()
        if of.outcome in (Outcome.CORRECT, Outcome.MIXED_UP)
    ]
    assert len(taken) == len(set(taken))
    for of in found.of_detections.values():
        low, high = {Outcome.FALSE: (0, 0), Outcome.BADLY_PLACED: (0.1, 0.5)}.get(
            of.outcome, (0.5, 1.0)
        )
        assert low <= of.iou <= high
        assert (of.object_id is None) == (of.outcome is Outcome.FALSE)
    of_objects = found.of_objects
    assert all(of_objects[id_] in (Outcome.CORRECT, Outcome.MIXED_UP) for id_ in taken)


def outcomes_of(objects, detections, **options):
    found = found_in(objects, detections, **options)
    return [of.outcome for of in found.of_detections.values()], list(found.of_objects.values())


BOX, NEAR, HALF, FAR = [10, 10, 20, 20], [11, 10, 20, 20], [20, 10, 20, 20], [60, 60, 20, 20]


@pytest.mark.parametrize(
    ("detections", "of_detections", "of_object"),
    [
        ([], [], Outcome.MISSED),
        ([(1, DOG, NEAR, 0.9)], [Outcome.CORRECT], Outcome.CORRECT),
        ([(1, CAT, NEAR, 0.9)], [Outcome.MIXED_UP], Outcome.MIXED_UP),
        ([(1, DOG, HALF, 0.9)], [Outcome.BADLY_PLACED], Outcome.BADLY_PLACED),
        ([(1, CAT, HALF, 0.9)], [Outcome.FALSE], Outcome.MISSED),
        ([(1, DOG, FAR, 0.9)], [Outcome.FALSE], Outcome.MISSED),
        ([(2, DOG, BOX, 0.9)], [Outcome.FALSE], Outcome.MISSED),
        ([(1, DOG, BOX, 0.4)], [], Outcome.MISSED),
        (
            [(1, DOG, NEAR, 0.8), (1, CAT, BOX, 0.9)],
            [Outcome.MIXED_UP, Outcome.DUPLICATE],
            Outcome.MIXED_UP,
        ),
        (
            [(1, DOG, HALF, 0.9), (1, DOG, BOX, 0.8)],
            [Outcome.BADLY_PLACED, Outcome.CORRECT],
            Outcome.CORRECT,
        ),
    ],
)
def test_the_rule(detections, of_detections, of_object):
    assert outcomes_of([(1, DOG, BOX)], detections) == (of_detections, [of_object])


def test_crowds_do_not_count():
    objects = [(1, DOG, [0, 0, 50, 50], True), (1, DOG, FAR)]
    detections = [(1, DOG, BOX, 0.9), (1, CAT, BOX, 0.8), (1, DOG, FAR, 0.7)]
    assert outcomes_of(objects, detections) == ([Outcome.CORRECT], [Outcome.CORRECT])


def test_an_object_may_have_the_id_0():
    file = scenes.annotation_file([(1, DOG, BOX)])
    file.annotations[0]["id"] = 0
    made = subject.make(file, scenes.results([(1, DOG, BOX, 0.9)]))
    assert scenes.find_outcomes(made, subject.BOXES, 0.5).of_objects == {1: Outcome.CORRECT}


def test_masks_are_compared_as_masks():
    """Two bars of an L have the same box."""
    file = scenes.annotation_file([(1, DOG, [0, 0, 40, 40])])
    file.annotations[0]["segmentation"] = [[0, 0, 40, 0, 40, 10, 0, 10]]
    found = scenes.results([(1, DOG, [0, 0, 40, 40], 0.9)])
    found[0]["segmentation"] = scenes.ellipse([0, 0, 40, 40])
    made = subject.make(file, found)
    (of_boxes,) = scenes.find_outcomes(made, subject.BOXES, 0.5).of_detections.values()
    (of_masks,) = scenes.find_outcomes(made, subject.MASKS, 0.5).of_detections.values()
    assert of_boxes.outcome is Outcome.CORRECT and of_boxes.iou == 1
    assert of_masks.outcome is Outcome.BADLY_PLACED and of_masks.iou == pytest.approx(
        0.19, abs=0.05
    )


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan])
def test_a_threshold_that_no_score_has(threshold):
    with pytest.raises(UsageError, match=r"score_threshold=.*numbers from 0 to 1"):
        found_in([], [], threshold)
