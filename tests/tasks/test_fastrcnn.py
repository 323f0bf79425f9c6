"""Libra Fast R-CNN from files to losses and detections."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras

pytestmark = pytest.mark.one_lane

SMALL = {
    "task": {
        "init_checkpoint": None,
        "annotation_file": None,
        "per_category_metrics": False,
        "model": {
            "input_size": [64, 64, 3],
            "num_classes": 5,
            "max_level": 4,
            "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
            "decoder": {"libra_fpn": {"num_filters": 16}, "fpn": {"num_filters": 16}},
            "detection_head": {"fc_dims": 16},
            "roi_sampler": {"num_sampled_rois": 16},
        },
        "train_data": {
            "global_batch_size": 2,
            "dtype": "float32",
            "shuffle_buffer_size": 1,
            "num_proposals": 20,
        },
        "validation_data": {"global_batch_size": 2, "dtype": "float32", "num_proposals": 30},
    }
}
SWITCHES_OFF = {
    "task": {
        "model": {"decoder": {"type": "fpn"}, "roi_sampler": {"type": "random"}},
        "losses": {"box_loss": "huber"},
    }
}


def write_proposals(folder, split):
    """The objects of a split, moved a little, as proposals of its images."""
    folder.mkdir()
    coco = json.loads(pathlib.Path(split.annotation_file).read_text())
    rng = np.random.default_rng(0)
    for image in coco["images"]:
        boxes = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
        x, y, width, height = np.reshape(boxes, (-1, 4)).T
        corners = np.stack([y, x, y + height, x + width], axis=-1)
        corners = np.repeat(corners, 3, axis=0)
        corners += rng.normal(0, 2, corners.shape)
        np.save(folder / f"{image['id']}.npy", corners.astype(np.float32))
    return str(folder)


@pytest.fixture(scope="module")
def params(tiny_shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp("proposals")
    params = exp_factory.get_exp_config("libra_fastrcnn_resnetfpn_coco")
    params.override(SMALL)
    for name, split in (("train_data", tiny_shapes.train), ("validation_data", tiny_shapes.val)):
        data = getattr(params.task, name)
        data.input_path = split.input_path
        data.proposals = write_proposals(root / name, split)
    return params


@pytest.fixture(
    params=[
        pytest.param(False, id="libra"),
        pytest.param(True, id="switches_off", marks=pytest.mark.slow),
    ]
)
def either(request, params):
    params = params.replace()
    if request.param:
        params.override(SWITCHES_OFF)
    params.task.validate()
    return params


def train(params, num_steps=1):
    """Takes steps; returns the task, the model, the logs of the last step and the metrics."""
    task = task_factory.get_task(params.task)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    metrics = task.build_metrics(training=True)
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer, metrics))
    for inputs in task.build_inputs(params.task.train_data).take(num_steps):
        logs = step(inputs)
    return task, model, logs, {metric.name: float(metric.result()) for metric in metrics}


def test_trains(either):
    task, model, logs, metrics = train(either)
    assert np.isfinite(logs[task.loss])
    assert set(metrics) == {
        *("total_loss", "frcnn_cls_loss", "frcnn_box_loss", "mask_loss", "model_loss")
    }
    assert metrics["frcnn_box_loss"] > 0
    total = metrics["frcnn_cls_loss"] + metrics["frcnn_box_loss"]
    assert metrics["model_loss"] == pytest.approx(total, rel=1e-5)
    assert not any("rpn" in variable.name for variable in model.variables)


@pytest.mark.slow
def test_evaluates(either):
    task = task_factory.get_task(either.task)
    model = task.build_model()
    metrics = task.build_metrics(training=False)
    step = tf.function(lambda inputs: task.validation_step(inputs, model, metrics))
    state = None
    for inputs in task.build_inputs(either.task.validation_data):
        assert inputs[1]["proposals"].shape[1:] == [30, 4]
        state = task.aggregate_logs(state, step(inputs))
    assert 0 <= task.reduce_aggregated_logs(state)["AP"] <= 1


@pytest.mark.slow
def test_mixed_precision(either):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        either.task.train_data.dtype = either.task.validation_data.dtype = "bfloat16"
        task, model, logs, _ = train(either)
        inputs = next(iter(task.build_inputs(either.task.validation_data)))
        metrics = task.build_metrics(training=False)
        outputs = task.validation_step(inputs, model, metrics)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.backbone.layers[1].compute_dtype == "bfloat16"
    assert np.isfinite(logs[task.loss])
    _, predictions = outputs[task.coco_metric.name]
    assert predictions["detection_scores"].dtype == predictions["detection_boxes"].dtype
    assert np.all(predictions["num_detections"] > 0)
    for name in ("detection_scores", "detection_boxes"):
        assert np.isfinite(tf.cast(predictions[name], tf.float32)).all(), name


def test_the_proposals_are_not_set(params):
    params = params.replace()
    params.task.train_data.proposals = ""
    task = task_factory.get_task(params.task)
    with pytest.raises(ValueError, match=r"task\.train_data\.proposals is not set"):
        task.build_inputs(params.task.train_data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model": {"include_mask": True}}, r"task\.model\.include_mask is true"),
        (
            {"train_data": {"num_proposals": 0}},
            r"task\.train_data\.num_proposals is 0; it must be at least 1",
        ),
        (
            {"model": {"roi_sampler": {"num_sampled_rois": 121}}},
            r"num_sampled_rois is 121.*from 1 to 120.*task\.train_data\.num_proposals",
        ),
        (
            {"validation_data": {"decoder": {"type": "label_map_decoder"}}},
            r"task\.validation_data\.decoder\.type is 'label_map_decoder'",
        ),
    ],
)
def test_what_cannot_be(params, override, message):
    params = params.replace()
    params.override({"task": override})
    with pytest.raises(ValueError, match=message):
        params.task.validate()
