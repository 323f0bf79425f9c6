"""From the detections of an evaluation to the numbers of --metrics."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import UsageError
from libra_tf.data import prepare_coco_folder
from libra_tf.inference import ground_truth
from libra_tf.runner import more_metrics
from libra_tf.runner.options import Options
from libra_tf.tasks import coco_metric

pytestmark = pytest.mark.one_lane

MOST = 20


def params(annotation_file):
    config = exp_factory.get_exp_config("libra_retinanet_demo")
    config.task.annotation_file = annotation_file
    return config


def evaluate(annotation_file):
    """What Model Garden's evaluation finds with detections near the objects, filled up with 0."""
    content = json.loads(pathlib.Path(annotation_file).read_text())
    generator = np.random.default_rng(0)
    images = content["images"]
    boxes, classes, scores = (np.zeros([len(images), MOST, *s], np.float32) for s in ([4], [], []))
    for row, image in enumerate(images):
        objects = [e for e in content["annotations"] if e["image_id"] == image["id"]]
        for column, entry in enumerate(objects[:MOST]):
            x, y, width, height = entry["bbox"] + generator.normal(0, 1.5, 4)
            boxes[row, column] = [y, x, y + height, x + width]
            classes[row, column] = generator.choice([entry["category_id"], 1])
            scores[row, column] = generator.uniform(0.3, 1)
    # What fills up has a class, but no score.
    classes[scores == 0] = 1
    evaluator = coco_metric.COCOEvaluator(
        annotation_file, include_mask=False, per_category_metrics=True
    )
    info = np.array([[128, 128], [128, 128], [1, 1], [0, 0]], np.float32)
    predictions = {
        "source_id": np.array([image["id"] for image in images]),
        "num_detections": np.full(len(images), MOST),
        "detection_boxes": boxes,
        "detection_classes": classes,
        "detection_scores": scores,
        "image_info": np.tile(info, (len(images), 1, 1)),
    }
    evaluator.update_state(None, {name: tf.constant(value) for name, value in predictions.items()})
    return evaluator.result(), evaluator.detections


def test_without_the_flag_nothing_is_measured(tiny_shapes):
    for names in (None, [], ["coco"]):
        options = Options(mode="eval", metrics=names)
        assert more_metrics.build(options, params(""), tiny_shapes) is None


def test_the_numbers_belong_to_the_detections(tiny_shapes):
    coco, detections = evaluate(tiny_shapes.val.annotation_file)
    options = Options(mode="eval", metrics=["voc", "lvis"], frequency_limits=[0, 1])
    measure = more_metrics.build(options, params(tiny_shapes.val.annotation_file), tiny_shapes)
    found = measure(detections)
    assert 0.1 < coco["AP"] < coco["AP50"] < 0.95
    # The file is not federated, and there are few detections: the rules are the same.
    for name in ("AP", "AP50", "AP75"):
        assert found[f"lvis_{name}"] == pytest.approx(coco[name], abs=1e-4)
    # All classes have more than one training image.
    assert found["lvis_APf"] == found["lvis_AP"] and found["lvis_APr"] == -1
    # One is the area below the curve, the other its mean at 101 recalls.
    assert found["voc_AP"] == pytest.approx(coco["AP50"], abs=0.03)


@pytest.fixture
def one_split(tiny_shapes, tmp_path):
    """A folder with the validation images alone."""
    shutil.copytree(tiny_shapes.folder, tmp_path / "folder")
    (tmp_path / "folder/annotations/instances_train.json").unlink()
    return str(tmp_path / "folder")


def test_images_that_are_all_evaluated_are_not_those_of_a_training(one_split, tmp_path):
    """So nothing says which classes are rare."""
    for share, frequencies in ((1, set()), (0.5, {"lvis_APr", "lvis_APc", "lvis_APf"})):
        dataset = prepare_coco_folder(one_split, tmp_path / "cache", report=str, val_share=share)
        path = dataset.val.annotation_file
        options = Options(mode="eval", metrics=["lvis"])
        measured = more_metrics.build(options, params(path), dataset)(evaluate(path)[1])
        assert measured.keys() & {"lvis_APr", "lvis_APc", "lvis_APf"} == frequencies
    assert ground_truth.count_training_images(one_split) is None


def test_only_evaluated_images_count(tiny_shapes):
    """All objects of one image are found, and those of the others are not missed."""
    path = tiny_shapes.val.annotation_file
    content = json.loads(pathlib.Path(path).read_text())
    image_id = content["annotations"][0]["image_id"]
    objects = [e for e in content["annotations"] if e["image_id"] == image_id]
    x, y, width, height = np.array([entry["bbox"] for entry in objects], float).T
    detections = coco_metric.Detections(
        boxes=np.stack([y, x, y + height, x + width], axis=-1),
        classes=np.array([entry["category_id"] for entry in objects]),
        scores=np.full(len(objects), 0.5),
    )
    measure = more_metrics.build(Options(mode="eval", metrics=["voc"]), params(path), None)
    assert measure({image_id: detections})["voc_AP"] == 1


def test_without_annotations_it_is_refused():
    options = Options(mode="eval", metrics=["coco", "voc"])
    with pytest.raises(UsageError, match="--metrics=voc needs an annotation file"):
        more_metrics.build(options, params(None), None)
