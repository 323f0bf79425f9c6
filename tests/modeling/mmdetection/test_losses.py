"""The divisors of MMDetection's losses. Their values are in test_verify_training.py."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.configs import maskrcnn, retinanet
from libra_tf.modeling.mmdetection import losses

pytestmark = pytest.mark.one_lane

CLASSES = 4


def retinanet_batch(num_images):
    rng = np.random.default_rng(0)
    shape = [num_images, 3, 2]
    classes = rng.integers(-1, CLASSES, [*shape, 2])
    is_positive = (classes > 0).reshape(num_images, -1).astype(np.float32)
    outputs = {
        "cls_outputs": {"3": rng.normal(size=[*shape, 2 * CLASSES])},
        "box_outputs": {"3": rng.normal(size=[*shape, 8])},
    }
    labels = {
        "cls_targets": {"3": np.where(classes > 0, classes, -1)},
        "box_targets": {"3": rng.normal(size=[*shape, 8])},
        "cls_weights": np.maximum(is_positive, rng.integers(0, 2, is_positive.shape)),
        "box_weights": is_positive,
    }
    return tf.nest.map_structure(lambda x: tf.constant(x, tf.float32), (outputs, labels))


def rpn_batch(num_images):
    rng = np.random.default_rng(1)
    shape = [num_images, 3, 2]
    outputs = {
        "rpn_scores": {"2": rng.normal(size=[*shape, 3])},
        "rpn_boxes": {"2": rng.normal(size=[*shape, 12])},
    }
    labels = {
        "rpn_score_targets": {"2": rng.integers(-1, 2, [*shape, 3])},
        "rpn_box_targets": {"2": rng.normal(size=[*shape, 12])},
    }
    return tf.nest.map_structure(lambda x: tf.constant(x, tf.float32), (outputs, labels))


def roi_batch(num_images):
    rng = np.random.default_rng(2)
    targets = rng.integers(0, CLASSES, [num_images, 6])
    targets[0, 4:] = -1
    outputs = {
        "class_outputs": rng.normal(size=[num_images, 6, CLASSES]),
        "box_outputs": rng.normal(size=[num_images, 6, CLASSES * 4]),
        "class_targets": targets,
        "box_targets": rng.normal(size=[num_images, 6, 4]),
    }
    outputs = {name: tf.constant(value, tf.float32) for name, value in outputs.items()}
    return outputs, {"unused": tf.zeros([num_images])}


CASES = {
    "retinanet": (retinanet_batch, lambda o, t: losses.retinanet_losses(o, t, retinanet.Losses())),
    "rpn": (rpn_batch, losses.rpn_losses),
    "roi": (roi_batch, lambda o, _: losses.roi_losses(o, maskrcnn.Losses(), False)),
}


@pytest.mark.parametrize("kind", CASES)
def test_two_devices_have_the_losses_of_one(two_devices, kind):
    draw, compute = CASES[kind]
    batch = draw(4)
    expected = compute(*batch)

    def of_replica(context):
        first = 2 * context.replica_id_in_sync_group
        return tf.nest.map_structure(lambda x: x[first : first + 2], batch)

    shares = two_devices.experimental_distribute_values_from_function(of_replica)
    found = two_devices.run(lambda share: compute(*share), args=(shares,))
    for one, other in zip(found, expected, strict=True):
        mean = two_devices.reduce(tf.distribute.ReduceOp.MEAN, one, axis=None)
        np.testing.assert_allclose(mean, other, rtol=1e-5)


def test_fillers_count_nowhere():
    outputs, _ = roi_batch(1)
    cropped = {name: value[:, :4] for name, value in outputs.items()}
    for one, other in zip(*(CASES["roi"][1](x, None) for x in (outputs, cropped)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("kind", ["retinanet", "rpn"])
def test_nothing_sampled_is_no_division_by_zero(kind):
    draw, compute = CASES[kind]
    outputs, labels = draw(1)
    name = "rpn_score_targets" if kind == "rpn" else "cls_targets"
    labels[name] = {level: -tf.ones_like(x) for level, x in labels[name].items()}
    if kind == "retinanet":
        labels |= {x: tf.zeros_like(labels[x]) for x in ("cls_weights", "box_weights")}
    np.testing.assert_array_equal(compute(outputs, labels), [0, 0])
