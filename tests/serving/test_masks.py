"""A detector with masks: served, and written in COCO's format."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from libra_tf.cli import image_files
from libra_tf.inference import prediction
from libra_tf.serving import saved_model
from tests.detectors import encode, load, make_run


@pytest.mark.slow
def test_masks(tiny_shapes, tmp_path):
    model_dir, image = str(tmp_path / "run"), tmp_path / "image.jpg"
    make_run(model_dir, "libra_maskrcnn_demo", tiny_shapes)
    folder = saved_model.export(model_dir, str(tmp_path / "served"), report=str)
    image.write_bytes(encode(48, 80))
    outputs = load(folder)([encode(64, 64, seed=1), image.read_bytes()])
    masks, (_, num) = outputs["detection_masks"], outputs["num_detections"]
    assert masks.shape[:2] == (2, 50) and num > 3
    assert masks[1, :num].min() >= 0 and 0 < masks[1, :num].max() <= 1
    assert not masks[1, num:].any()

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
