import numpy as np
import pytest
from PIL import Image

from libra_tf.runner import contact_sheet
from libra_tf.tasks.coco_metric import Detections

EMPTY = Detections(np.zeros([0, 4]), np.zeros([0], int), np.zeros([0]))


def draw(path, dataset, detections):
    contact_sheet.draw(str(path), dataset.val.input_path, detections, dataset.class_names)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def test_only_evaluated_images_are_shown(tiny_shapes, tmp_path):
    three = draw(tmp_path / "three.png", tiny_shapes, {1: EMPTY, 2: EMPTY, 5: EMPTY})
    six = draw(tmp_path / "six.png", tiny_shapes, dict.fromkeys(range(1, 7), EMPTY))
    assert six.shape[0] > 1.5 * three.shape[0]


@pytest.mark.parametrize(("score", "is_drawn"), [(0.9, True), (0.1, False)])
def test_confident_detections_are_drawn(tiny_shapes, tmp_path, score, is_drawn):
    found = Detections(np.array([[8.0, 8, 56, 56]]), np.array([2]), np.array([score]))
    with_detection = draw(tmp_path / "a.png", tiny_shapes, {1: found})
    without = draw(tmp_path / "b.png", tiny_shapes, {1: EMPTY})
    assert bool((with_detection != without).any()) == is_drawn
