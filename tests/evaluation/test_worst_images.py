"""The images with the most errors."""

import collections

import hypothesis
import pytest
from hypothesis import strategies as st

from libra_tf.evaluation import outcomes, subject, worst_images
from libra_tf.evaluation.outcomes import Outcome
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane

BOX, HALF, FAR = [10, 10, 20, 20], [20, 10, 20, 20], [60, 60, 20, 20]


def measure(objects, detections, **options):
    made = scenes.make(objects, detections, num_classes=3, num_images=4)
    found = scenes.find_outcomes(made, subject.BOXES, 0.4)
    return found, worst_images.measure(found, **options)


def test_errors_are_counted_by_image():
    objects = [(1, 1, BOX), (2, 1, BOX), (3, 1, BOX), (3, 2, FAR)]
    detections = [
        (1, 1, BOX, 0.9),
        (2, 2, BOX, 0.9),
        (2, 1, BOX, 0.8),
        (3, 1, HALF, 0.9),
        (4, 1, FAR, 0.9),
    ]
    _, measured = measure(objects, detections)
    none = dict.fromkeys(("mixed_up", "badly_placed", "duplicate", "false", "missed"), 0)
    assert measured["images"] == {
        2: {**none, "mixed_up": 1, "duplicate": 1},
        3: {**none, "badly_placed": 1, "missed": 1},
        4: {**none, "false": 1},
    }
    # As many errors, but one of them is a missed object.
    assert measured["worst"] == [3, 2, 4]
    assert measured["totals"] == dict.fromkeys(none, 1)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_every_error_is_in_an_image(seed):
    found, measured = measure(*scenes.random(seed), num_images=2)
    totals = collections.Counter(of.outcome for of in found.of_detections.values())
    totals.update(o for o in found.of_objects.values() if o is Outcome.MISSED)
    assert measured["totals"] == {error.value: totals[error] for error in outcomes.ERRORS}
    sizes = {image: sum(errors.values()) for image, errors in measured["images"].items()}
    assert all(sizes.values()) and sum(sizes.values()) == sum(measured["totals"].values())
    assert len(measured["worst"]) == min(2, len(sizes))
    others = [size for image, size in sizes.items() if image not in measured["worst"]]
    assert all(sizes[image] >= max(others, default=0) for image in measured["worst"])
