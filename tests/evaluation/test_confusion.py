"""The confusion matrix, against scikit-learn's and by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics

from libra_tf.evaluation import confusion, figures, subject
from libra_tf.evaluation.outcomes import Outcome
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane

BACKGROUND = 0
LABELS = [1, 2, 3, BACKGROUND]


def found_in(objects, detections, threshold=0.4):
    made = scenes.make(objects, detections, num_classes=3, num_images=4)
    return scenes.find_outcomes(made, subject.BOXES, threshold)


def matrix_of(measured):
    """All counts, those that are 0 included; the background is last."""
    matrix = np.zeros([4, 4], int)
    for row, column, count in measured["counts"]:
        assert count > 0
        matrix[LABELS.index(row or BACKGROUND), LABELS.index(column or BACKGROUND)] = count
    return matrix


def rows_and_columns(found):
    """The class of each object and of what has taken it, and the reverse."""
    truth, detections = found.subject.truth.anns, found.subject.detections.anns
    for id_, of in found.of_detections.items():
        is_match = of.outcome in (Outcome.CORRECT, Outcome.MIXED_UP)
        of_object = truth[of.object_id]["category_id"] if is_match else BACKGROUND
        yield of_object, detections[id_]["category_id"]
    for id_, outcome in found.of_objects.items():
        if outcome not in (Outcome.CORRECT, Outcome.MIXED_UP):
            yield truth[id_]["category_id"], BACKGROUND


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_counts_are_those_of_scikit_learn(seed):
    objects, detections = scenes.random(seed)
    hypothesis.assume(objects and detections)
    found = found_in(objects, detections)
    measured = confusion.measure(found)
    pairs = np.array(list(rows_and_columns(found)))
    expected = metrics.confusion_matrix(*pairs.T, labels=LABELS)
    assert matrix_of(measured).tolist() == expected.tolist()
    # Row by row, with the background at the end.
    places = [[LABELS.index(id_ or BACKGROUND) for id_ in of[:2]] for of in measured["counts"]]
    assert places == sorted(places)
    shares = metrics.confusion_matrix(*pairs.T, labels=LABELS, normalize="true")
    names = {id_: f"class {id_}" for id_ in LABELS[:-1]}
    shown = figures.confusion({"confusion": measured}, names)
    assert shown.columns == [*names.values(), "background"]
    for (_, cells), normalised in zip(shown.rows, shares, strict=True):
        assert [cell.share for cell in cells] == pytest.approx(normalised)
    for (row, column, share), of_count in zip(measured["shares"], measured["counts"], strict=True):
        assert [row, column] == of_count[:2]
        place = [LABELS.index(id_ or BACKGROUND) for id_ in (row, column)]
        assert share == pytest.approx(shares[*place])


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_rows_are_objects_and_columns_are_detections(seed):
    objects, detections = scenes.random(seed)
    counts = matrix_of(confusion.measure(found_in(objects, detections, 0.4)))
    for index, category in enumerate((1, 2, 3)):
        assert counts[index].sum() == sum(of == category for _, of, *_ in objects)
        kept = [of for _, of, _, score in detections if score >= 0.4]
        assert counts[:, index].sum() == kept.count(category)
    assert counts[-1, -1] == 0


def test_pairs_come_with_what_to_draw():
    boxes = [[0, 0, 20, 20], [40, 0, 20, 20], [0, 40, 20, 20], [40, 40, 20, 20]]
    objects = [(1, category, box) for category, box in zip((1, 1, 2, 3), boxes, strict=True)]
    detections = [
        (1, category, box, score)
        for category, box, score in zip((2, 2, 1, 3), boxes, (0.6, 0.9, 0.95, 0.8), strict=True)
    ]
    first, second = confusion.measure(found_in(objects, detections))["pairs"]
    assert [first[key] for key in ("category_id", "taken_for", "count")] == [1, 2, 2]
    assert [second[key] for key in ("category_id", "taken_for", "count")] == [2, 1, 1]
    # The highest score is first.
    assert first["examples"] == [
        {"image_id": 1, "object_id": 2, "detection_id": 2, "score": 0.9, "iou": 1.0},
        {"image_id": 1, "object_id": 1, "detection_id": 1, "score": 0.6, "iou": 1.0},
    ]
