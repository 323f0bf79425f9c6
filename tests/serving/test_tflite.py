"""One-stage detectors in TensorFlow Lite, against the exported SavedModel."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import libra_tf
from libra_tf import compat
from libra_tf.cli import image_files
from libra_tf.cli.errors import UsageError
from libra_tf.inference import errors, local
from libra_tf.serving import tflite
from tests.detectors import assert_same, copy_run, encode

NUM_BOXES, NUM_CLASSES = 60, 3
LIMITS = {"num_detections": 20, "score_threshold": 0.3, "iou_threshold": 0.5}

one_stage = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)
two_stage = pytest.mark.parametrize(
    "exported", [pytest.param("fasterrcnn", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(encode(64, 48 + 16 * seed, seed=seed))
    return image_files.find([str(folder)])


@pytest.fixture(scope="module")
def converted_selection():
    function = tf.function(
        lambda boxes, scores: tflite.select_detections(boxes, scores, **LIMITS),
        input_signature=[
            tf.TensorSpec([NUM_BOXES, 4], name="boxes"),
            tf.TensorSpec([NUM_BOXES, NUM_CLASSES], name="scores"),
        ],
    ).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    return compat.tflite_interpreter(converter.convert(), 1).get_signature_runner()


@one_stage
def test_detects_what_the_saved_model_detects(exported, tmp_path):
    path = str(tmp_path / "detector.tflite")
    tflite.export(exported.model_dir, path, report=str)
    detector = local.open_detector(path)
    batch = [encode(64, 64), encode(40, 90, "PNG", seed=1), encode(100, 30, seed=2)]
    batch.append(encode(1, 300))
    expected = local.open_detector(exported.folder).predict(batch)
    assert assert_same(detector.predict(batch), expected) > 10
    with pytest.raises(errors.RefusedError, match="is truncated or damaged") as info:
        detector.predict([*batch, encode(64, 64)[:300]])
    assert list(info.value.problems) == [4]
    with pytest.raises(errors.RefusedError, match=r"has \[64 64\] pixels .* at most 4000 in all"):
        local.open_detector(path, max_pixels=4000).predict(batch[:1])
    own = libra_tf.load(path)
    assert own.class_names == libra_tf.load(exported.folder).class_names
    (tmp_path / "a.png").write_bytes(batch[1])
    found = own.predict(tmp_path / "a.png")
    boxes = detector.predict(batch[1:2])["detection_boxes"][0]
    np.testing.assert_array_equal(found.boxes, boxes[: len(found)])


@pytest.mark.slow
@one_stage
def test_int8_has_8_bit_convolutions_and_close_boxes(exported, images, tmp_path):
    path = str(tmp_path / "detector.tflite")
    tflite.export(exported.model_dir, path, tflite.INT8, images, report=str)
    interpreter = tf.lite.Interpreter(path)
    operations = interpreter._get_ops_details()
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    convolutions = [op for op in operations if op["op_name"] == "CONV_2D"]
    assert len(convolutions) > 20
    assert all(types[op["outputs"][0]] == np.int8 for op in convolutions)
    selection = [op for op in operations if op["op_name"] in ("NON_MAX_SUPPRESSION_V4", "EXP")]
    assert len(selection) > exported.task.task_config.model.num_classes - 1
    for op in selection:
        assert types[op["inputs"][0]] == np.float32
    detector = local.open_detector(path)
    found = 0
    for image in images:
        encoded = image.path.read_bytes()
        one, other = detector.predict([encoded]), exported.serve([encoded])
        for rank in range(3):
            is_same = one["detection_classes"][0] == other["detection_classes"][0, rank]
            errors_of_scores = one["detection_scores"][0] - other["detection_scores"][0, rank]
            errors_of_boxes = one["detection_boxes"][0] - other["detection_boxes"][0, rank]
            is_same &= np.abs(errors_of_scores) < 0.1
            is_same &= np.abs(errors_of_boxes).max(axis=-1) < 5
            found += is_same.any()
    # Random weights: 8 bits can lose a single detection, and which one depends on the processor.
    assert found >= 2 * len(images)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 1))
def test_selection_is_combined_suppression(converted_selection, seed, share_empty):
    """TensorFlow's own operation for classes, which TensorFlow Lite does not have."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, [NUM_BOXES, 2])
    sizes = rng.uniform(5, 60, [NUM_BOXES, 2]) * (rng.uniform(size=[NUM_BOXES, 2]) >= share_empty)
    boxes = np.concatenate([corners, corners + sizes], axis=-1).astype(np.float32)
    scores = rng.uniform(size=[NUM_BOXES, NUM_CLASSES]).astype(np.float32)
    expected = tf.image.combined_non_max_suppression(
        boxes[np.newaxis, :, np.newaxis],
        scores[np.newaxis],
        max_output_size_per_class=LIMITS["num_detections"],
        max_total_size=LIMITS["num_detections"],
        iou_threshold=LIMITS["iou_threshold"],
        score_threshold=LIMITS["score_threshold"],
        clip_boxes=False,
    )
    number = int(expected.valid_detections[0])
    in_tensorflow = tflite.select_detections(tf.constant(boxes), tf.constant(scores), **LIMITS)
    for selected in (in_tensorflow, converted_selection(boxes=boxes, scores=scores)):
        assert selected["num_detections"] == number
        np.testing.assert_array_equal(selected["detection_boxes"], expected.nmsed_boxes)
        np.testing.assert_array_equal(selected["detection_scores"], expected.nmsed_scores)
        np.testing.assert_array_equal(
            selected["detection_classes"][0, :number], expected.nmsed_classes[0, :number] + 1
        )


