"""Curves are pycocotools' and scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from libra_tf.evaluation import curves, matching, subject
from tests.evaluation import results

pytestmark = pytest.mark.one_lane


def measure(evaluated, kind=subject.BOXES):
    return curves.measure(matching.match(evaluated, kind))


def mean(curve):
    return None if curve is None else np.mean(curve)


def check_precision(evaluated, kind):
    measured = measure(evaluated, kind)
    evaluation = results.evaluate(evaluated, kind)
    assert measured["recall"] == pytest.approx(evaluation.params.recThrs.tolist())
    for name, index in {"0.5": 0, "0.75": 5}.items():
        precision = evaluation.eval["precision"][index, :, :, 0, -1]
        curve = measured["precision"][name]
        for number, class_id in enumerate(evaluated.class_names):
            expected = precision[:, number]
            if (expected == -1).any():
                assert curve["classes"][class_id] is None
            else:
                assert curve["classes"][class_id] == pytest.approx(expected, abs=1e-6)
        area = evaluation.stats[1 if name == "0.5" else 2]
        assert mean(curve["mean"]) == pytest.approx(results.expected(area), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(results.subjects())
def test_precision_against_recall_of_boxes_is_that_of_pycocotools(evaluated):
    check_precision(evaluated, subject.BOXES)


@settings(deadline=None, max_examples=25)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_precision_against_recall_of_masks_is_that_of_pycocotools(evaluated):
    check_precision(evaluated, subject.MASKS)


def outcomes(evaluated, kind, class_ids):
    """Whether each detection that counts is right, its score, and how many objects count."""
    evaluation = results.evaluate(evaluated, kind, catIds=class_ids, areaRng=[[0, 1e10]])
    right, scores, num_objects = [], [], 0
    for image in filter(None, evaluation.evalImgs):
        counts = ~image["dtIgnore"][0].astype(bool)
        right += (image["dtMatches"][0][counts] > 0).tolist()
        scores += np.array(image["dtScores"])[counts].tolist()
        num_objects += int(np.sum(image["gtIgnore"] == 0))
    return right, scores, num_objects


def check_scores(measured, thresholds, right, scores, num_objects):
    """Compares with scikit-learn, for which what was not found has a score below all others."""
    if not num_objects:
        assert set(measured["recall"]) == set(measured["f1"]) == {None}
        assert measured["best"] is None
        return
    missed = num_objects - sum(right)
    precisions, recalls, limits = metrics.precision_recall_curve(
        right + [True] * missed, scores + [-1.0] * missed
    )
    f1s = 2 * precisions * recalls / np.maximum(precisions + recalls, 1e-12)
    for threshold, *values in zip(
        thresholds, measured["precision"], measured["recall"], measured["f1"], strict=True
    ):
        first = np.searchsorted(limits, threshold)
        if first == len(limits):
            assert values == [None, 0, 0]
        else:
            expected = precisions[first], recalls[first], f1s[first]
            assert values == pytest.approx(expected, abs=1e-6), threshold
    # The last is scikit-learn's end of the curve, and the missed are no detections.
    shown = np.flatnonzero(limits >= 0)
    if not any(right):
        assert measured["best"] is None
        return
    best = measured["best"]
    assert best["f1"] == pytest.approx(f1s[shown].max(), abs=1e-6)
    equally_good = shown[np.isclose(f1s[shown], f1s[shown].max(), rtol=0, atol=1e-9)]
    assert best["threshold"] == limits[equally_good[-1]]
    assert best["precision"] == pytest.approx(precisions[equally_good[-1]], abs=1e-6)
    assert best["recall"] == pytest.approx(recalls[equally_good[-1]], abs=1e-6)


def check_all_scores(evaluated, kind):
    measured = measure(evaluated, kind)["scores"]
    thresholds = measured["thresholds"]
    assert thresholds == pytest.approx(np.linspace(0, 1, 101))
    of_all = outcomes(evaluated, kind, list(evaluated.class_names))
    check_scores(measured["all"], thresholds, *of_all)
    for class_id, values in measured["classes"].items():
        check_scores(values, thresholds, *outcomes(evaluated, kind, [class_id]))


@settings(deadline=None, max_examples=60)
@given(results.subjects())
def test_curves_of_boxes_against_the_score_are_those_of_scikit_learn(evaluated):
    check_all_scores(evaluated, subject.BOXES)


@settings(deadline=None, max_examples=25)
@given(results.subjects(with_masks=True, min_objects=1, min_detections=1))
def test_curves_of_masks_against_the_score_are_those_of_scikit_learn(evaluated):
    check_all_scores(evaluated, subject.MASKS)


def test_the_best_threshold_is_exact():
    box = [8.0, 8.0, 40.0, 40.0]
    place = {"image_id": 1, "category_id": 2}
    found = [
        {**place, "bbox": box, "score": 0.12345},
        {**place, "bbox": [100.0, 100.0, 9.0, 9.0], "score": 0.1234},
    ]
    measured = measure(results.make([1], [{"id": 1, **place, "bbox": box}], found))
    best = {"threshold": 0.12345, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert measured["scores"]["all"]["best"] == measured["scores"]["classes"][2]["best"] == best


def test_of_equally_good_thresholds_the_highest_is_the_best():
    place = {"image_id": 1, "category_id": 2}
    boxes = [[0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 40.0, 40.0]]
    objects = [{"id": number, **place, "bbox": box} for number, box in enumerate(boxes, start=1)]
    elsewhere = [100.0, 100.0, 9.0, 9.0]
    # F1 is 2/3 with the first one alone and with all four.
    found = [(boxes[0], 0.9), (elsewhere, 0.8), (elsewhere, 0.7), (boxes[1], 0.6)]
    found = [{**place, "bbox": box, "score": score} for box, score in found]
    best = measure(results.make([1], objects, found))["scores"]["all"]["best"]
    assert (best["threshold"], best["f1"]) == (0.9, pytest.approx(2 / 3))
