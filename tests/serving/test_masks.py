"""A detector with masks: served, and written in COCO's format."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from libra_tf.cli import image_files
from libra_tf.inference import prediction
from libra_tf.serving import saved_model
from tests.detectors import encode, filtered, load, make_run


@pytest.mark.slow
def test_masks(tiny_shapes, tmp_path):
    model_dir, image = str(tmp_path / "run"), tmp_path / "image.jpg"
    make_run(model_dir, "libra_maskrcnn_demo", tiny_shapes)
    folder = saved_model.export(model_dir, str(tmp_path / "served"), report=str)
    image.write_bytes(encode(48, 80))
    files = [encode(64, 64, seed=1), image.read_bytes()]
    outputs = load(folder)(files)
    masks, (_, num) = outputs["detection_masks"], outputs["num_detections"]
    assert masks.shape[:2] == (2, 50) and num > 3
    assert masks[1, :num].min() >= 0 and 0 < masks[1, :num].max() <= 1
    assert not masks[1, num:].any()
    assert_masks_follow_their_detections(model_dir, files, outputs, str(tmp_path / "served"))

    failures = prediction.predict(
        folder, image_files.find([str(image)]), str(tmp_path / "found"), report=str
    )
    detections = json.loads((tmp_path / "found/detections.json").read_text())
    assert failures == 0 and len(detections) == num
    num_pixels = 0
    for detection in detections:
        mask = coco_mask.decode(detection["segmentation"])
        assert mask.shape == (48, 80)
        x, y, width, height = detection["bbox"]
        rows, columns = np.nonzero(mask)
        num_pixels += len(rows)
        # A pixel more on every side, as the reference implementation pastes.
        assert np.all((rows >= y - 3) & (rows <= y + height + 3))
        assert np.all((columns >= x - 3) & (columns <= x + width + 3))
    assert num_pixels, "every mask is empty"


def assert_masks_follow_their_detections(model_dir, files, outputs, served):
    """When some are removed by a threshold of their class, and padding is trimmed."""
    first = int(outputs["detection_classes"][0, 0])
    thresholds = {category: float(category == first) for category in range(1, 5)}
    expected = filtered(outputs, thresholds)
    most = max(expected["num_detections"])
    assert 0 < most < max(outputs["num_detections"])
    folder = saved_model.export(
        model_dir, served, report=str, score_thresholds={first: 1.0}, trim_padding=True
    )
    found = load(folder)(files)
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    for name in ("detection_boxes", "detection_masks"):
        np.testing.assert_allclose(found[name], expected[name][:, :most], atol=1e-3)
