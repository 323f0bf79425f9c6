"""A detector of masks: from a folder with segmentations to its predictions."""

import json
import pathlib

import pytest
from pycocotools import mask as coco_mask

from libra_tf.cli import image_files
from libra_tf.data import make_shapes
from libra_tf.inference import prediction
from tests.runner.test_run import TINY, run

pytestmark = [pytest.mark.slow, pytest.mark.one_lane]


def test_training_evaluation_and_prediction(tmp_path):
    folder = make_shapes(
        tmp_path / "cells", num_train=6, num_val=6, image_size=64, report=str, with_masks=True
    )
    model_dir, found = tmp_path / "run", tmp_path / "found"
    result = run(
        "--mode=train_and_eval",
        "--experiment=libra_maskrcnn_small",
        f"--dataset={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={model_dir}",
        f"--params_override={TINY.format(steps=2)}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # TensorFlow has warnings for a graph with masks.
    assert result.stderr == ""
    assert "mask_AP" in result.stdout
    evaluation = json.loads((model_dir / "results.json").read_text())["evaluations"][-1]
    for name in ("AP", "mask_AP", "mask_AP50", "mask Precision mAP ByCategory/star"):
        assert -1 <= evaluation[name] <= 1
    assert (model_dir / "detections.png").exists()

    annotations = pathlib.Path(folder, "annotations/instances_val.json")
    lines = []
    failures = prediction.predict(
        str(model_dir),
        image_files.find([str(pathlib.Path(folder, "images"))]),
        str(found),
        annotations=str(annotations),
        report=lines.append,
    )
    assert failures == 0
    detections = json.loads((found / "detections.json").read_text())
    for detection in detections:
        assert coco_mask.decode(detection["segmentation"]).shape == (64, 64)
    assert ("mask_AP" in "\n".join(lines)) == bool(detections)
    assert len(list((found / "pictures").rglob("*.*"))) == 6
