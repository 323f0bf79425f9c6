"""Training images as MMDetection has them: sides, batches, objects and the targets of anchors."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory
from official.vision.ops import box_ops

from libra_tf.compat import keras
from libra_tf.dataloaders import mmdetection_input, orientation
from tests import mmdetection

pytestmark = pytest.mark.one_lane

KINDS = ("retinanet", "fasterrcnn")
NUM_BATCHES = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return mmdetection.prepare(tmp_path_factory.mktemp("orientations"))


def parse(**kwargs):
    """An image of 51x83 with three objects, as a parser of two stages prepares it."""
    parser = mmdetection_input.MaskRCNNParser(
        output_size=[64, 96],
        min_level=2,
        max_level=6,
        num_scales=1,
        aspect_ratios=[1.0],
        anchor_size=4.0,
        **kwargs,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (51, 83, 3), dtype=np.uint8)
    boxes = [[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.5, 0.1, 0.9, 0.4]]
    data = {
        "image": tf.constant(pixels),
        "groundtruth_boxes": tf.constant(boxes),
        "groundtruth_classes": tf.constant([1, 2, 3]),
        "groundtruth_is_crowd": tf.zeros([3], tf.bool),
    }
    return parser._parse_train_data(data)


def test_images_are_flipped_after_they_are_resized(monkeypatch):
    image, labels = parse()
    monkeypatch.setattr(tf.random, "uniform", lambda *args, **kwargs: tf.constant(0.0))
    flipped, of_flipped = parse(aug_rand_hflip=True)
    height, width = labels["image_info"][1].numpy().astype(int)
    np.testing.assert_array_equal(flipped[:height, :width], image[:height, :width][:, ::-1])
    expected = width - labels["gt_boxes"][:3].numpy()[:, [3, 1]]
    np.testing.assert_allclose(of_flipped["gt_boxes"][:3].numpy()[:, [1, 3]], expected, rtol=1e-5)


def test_anchors_learn_objects_beyond_those_that_are_kept():
    _, expected = parse(max_num_instances=3)
    _, labels = parse(max_num_instances=1)
    assert len(labels["gt_boxes"]) == len(labels["gt_classes"]) == 1
    for level, targets in expected["rpn_score_targets"].items():
        np.testing.assert_array_equal(labels["rpn_score_targets"][level], targets)


def read(kind, dataset, first_step=None, num_batches=NUM_BATCHES):
    params = mmdetection.configure(kind, dataset)
    keras.utils.set_random_seed(3)
    task = task_factory.get_task(params.task)
    task.first_step = first_step
    batches = task.build_inputs(params.task.train_data).take(num_batches)
    return list(batches.as_numpy_iterator())


@pytest.fixture(
    scope="module", params=["retinanet", pytest.param("fasterrcnn", marks=pytest.mark.slow)]
)
def batches(request, dataset):
    return request.param, read(request.param, dataset)


def test_batches_have_one_orientation(batches):
    seen, shapes = set(), set()
    for images, labels in batches[1]:
        sizes = [tuple(info[0].astype(int)) for info in labels["image_info"]]
        assert len(sizes) == 2
        assert set(sizes) <= set(mmdetection.LANDSCAPE) or set(sizes) <= set(mmdetection.PORTRAIT)
        shapes.add(images.shape[1:3])
        seen.update(sizes)
    assert shapes == mmdetection.SHAPES
    assert seen == {*mmdetection.LANDSCAPE, *mmdetection.PORTRAIT}


def test_objects_are_scaled_and_flipped_with_their_image(batches):
    flips = set()
    for images, labels in batches[1]:
        for index, (original, resized, scale, _) in enumerate(labels["image_info"]):
            limit = min(64 / min(original), 96 / max(original))
            np.testing.assert_array_equal(resized, (original * limit + 0.5).astype(int))
            rows = np.array(mmdetection.boxes_of(original.astype(int).tolist())[0][:3], np.float32)
            expected = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
            expected *= np.tile(scale[::-1], 2)
            flipped = expected.copy()
            flipped[:, [0, 2]] = resized[1] - expected[:, [2, 0]]
            found = labels["gt_boxes"][index][:, [1, 0, 3, 2]]
            is_object = labels["gt_classes"][index] > 0
            assert is_object.sum() == 3
            is_flipped = not np.allclose(found[is_object], expected, atol=1e-3)
            np.testing.assert_allclose(
                found[is_object], flipped if is_flipped else expected, atol=1e-3
            )
            flips.add(is_flipped)
            height, width = resized.astype(int)
            assert not images[index, height:].any() and not images[index, :, width:].any()
            assert images[index, :height, :width].any(axis=-1).mean() > 0.9
    assert flips == {True, False}


def flat(levels, size):
    return np.concatenate([levels[x].reshape(len(levels[x]), -1, size) for x in sorted(levels)], 1)


def test_positive_anchors_encode_an_object(batches):
    kind, rows = batches
    number = 0
    for _, labels in rows:
        anchors = flat(labels["anchor_boxes"], 4)
        if kind == "retinanet":
            is_positive = labels["box_weights"] > 0
            classes = flat(labels["cls_targets"], 1)[..., 0]
            assert (labels["cls_weights"][is_positive] == 1).all()
            np.testing.assert_array_equal(classes > 0, is_positive)
            targets = flat(labels["box_targets"], 4)
        else:
            is_positive = flat(labels["rpn_score_targets"], 1)[..., 0] == 1
            targets = flat(labels["rpn_box_targets"], 4)
        decoded = box_ops.decode_boxes(tf.constant(targets), tf.constant(anchors)).numpy()
        for index in range(len(anchors)):
            distances = np.abs(decoded[index][is_positive[index], None] - labels["gt_boxes"][index])
            assert (distances.max(axis=-1).min(axis=-1) < 1e-2).all()
            number += is_positive[index].sum()
    assert number > 50


def test_rpn_samples_at_most_five_negatives_for_each_positive(dataset):
    for _, labels in read("fasterrcnn", dataset):
        for targets in flat(labels["rpn_score_targets"], 1)[..., 0]:
            positives, negatives = np.sum(targets == 1), np.sum(targets == 0)
            assert positives <= 128
            assert negatives == min(256 - positives, 5 * max(positives, 1))


def record(height, width, xmin, labels):
    features = {
        "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[height])),
        "image/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[width])),
        "image/object/bbox/xmin": tf.train.Feature(float_list=tf.train.FloatList(value=xmin)),
        "image/object/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_objects_are_counted_by_their_boxes(monkeypatch):
    monkeypatch.setattr(orientation, "_MAX_LEFT_OUT", 3)
    # Model Garden can take the class from its name, so a record needs no number of it.
    trained, other = record(40, 50, [0.5], []), record(40, 50, [], [1])
    records = tf.data.Dataset.from_tensor_slices([other, trained, other, other, trained])
    assert list(orientation.arrange(records, 1).as_numpy_iterator()) == [trained, trained]


@pytest.mark.parametrize("left_out", [record(20, 50, [0.5], [1]), record(40, 50, [], [])])
def test_data_without_an_image_to_train_on_end_with_a_message(monkeypatch, left_out):
    monkeypatch.setattr(orientation, "_MAX_LEFT_OUT", 3)
    records = tf.data.Dataset.from_tensors(left_out).repeat()
    with pytest.raises(tf.errors.InvalidArgumentError, match="have no image to train on"):
        next(iter(orientation.arrange(records, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_later_start_delivers_the_rest(dataset, kind):
    tf.config.experimental.enable_op_determinism()
    try:
        whole, rest = read(kind, dataset, 0, 6), read(kind, dataset, 4, 2)
    finally:
        from tensorflow.python.framework import config as tf_config

        tf_config.disable_op_determinism()
    for expected, found in itertools.zip_longest(whole[4:], rest):
        for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
            np.testing.assert_array_equal(one, other)
