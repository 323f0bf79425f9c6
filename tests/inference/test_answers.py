"""The detections in an image: from a model's outputs, as JSON and as a picture."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from libra_tf.inference import answers
from libra_tf.inference.errors import DetectorError
from tests.detectors import encode

pytestmark = pytest.mark.one_lane


def test_an_answer_without_rows():
    """REST gives the shape of what a model without padding has not found as [[]]."""
    names = ("boxes", "scores", "classes", "class_names", "masks")
    document = {f"detection_{name}": [[]] for name in names}
    document |= {"num_detections": [0], "image_size": [[30, 40]]}
    outputs = {name: np.array(value) for name, value in document.items()}
    for is_normalized in (False, True):
        (answer,) = answers.from_outputs(outputs, is_normalized)
        for pastes_masks in (False, True):
            line = json.loads(answer.to_json("a.jpg", pastes_masks))
            assert line == {"file": "a.jpg", "height": 30, "width": 40, "detections": []}
        image = Image.new("RGB", (40, 30), (9, 9, 9))
        assert answer.draw_on(image, threshold=0.4).getcolors() == image.getcolors()


def test_answers_with_masks_in_pixels():
    outputs = {
        "detection_boxes": np.array([[[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]]], np.float32),
        "detection_scores": np.array([[0.75, 0]], np.float32),
        "detection_classes": np.array([[3, 0]]),
        "detection_class_names": np.array([["cat", ""]], object),
        "num_detections": np.array([1]),
        "image_size": np.array([[100, 50]]),
        "detection_masks": np.full([1, 2, 2, 3], 0.25, np.float32),
    }
    (answer,) = answers.from_outputs(outputs, is_normalized=True)
    assert json.loads(answer.to_json("a.jpg")) == {
        "file": "a.jpg",
        "height": 100,
        "width": 50,
        "detections": [
            {
                "box": [10, 10, 30, 20],
                "score": 0.75,
                "category_id": 3,
                "name": "cat",
                "mask": [[0.25] * 3] * 2,
            }
        ],
    }
    picture = answer.draw(encode(100, 50), threshold=0.7)
    plain = answer.draw(encode(100, 50), threshold=0.8)
    assert (np.asarray(picture) != np.asarray(plain)).any()
    with pytest.raises(DetectorError, match="no image_size"):
        del outputs["image_size"]
        answers.from_outputs(outputs, is_normalized=True)


def test_masks_pasted_into_the_image():
    """The left half of each box, as run-length encoded in COCO's results."""
    masks = np.zeros([2, 10, 10], np.float32)
    masks[:, :, :5] = 1
    boxes = np.array([[20, 10, 60, 40], [-10, 30, 20, 70]], np.float32)
    answer = answers.Answer(
        80, 50, boxes, np.array([0.75, 0.5]), np.array([3, 3]), np.array(["cat", "cat"]), masks
    )
    detections = json.loads(answer.to_json("a.jpg", pastes_masks=True))["detections"]
    for detection, (ymin, xmin, ymax, xmax) in zip(detections, boxes.astype(int), strict=True):
        assert "mask" not in detection
        expected = np.zeros([80, 50], bool)
        expected[max(0, ymin) : ymax, xmin : (xmin + xmax) // 2] = True
        mask = coco_mask.decode(detection["segmentation"]).astype(bool)
        assert np.count_nonzero(mask & expected) > 0.9 * np.count_nonzero(mask | expected)
    plain = dataclasses.replace(answer, masks=None)
    assert plain.to_json("a.jpg", pastes_masks=True) == plain.to_json("a.jpg")
