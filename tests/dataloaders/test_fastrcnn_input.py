import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import maskrcnn_input

from libra_tf.dataloaders import fastrcnn_input

pytestmark = pytest.mark.one_lane

NUM_INSTANCES = 12
PARSER = {"output_size": [64, 96], "max_level": 4, "max_num_instances": NUM_INSTANCES}


def decoded(boxes, height=50, width=70, source_id="3", is_crowd=None):
    """What Model Garden's decoder gives for an image with boxes in pixels."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    classes = np.arange(1, len(boxes) + 1)
    crowd = np.zeros(len(boxes), bool) if is_crowd is None else is_crowd
    return {
        "source_id": tf.constant(source_id),
        "image": tf.random.stateless_uniform([height, width, 3], [0, 1], 0, 255, tf.int32),
        "height": tf.constant(height, tf.int64),
        "width": tf.constant(width, tf.int64),
        "groundtruth_classes": tf.constant(classes, tf.int64),
        "groundtruth_is_crowd": tf.constant(crowd),
        "groundtruth_area": tf.constant(np.full(len(boxes), 9.0, np.float32)),
        "groundtruth_boxes": tf.constant(boxes / np.float32([height, width, height, width])),
    }


def random_boxes(rng, num_boxes, height=50, width=70):
    corners = np.sort(rng.uniform(0, 1, (num_boxes, 2, 2)), axis=1) * [height, width]
    return corners.reshape(num_boxes, 4).astype(np.float32)


@pytest.fixture
def parse(tmp_path):
    """Saves proposals and parses an image with them."""

    def parse(proposals, data, num_proposals=NUM_INSTANCES, is_training=True, **kwargs):
        np.save(tmp_path / "3.npy", np.asarray(proposals, np.float32).reshape(-1, 4))
        parser = fastrcnn_input.Parser(str(tmp_path), num_proposals, **PARSER, **kwargs)
        dataset = tf.data.Dataset.from_tensors(data)
        return next(iter(dataset.map(parser.parse_fn(is_training))))

    return parse


@pytest.mark.parametrize(
    "flip", ["aug_rand_hflip", pytest.param("aug_rand_vflip", marks=pytest.mark.slow)]
)
def test_proposals_go_where_the_instances_go(parse, flip):
    """Given the instances themselves, whatever is drawn for the image."""
    flipped = set()
    for seed in range(3):
        tf.random.set_seed(seed)
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, rng.integers(0, NUM_INSTANCES + 1))
        augmentation = {flip: True, "aug_scale_min": 0.5, "aug_scale_max": 2.0}
        _, labels = parse(boxes, decoded(boxes), **augmentation)
        # Pixels to fractions of the image and back is what the instances' records went through.
        np.testing.assert_allclose(labels["proposals"], labels["gt_boxes"], atol=1e-4)
        assert labels["proposals"].shape == [NUM_INSTANCES, 4]
        kept = labels["gt_classes"].numpy()[labels["gt_classes"] > 0] - 1
        _, size, scale, offset = np.tile(labels["image_info"], 2)
        unflipped = np.clip(boxes[kept] * scale - offset, 0, size)
        if len(kept):
            found = labels["gt_boxes"][: len(kept)]
            flipped.add(not np.allclose(found, unflipped, atol=1e-3))
    assert flipped == {False, True}


@pytest.mark.slow
def test_the_rest_is_as_without_proposals(parse):
    rng = np.random.default_rng(0)
    crowd = np.arange(20) % 5 == 0
    for num_boxes in (0, 5, 20):
        data = decoded(random_boxes(rng, num_boxes), is_crowd=crowd[:num_boxes])
        kwargs = {"aug_rand_hflip": True, "aug_scale_min": 0.5, "aug_scale_max": 1.5}
        tf.random.set_seed(5)
        image, labels = parse(random_boxes(rng, 8), data, **kwargs)
        parser = maskrcnn_input.Parser(
            **PARSER, min_level=4, num_scales=1, aspect_ratios=[1.0], anchor_size=1.0, **kwargs
        )
        tf.random.set_seed(5)
        dataset = tf.data.Dataset.from_tensors(data)
        expected_image, expected = next(iter(dataset.map(parser.parse_fn(True))))
        np.testing.assert_array_equal(image, expected_image)
        for key in ("image_info", "gt_boxes", "gt_classes"):
            np.testing.assert_array_equal(labels[key], expected[key])
            assert labels[key].shape == expected[key].shape
        assert set(labels) == {"image_info", "gt_boxes", "gt_classes", "proposals"}


def test_evaluation_scales_them_as_the_image(parse):
    proposals = random_boxes(np.random.default_rng(0), 5)
    _, labels = parse(proposals, decoded(proposals[:2]), is_training=False)
    # 50x70 goes into 64x96 as 64x90.
    scale = labels["image_info"][2].numpy()
    np.testing.assert_allclose(scale, [1.28, 1.28], atol=0.01)
    np.testing.assert_allclose(labels["proposals"][:5], proposals * np.tile(scale, 2), rtol=1e-5)
    np.testing.assert_array_equal(labels["proposals"][5:], -np.ones((NUM_INSTANCES - 5, 4)))
    assert "anchor_boxes" not in labels
    assert labels["groundtruths"]["num_detections"] == 2


@pytest.mark.parametrize("is_training", [True, False])
def test_the_best_of_too_many(parse, is_training):
    proposals = random_boxes(np.random.default_rng(0), 9)
    _, labels = parse(proposals, decoded([]), num_proposals=4, is_training=is_training)
    scale = labels["image_info"][2].numpy()
    np.testing.assert_allclose(labels["proposals"], proposals[:4] * np.tile(scale, 2), atol=1e-4)


@pytest.mark.parametrize("is_training", [True, False])
def test_what_is_no_box_in_the_image_becomes_padding(parse, is_training):
    nan, inf = float("nan"), float("inf")
    proposals = [
        [5, 5, 5, 20],
        [20, 5, 10, 30],
        [60, 80, 90, 99],
        [nan, 1, 20, 20],
        [1, 1, 20, inf],
        [10, 10, 20, 30],
    ]
    _, labels = parse(proposals, decoded([]), is_training=is_training)
    scale, right = labels["image_info"][2].numpy(), labels["image_info"][1, 1]
    expected = np.float32(proposals[4:]) * np.tile(scale, 2)
    np.testing.assert_allclose(labels["proposals"][:2], np.minimum(expected, right), atol=1e-4)
    np.testing.assert_array_equal(labels["proposals"][2:], -np.ones((NUM_INSTANCES - 2, 4)))
