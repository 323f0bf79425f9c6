import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from official.vision.modeling import factory
from official.vision.modeling.layers import detection_generator

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.configs import components
from libra_tf.modeling import fast_rcnn, roi_sampler

pytestmark = pytest.mark.one_lane

SMALL = {
    "input_size": [64, 64, 3],
    "num_classes": 5,
    "include_mask": False,
    "max_level": 4,
    "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
    "decoder": {"fpn": {"num_filters": 16}},
    "detection_head": {"num_convs": 0, "fc_dims": 16},
    "roi_generator": {
        "pre_nms_top_k": 50,
        "num_proposals": 40,
        "test_num_proposals": 40,
        "nms_iou_threshold": 0.9,
    },
    "roi_sampler": {"num_sampled_rois": 16},
    "detection_generator": {"pre_nms_score_threshold": 0.01},
}
IMAGES = tf.random.stateless_normal([2, 64, 64, 3], [0, 1])
SHAPE = tf.constant([[64.0, 64.0], [64.0, 50.0]])
GT_BOXES = tf.constant([[[5.0, 5, 30, 40], [20, 20, 60, 50]], [[1, 2, 25, 28], [-1, -1, -1, -1]]])
GT_CLASSES = tf.constant([[1, 3], [2, -1]])
PADDING = -tf.ones([2, 30, 4])


@pytest.fixture(scope="module")
def maskrcnn():
    """Model Garden's Faster R-CNN."""
    config = exp_factory.get_exp_config("fasterrcnn_resnetfpn_coco").task.model
    config.override(SMALL)
    spec = keras.layers.InputSpec(shape=[None, 64, 64, 3])
    model = factory.build_maskrcnn(spec, config)
    model(IMAGES, image_shape=SHAPE, training=False)
    return model


@pytest.fixture
def fastrcnn(maskrcnn):
    return fast_rcnn.FastRCNNModel.from_maskrcnn(maskrcnn)


def rois(maskrcnn, training):
    """What its RPN proposes."""
    seen = []
    generate = maskrcnn.roi_generator.call

    def remember(*args, **kwargs):
        seen.append(generate(*args, **kwargs))
        return seen[-1]

    maskrcnn.roi_generator.call = remember
    maskrcnn(IMAGES, image_shape=SHAPE, training=training)
    maskrcnn.roi_generator.call = generate
    return seen[0][0]


@pytest.mark.parametrize("training", [True, False])
def test_equals_faster_rcnn_on_its_own_rois(maskrcnn, fastrcnn, training):
    gt = {"gt_boxes": GT_BOXES, "gt_classes": GT_CLASSES} if training else {}
    proposals = rois(maskrcnn, training)
    tf.random.set_seed(3)
    expected = maskrcnn(IMAGES, image_shape=SHAPE, training=training, **gt)
    tf.random.set_seed(3)
    outputs = fastrcnn(IMAGES, image_shape=SHAPE, proposals=proposals, training=training, **gt)
    assert set(outputs) == set(expected) - {"rpn_boxes", "rpn_scores"}
    # With random weights many scores are nearly equal: the order of detections is left aside.
    compared = {name for name in outputs if "detection" not in name}
    assert compared >= {"backbone_features", "decoder_features", "class_outputs", "box_outputs"}
    assert not training or compared >= {"class_targets", "box_targets"}
    for name in compared:
        for actual, wanted in zip(
            tf.nest.flatten(outputs[name]), tf.nest.flatten(expected[name]), strict=True
        ):
            # The order of additions on several threads differs from run to run.
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4, err_msg=name)
    assert outputs["num_detections" if not training else "class_targets"].numpy().any()


def test_nothing_of_the_rpn_is_left(maskrcnn, fastrcnn, tmp_path):
    rpn = {variable.ref() for variable in maskrcnn.rpn_head.variables}
    assert rpn
    # A layer is shared, so its variables can be told apart by identity.
    kept = {variable.ref() for variable in fastrcnn.variables}
    assert kept == {variable.ref() for variable in maskrcnn.variables} - rpn
    assert set(fastrcnn.checkpoint_items) == {"backbone", "decoder", "detection_head"}
    checkpoint = tf.train.Checkpoint(model=fastrcnn, **fastrcnn.checkpoint_items)
    names = [name for name, _ in tf.train.list_variables(checkpoint.write(str(tmp_path / "ckpt")))]
    assert names and not any("rpn" in name for name in names)