@two_stage
def test_two_stage_detectors_are_refused(exported, tmp_path):
    with pytest.raises(UsageError, match=r"holds a two-stage detector, .* use libra-tf export"):
        tflite.export(exported.model_dir, str(tmp_path / "detector.tflite"), report=str)


@one_stage
@pytest.mark.parametrize(
    "suppression",
    [
        {"nms_version": "v1", "soft_nms_sigma": 0.5},
        {"nms_version": "v2", "use_class_agnostic_nms": True},
    ],
    ids=str,
)
def test_other_suppressions_are_refused(exported, suppression, tmp_path):
    model_dir = copy_run(exported.model_dir, tmp_path / "run", **suppression)
    key = list(suppression)[1]
    with pytest.raises(UsageError, match=f"{key} is set, but a TensorFlow Lite file can only use"):
        tflite.export(model_dir, str(tmp_path / "detector.tflite"), report=str)


@one_stage
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "--precision=int8 needs images"),
        ({"calibration_images": "GOOD"}, "--precision=float32 uses no images"),
        ({"precision": "int8", "calibration_images": "BAD"}, r"bad\.jpg is not a JPEG or PNG file"),
        ({"path": "detector.bin"}, r"--output=detector\.bin must end in \.tflite"),
        ({"path": "/nowhere/d.tflite"}, "the folder /nowhere does not exist"),
        ({"path": "THERE"}, r"there\.tflite already exists"),
        ({"path": "gs://cells/d.tflite"}, "--output=gs://cells/d.tflite is not on this machine"),
        ({"model_dir": "nowhere"}, r"^nowhere holds no params\.yaml"),
    ],
)
def test_what_cannot_be_converted(exported, images, tmp_path, arguments, message):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    (tmp_path / "there.tflite").write_bytes(b"mine")
    places = {
        "GOOD": images,
        "BAD": image_files.find([str(tmp_path / "bad.jpg")]),
        "THERE": str(tmp_path / "there.tflite"),
    }
    arguments = {
        "model_dir": exported.model_dir,
        "path": str(tmp_path / "detector.tflite"),
        **{name: places.get(value, value) for name, value in arguments.items()},
    }
    with pytest.raises(UsageError, match=message):
        tflite.export(**arguments, report=str)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg", "there.tflite"]
    assert (tmp_path / "there.tflite").read_bytes() == b"mine"
