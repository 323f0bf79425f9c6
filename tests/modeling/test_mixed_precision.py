"""In bfloat16, no coordinate is rounded between a head's output and the result."""

import re

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.modeling.layers import roi_aligner

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.modeling import mixed_precision
from libra_tf.runner.config import use_dataset
from tests.detectors import SMALL, predict_in_training

EXPERIMENTS = ["libra_retinanet_demo", "libra_fasterrcnn_demo"]
CASCADE = {
    "roi_sampler": {"cascade_iou_thresholds": [0.6, 0.7]},
    "detection_head": {"class_agnostic_bbox_pred": True, "cascade_class_ensemble": True},
}
MMDETECTION = {"compatibility": "mmdetection"}
VARIANTS = [
    (EXPERIMENTS[0], {}),
    pytest.param(EXPERIMENTS[1], {"roi_sampler": {"type": "random"}}, marks=pytest.mark.slow),
    pytest.param(EXPERIMENTS[1], {}, marks=pytest.mark.slow),
    pytest.param(EXPERIMENTS[1], CASCADE, marks=pytest.mark.slow),
    pytest.param(EXPERIMENTS[0], MMDETECTION, marks=pytest.mark.slow),
    pytest.param(EXPERIMENTS[1], MMDETECTION, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def in_bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def build(experiment, dataset, **model_changes):
    """Returns a task, its model, and one batch of its training data."""
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, dataset)
    params.task.override(SMALL)
    params.task.override({"model": model_changes})
    if params.task.model.compatibility:
        params.task.model.max_level = 6
        params.task.validation_data.global_batch_size = 1
    params.task.train_data.global_batch_size = 2
    params.task.train_data.dtype = "bfloat16"
    task = task_factory.get_task(params.task)
    model = task.build_model()
    return task, model, next(iter(task.build_inputs(params.task.train_data)))


def is_head_output(operation):
    """Whether it widens what a head, and not one of its layers, has computed."""
    scope = operation.name.split("/")[-2:][0]
    if operation.type != "Cast" or not re.search(r"head(_\d+)?$", scope):
        return False
    return (operation.inputs[0].dtype, operation.outputs[0].dtype) == (tf.bfloat16, tf.float32)


def rounded_in(graph, boxes):
    """The operations in lower precision that boxes, or what follows from a head, flow into.

    The RoI aligner multiplies features by weights that follow from boxes: there they end.
    """
    reached = {id(tensor) for tensor in boxes}
    found = []
    for operation in graph.get_operations():
        if not is_head_output(operation) and not any(
            id(tensor) in reached for tensor in operation.inputs
        ):
            continue
        if "roi_aligner" in operation.name:
            wide = [tensor for tensor in operation.outputs if tensor.dtype == tf.float32]
            reached.update(map(id, wide))
            continue
        reached.update(map(id, operation.outputs))
        if any(tensor.dtype in (tf.bfloat16, tf.float16) for tensor in operation.outputs):
            found.append(f"{operation.type} {operation.name}")
    return found


@pytest.mark.parametrize(("experiment", "changes"), VARIANTS)
def test_no_coordinate_is_rounded(experiment, changes, tiny_shapes):
    _, model, (images, labels) = build(experiment, tiny_shapes, **changes)
    names = [name for name in ("anchor_boxes", "image_info", "gt_boxes") if name in labels]

    def detect(images, given):
        shape = given["image_info"][:, 1]
        return model(images, image_shape=shape, anchor_boxes=given["anchor_boxes"], training=False)

    def train(images, given):
        return predict_in_training(model, images, {**labels, **given})

    for compute in (detect, train):
        boxes = {name: labels[name] for name in names}
        function = tf.function(compute).get_concrete_function(images, boxes)
        operations = function.graph.get_operations()
        assert any(map(is_head_output, operations))
        assert not rounded_in(function.graph, function.inputs[1 : 1 + len(tf.nest.flatten(boxes))])
        # The network itself computes in bfloat16.
        convolutions = [operation for operation in operations if operation.type == "Conv2D"]
        assert {operation.outputs[0].dtype for operation in convolutions} == {tf.bfloat16}
        outputs = {
            name: spec
            for name, spec in function.structured_outputs.items()
            if name not in ("backbone_features", "decoder_features")
        }
        dtypes = {spec.dtype for spec in tf.nest.flatten(outputs) if spec.dtype.is_floating}
        assert dtypes == {tf.float32}


@pytest.mark.one_lane
@pytest.mark.parametrize("type_", ["iou_balanced", "random"])
def test_sampled_rois_are_the_proposals(type_, tiny_shapes):
    """Above 512, bfloat16 would make them multiples of 4 pixels."""
    _, model, _ = build(EXPERIMENTS[1], tiny_shapes, roi_sampler={"type": type_})
    corners = 512 + np.random.default_rng(0).uniform(0, 300, [1, 300, 2]).astype(np.float32)
    proposals = tf.concat([corners, corners + 33.3], axis=-1)
    instances = proposals[:, :5] + 1.7
    rois, matched, *_ = model.roi_sampler[0](proposals, instances, tf.ones([1, 5], tf.int32))
    known = {tuple(box) for box in np.concatenate([proposals[0], instances[0]])}
    assert {tuple(box) for box in rois.numpy()[0]} <= known
    assert {tuple(box) for box in matched.numpy()[0]} <= known | {(0.0,) * 4}
    assert (matched.numpy() > 0).any()


def test_the_aligner_crops_where_the_boxes_are():
    """The features are a saw, exact in bfloat16, so that a crop tells where it was taken."""
    columns = tf.range(256) % 8
    features = tf.tile(tf.cast(columns, tf.float32)[None, None, :, None], [1, 256, 1, 1])
    corners = 700 + np.random.default_rng(0).uniform(0, 200, [1, 50, 2]).astype(np.float32)
    boxes = tf.concat([corners, corners + 7.0], axis=-1)
    crops = {
        policy: roi_aligner.MultilevelROIAligner(crop_size=2, dtype=policy)(
            {"2": tf.cast(features, dtype)}, boxes
        )
        for policy, dtype in (("float32", tf.float32), ("mixed_bfloat16", tf.bfloat16))
    }
    assert crops["mixed_bfloat16"].dtype == tf.bfloat16
    difference = tf.cast(crops["mixed_bfloat16"], tf.float32) - crops["float32"]
    # Two pixels, by which bfloat16 would move a box, are half a column.
    assert np.abs(difference).max() < 0.05


def test_masks_are_float32():
    head = mixed_precision.MaskHead(num_classes=3, num_convs=1, num_filters=4)
    logits = head([tf.zeros([1, 2, 4, 4, 3]), tf.ones([1, 2], tf.int32)])
    assert logits.dtype == tf.float32
    sampler = mixed_precision.MaskSampler(mask_target_size=4, num_sampled_masks=2)
    boxes = tf.constant([[[600.3, 601.7, 633.1, 644.9]] * 3])
    rois, _, _ = sampler(
        boxes, boxes, tf.ones([1, 3], tf.int32), tf.zeros([1, 3], tf.int32), tf.ones([1, 1, 8, 8])
    )
    np.testing.assert_array_equal(rois, boxes[:, :2])