def test_no_proposals(fastrcnn):
    with pytest.raises(ValueError, match="Fast R-CNN needs `proposals`"):
        fastrcnn(IMAGES, image_shape=SHAPE, training=False)


@pytest.mark.parametrize("sampler", ["random", "iou_balanced"])
def test_padding_is_not_sampled(maskrcnn, fastrcnn, sampler):
    if sampler == "iou_balanced":
        config = components.ROISampler(num_sampled_rois=16)
        roi_sampler.use_libra_sampler(fastrcnn, config)
    proposals = tf.concat([PADDING, rois(maskrcnn, True)], axis=1)
    sampled = []
    sample = fastrcnn.roi_sampler[0].call

    def remember(*args, **kwargs):
        sampled.append(sample(*args, **kwargs))
        return sampled[-1]

    fastrcnn.roi_sampler[0].call = remember
    try:
        for _ in range(5):
            fastrcnn(
                IMAGES,
                image_shape=SHAPE,
                proposals=proposals,
                gt_boxes=GT_BOXES,
                gt_classes=GT_CLASSES,
                training=True,
            )
    finally:
        fastrcnn.roi_sampler[0].call = sample
    assert len(sampled) == 5
    for boxes, _, classes, _ in sampled:
        assert np.all(np.max(boxes, axis=-1) > 0)
        assert np.any(classes.numpy() > 0)


@pytest.mark.parametrize("sampler", ["random", "iou_balanced"])
def test_too_few_proposals_are_filled_up_with_background(maskrcnn, fastrcnn, sampler):
    if sampler == "iou_balanced":
        config = components.ROISampler(num_sampled_rois=16)
        roi_sampler.use_libra_sampler(fastrcnn, config)
    outputs = fastrcnn(
        IMAGES,
        image_shape=SHAPE,
        proposals=PADDING,
        gt_boxes=GT_BOXES,
        gt_classes=GT_CLASSES,
        training=True,
    )
    classes = outputs["class_targets"].numpy()
    # Only the instances themselves are positive.
    np.testing.assert_array_equal(np.sum(classes > 0, axis=1), [2, 1])
    assert np.isfinite(outputs["class_outputs"]).all()
    np.testing.assert_array_equal(outputs["box_targets"].numpy()[classes == 0], 0)


@pytest.mark.parametrize("nms_version", ["v1", "v2", "batched"])
@pytest.mark.parametrize("use_sigmoid_probability", [False, True])
def test_padding_is_not_detected(nms_version, use_sigmoid_probability):
    """Whatever the network makes of it, the detections are those without padding."""
    config = {
        "nms_version": nms_version,
        "use_sigmoid_probability": use_sigmoid_probability,
        "max_num_detections": 8,
        "pre_nms_top_k": 10,
    }
    given = tf.constant([[[10.0, 10, 30, 30], [40, 5, 60, 35], [0, 0, 9, 9]]])
    scores = tf.random.stateless_normal([1, 3, 5], [0, 1], stddev=2)
    deltas = tf.random.stateless_normal([1, 3, 20], [0, 2], stddev=0.1)
    expected = detection_generator.DetectionGenerator(**config)(deltas, scores, given, SHAPE[:1])

    rois = tf.concat([given, -tf.ones([1, 3, 4]), tf.zeros([1, 3, 4])], axis=1)
    scores = tf.concat([scores, tf.tile([[[-20.0, 20, 20, 20, 20]]], [1, 6, 1])], axis=1)
    deltas = tf.pad(deltas, [[0, 0], [0, 6], [0, 0]], constant_values=0.3)
    found = fast_rcnn.DetectionGenerator(**config)(deltas, scores, rois, SHAPE[:1])
    number = int(expected["num_detections"][0])
    assert found["num_detections"][0] == number > 0
    for key in ("detection_boxes", "detection_scores", "detection_classes"):
        np.testing.assert_allclose(found[key][:, :number], expected[key][:, :number], rtol=1e-6)


def test_detections_do_not_depend_on_padding(maskrcnn, fastrcnn):
    proposals = rois(maskrcnn, False)
    padded = tf.concat([proposals, PADDING], axis=1)
    expected, found = (
        fastrcnn(IMAGES, image_shape=SHAPE, proposals=boxes, training=False)
        for boxes in (proposals, padded)
    )
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    assert np.all(expected["num_detections"] > 0)
    for key in ("detection_boxes", "detection_scores", "detection_classes"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-5)
