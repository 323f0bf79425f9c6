import json
import os

import numpy as np
import pytest
import tensorflow as tf
from official.vision.configs import maskrcnn
from PIL import Image

from libra_tf.runner import contact_sheet
from libra_tf.tasks.coco_metric import Detections

pytestmark = pytest.mark.one_lane

EMPTY = Detections(np.zeros([0, 4]), np.zeros([0], int), np.zeros([0]))


def draw(path, dataset, detections, input_path=None, class_names=None):
    assert contact_sheet.draw(
        str(path),
        maskrcnn.DataConfig(input_path=input_path or dataset.val.input_path),
        detections,
        class_names or dataset.class_names,
    )
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def test_only_evaluated_images_are_shown(tiny_shapes, tmp_path):
    three = draw(tmp_path / "three.png", tiny_shapes, {1: EMPTY, 2: EMPTY, 5: EMPTY})
    six = draw(tmp_path / "six.png", tiny_shapes, dict.fromkeys(range(1, 7), EMPTY))
    assert six.shape[0] > 1.5 * three.shape[0]


@pytest.mark.parametrize(("score", "is_drawn"), [(0.9, True), (0.1, False)])
def test_confident_detections_are_drawn(tiny_shapes, tmp_path, score, is_drawn):
    found = Detections(np.array([[8.0, 8, 56, 56]]), np.array([2]), np.array([score]))
    with_detection = draw(tmp_path / "a.png", tiny_shapes, {1: found})
    without = draw(tmp_path / "b.png", tiny_shapes, {1: EMPTY})
    assert bool((with_detection != without).any()) == is_drawn


def test_masks_are_drawn(tiny_shapes, tmp_path):
    """Only those of the detections that are drawn."""
    box, classes = np.array([[8.0, 8, 56, 56]] * 2), np.array([2, 2])
    scores, masks = np.array([0.9, 0.1]), np.zeros([2, 28, 28])
    masks[1] = 1.0
    without = draw(tmp_path / "a.png", tiny_shapes, {1: Detections(box, classes, scores)})
    empty = draw(tmp_path / "b.png", tiny_shapes, {1: Detections(box, classes, scores, masks)})
    np.testing.assert_array_equal(empty, without)
    tinted = draw(
        tmp_path / "c.png", tiny_shapes, {1: Detections(box, classes, scores, masks[::-1])}
    )
    # Three quarters of the side of 300 pixels, squared.
    assert 0.9 < np.count_nonzero((tinted != without).any(axis=-1)) / 225**2 < 1.05


def test_crowds_are_not_drawn(tiny_shapes, tmp_path):
    """They need not be found, and would look like something missed."""
    files = sorted(tf.io.gfile.glob(tiny_shapes.val.input_path))
    example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(files).as_numpy_iterator()))
    feature = example.features.feature
    is_crowd = feature["image/object/is_crowd"].int64_list.value
    image_id = int(feature["image/source_id"].bytes_list.value[0])
    drawn = []
    for value in (0, 1):
        is_crowd[:] = [value] * len(is_crowd)
        path = str(tmp_path / f"{value}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(example.SerializeToString())
        drawn.append(draw(tmp_path / f"{value}.png", tiny_shapes, {image_id: EMPTY}, path))
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize("as_list", [True, False])
def test_files_may_be_named_as_model_garden_reads_them(tiny_shapes, tmp_path, as_list):
    expected = draw(tmp_path / "one.png", tiny_shapes, {1: EMPTY})
    patterns = [tiny_shapes.val.input_path, tiny_shapes.train.input_path]
    input_path = patterns if as_list else ", ".join(patterns)
    named = draw(tmp_path / "two.png", tiny_shapes, {1: EMPTY}, input_path)
    # The images of both splits are numbered from 1.
    assert named.shape == expected.shape and (named != expected).any()


def test_without_an_image_there_is_no_picture(tiny_shapes, tmp_path):
    path = tmp_path / "none.png"
    names = tiny_shapes.class_names
    for input_path, image_id in ((tiny_shapes.val.input_path, 99), (str(tmp_path / "gone*"), 1)):
        data = maskrcnn.DataConfig(input_path=input_path)
        assert not contact_sheet.draw(str(path), data, {image_id: EMPTY}, names)
    assert not path.exists()


def test_compressed_records(tiny_shapes, tmp_path):
    expected = draw(tmp_path / "plain.png", tiny_shapes, {1: EMPTY})
    compressed = str(tmp_path / "compressed.tfrecord")
    with tf.io.TFRecordWriter(compressed, "GZIP") as writer:
        for record in tf.data.TFRecordDataset(tf.io.gfile.glob(tiny_shapes.val.input_path)):
            writer.write(record.numpy())
    data = maskrcnn.DataConfig(input_path=compressed, file_type="tfrecord_compressed")
    path = tmp_path / "compressed.png"
    assert contact_sheet.draw(str(path), data, {1: EMPTY}, tiny_shapes.class_names)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"), int), expected)
    data.file_type = "tfrecord"
    with pytest.raises(tf.errors.DataLossError):
        contact_sheet.draw(str(path), data, {1: EMPTY}, tiny_shapes.class_names)


def test_a_name_is_no_formula(tiny_shapes, tmp_path):
    found = Detections(np.array([[8.0, 8, 56, 56]]), np.array([2]), np.array([0.9]))
    draw(tmp_path / "a.png", tiny_shapes, {1: found}, class_names={2: "$5^$"})


def test_titles_are_file_names(tiny_shapes, tmp_path, monkeypatch):
    titles, shorten = [], contact_sheet.drawing.shorten
    monkeypatch.setattr(
        contact_sheet.drawing, "shorten", lambda *args: titles.append(args[0]) or shorten(*args)
    )
    with open(tiny_shapes.val.annotation_file) as file:
        images = json.load(file)["images"]
    names = {image["id"]: os.path.basename(image["file_name"]) for image in images}
    draw(tmp_path / "a.png", tiny_shapes, dict.fromkeys([1, 5], EMPTY))
    assert titles == [names[1], names[5]]


def test_a_record_without_a_file_name_is_numbered(tiny_shapes):
    record = next(iter(tf.data.TFRecordDataset(tf.io.gfile.glob(tiny_shapes.val.input_path))))
    example = tf.train.Example.FromString(record.numpy())
    del example.features.feature["image/filename"]
    assert contact_sheet._title(tf.constant(example.SerializeToString()), 7) == "image 7"
