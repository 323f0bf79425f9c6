"""Numbers of objects and detections."""

import numpy as np
import pytest

from libra_tf.evaluation import counts, subject
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane


def measure(objects, detections, threshold=0.4, num_images=4):
    made = scenes.make(objects, detections, num_classes=3, num_images=num_images)
    return counts.measure(scenes.find_outcomes(made, subject.BOXES, threshold))


@pytest.mark.parametrize("seed", range(5))
def test_everything_is_counted_once(seed):
    objects, detections = scenes.random(seed)
    kept = [d for d in detections if d[3] >= 0.4]
    measured = measure(objects, detections)
    images = {
        id_: [sum(o[0] == id_ for o in objects), sum(d[0] == id_ for d in kept)]
        for id_ in range(1, 5)
    }
    assert measured["images"] == images
    pairs = np.array(list(images.values()))
    all_ = measured["all"]
    assert [all_["objects"], all_["detections"]] == pairs.sum(0).tolist()
    difference = pairs[:, 1] - pairs[:, 0]
    assert all_["mean_absolute_difference"] == np.abs(difference).mean()
    assert all_["images_with_as_many"] == (difference == 0).sum()
    assert all_["images_with_more"] == (difference > 0).sum()
    assert all_["images_with_fewer"] == (difference < 0).sum()
    for row in measured["by_number_of_objects"]:
        chosen = pairs[pairs[:, 0] == row["objects"], 1]
        assert [row["images"], row["mean_detections"]] == [len(chosen), chosen.mean()]
    for id_, of_class in measured["classes"].items():
        assert of_class["objects"] == sum(o[1] == id_ for o in objects)
        assert of_class["detections"] == sum(d[1] == id_ for d in kept)


def test_nothing_at_all():
    measured = measure([], [], num_images=0)
    assert measured["all"]["mean_absolute_difference"] is None
    assert measured["by_number_of_objects"] == []
