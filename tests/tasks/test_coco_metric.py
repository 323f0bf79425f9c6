import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from pycocotools import cocoeval
from pycocotools.coco import COCO

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.tasks import coco_metric

NUM_IMAGES = 4
NAMES = {1: "cell", 3: "platelet", 4: "never there"}


@pytest.fixture
def annotation_file(tmp_path):
    rng = np.random.default_rng(0)
    annotations = []
    for image_id in range(1, NUM_IMAGES + 1):
        for category in (1, 3):
            for _ in range(3):
                x, y = rng.uniform(0, 60, 2)
                width, height = rng.uniform(8, 60, 2)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
    document = {
        "images": [{"id": i, "height": 128, "width": 128} for i in range(1, NUM_IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return str(path)


def noisy_predictions(annotation_file, scale):
    """Detections near the ground truth, in the pixels of images resized by `scale`."""
    rng = np.random.default_rng(1)
    coco = COCO(annotation_file)
    boxes, classes, scores = (np.zeros([NUM_IMAGES, 8, *s], np.float32) for s in ([4], [], []))
    for row, image_id in enumerate(coco.getImgIds()):
        for column, annotation in enumerate(coco.imgToAnns[image_id]):
            x, y, width, height = annotation["bbox"] + rng.normal(0, 1.5, 4)
            boxes[row, column] = [y, x, y + height, x + width]
            classes[row, column] = annotation["category_id"]
            scores[row, column] = rng.uniform(0.3, 1)
    info = np.tile(
        np.array([[128, 128], [128 * scale] * 2, [scale] * 2, [0, 0]], np.float32), (4, 1, 1)
    )
    return {
        "source_id": tf.constant(coco.getImgIds()),
        "num_detections": tf.fill([NUM_IMAGES], 6),
        "detection_boxes": tf.constant(boxes * scale),
        "detection_classes": tf.constant(classes),
        "detection_scores": tf.constant(scores),
        "image_info": tf.constant(info),
    }, boxes


def test_metrics_per_category_are_those_of_pycocotools(annotation_file):
    evaluator = coco_metric.COCOEvaluator(
        annotation_file, include_mask=False, per_category_metrics=True
    )
    predictions, boxes = noisy_predictions(annotation_file, scale=2.0)
    evaluator.update_state(None, predictions)
    metrics = evaluator.result()

    results = [
        {
            "image_id": image_id,
            "category_id": int(detections.classes[i]),
            "bbox": [box[1], box[0], box[3] - box[1], box[2] - box[0]],
            "score": float(detections.scores[i]),
        }
        for image_id, detections in evaluator.detections.items()
        for i, box in enumerate(detections.boxes.astype(float))
        if detections.classes[i]
    ]
    reference = COCO(annotation_file)
    for category, name in NAMES.items():
        evaluation = cocoeval.COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        keys = ["", "@50IoU", "@75IoU", " (small)", " (medium)", " (large)"]
        ours = [metrics[f"Precision mAP ByCategory{key}/{name}"] for key in keys]
        np.testing.assert_allclose(ours, evaluation.stats[:6], atol=1e-6)
    np.testing.assert_allclose(evaluator.detections[1].boxes, boxes[0], atol=1e-4)
    assert 0.2 < metrics["AP"] < 0.99


def test_classes_of_one_name_are_told_apart(annotation_file):
    document = json.loads(pathlib.Path(annotation_file).read_text())
    for category in document["categories"]:
        category["name"] = "cell"
    pathlib.Path(annotation_file).write_text(json.dumps(document))
    evaluator = coco_metric.COCOEvaluator(
        annotation_file, include_mask=False, per_category_metrics=True
    )
    evaluator.update_state(None, noisy_predictions(annotation_file, scale=2.0)[0])
    metrics = evaluator.result()
    of_classes = [metrics[f"Precision mAP ByCategory/cell ({id_})"] for id_ in NAMES]
    assert of_classes[2] == -1
    assert np.mean(of_classes[:2]) == pytest.approx(metrics["AP"], abs=1e-6)


def test_masks_are_measured_and_kept(annotation_file):
    """Full masks on rectangular truth are as good as the boxes."""
    document = json.loads(pathlib.Path(annotation_file).read_text())
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation["segmentation"] = [corners]
    pathlib.Path(annotation_file).write_text(json.dumps(document))
    evaluator = coco_metric.COCOEvaluator(
        annotation_file, include_mask=True, per_category_metrics=True
    )
    predictions, _ = noisy_predictions(annotation_file, scale=2.0)
    masks = np.ones([NUM_IMAGES, 8, 14, 14], np.float32)
    masks[0, 0] = 0.75
    evaluator.update_state(None, {**predictions, "detection_masks": tf.constant(masks)})
    metrics = evaluator.result()
    assert metrics["mask_AP"] == pytest.approx(metrics["AP"], abs=0.1) and metrics["mask_AP"] > 0.2
    cell = metrics["mask Precision mAP ByCategory/cell"]
    platelet = metrics["mask Precision mAP ByCategory/platelet"]
    assert (cell + platelet) / 2 == pytest.approx(metrics["mask_AP"], abs=1e-6)
    assert np.all(evaluator.detections[1].masks[0] == 0.75)
    assert evaluator.detections[2].masks.shape == (8, 14, 14)


def test_without_an_annotation_file_categories_are_named_by_id():
    evaluator = coco_metric.COCOEvaluator(None, include_mask=False, per_category_metrics=True)
    box = tf.constant([[[10.0, 10.0, 40.0, 50.0]]])
    evaluator.update_state(
        {
            "source_id": tf.constant([5]),
            "height": tf.constant([64]),
            "width": tf.constant([64]),
            "num_detections": tf.constant([1]),
            "boxes": box,
            "classes": tf.constant([[2]]),
        },
        {
            "source_id": tf.constant([5]),
            "num_detections": tf.constant([1]),
            "detection_boxes": box,
            "detection_classes": tf.constant([[2.0]]),
            "detection_scores": tf.constant([[0.9]]),
            "image_info": tf.constant([[[64.0, 64], [64, 64], [1, 1], [0, 0]]]),
        },
    )
    assert evaluator.result()["Precision mAP ByCategory/2"] == pytest.approx(1)


def test_retinanet_measures_as_its_config_says(annotation_file):
    config = exp_factory.get_exp_config("libra_retinanet_demo").task
    config.annotation_file, config.per_category_metrics = annotation_file, True
    config.max_num_eval_detections = 30
    task = task_factory.get_task(config)
    task.build_metrics(training=False)
    assert isinstance(task.coco_metric, coco_metric.COCOEvaluator)
    assert task.coco_metric.max_num_eval_detections == 30
    predictions, _ = noisy_predictions(annotation_file, scale=2.0)
    task.coco_metric.update_state(None, predictions)
    assert "Precision mAP ByCategory/cell" in task.coco_metric.result()
