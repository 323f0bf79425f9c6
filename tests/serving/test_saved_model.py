"""The exported folder: what is in it, and what it answers."""

import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from libra_tf.cli.errors import UsageError
from libra_tf.inference import local
from libra_tf.runs import trained_run
from libra_tf.serving import images, saved_model, warmup
from tests.detectors import assert_same, assert_same_detections, copy_run, encode, load
from tests.inference.server import Version

only_retinanet = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)


def test_detections_are_those_of_the_evaluation(exported, val_images):
    task, model = exported.task, exported.model
    metrics = task.build_metrics(training=False)
    step = tf.function(lambda inputs: task.validation_step(inputs, model, metrics))
    state = None
    for inputs in task.build_inputs(task.task_config.validation_data):
        state = task.aggregate_logs(state, step(inputs))
    task.reduce_aggregated_logs(state)
    evaluated = task.coco_metric.detections
    assert sorted(evaluated) == sorted(val_images)
    total = compared = 0
    for image_id, encoded in val_images.items():
        served = {name: value[0] for name, value in exported.serve([encoded]).items()}
        expected = evaluated[image_id]
        total += served["num_detections"]
        compared += assert_same_detections(
            [served[f"detection_{name}"] for name in ("boxes", "scores", "classes")],
            [expected.boxes, expected.scores, expected.classes],
        )
    assert total > 20
    assert compared > 20


@pytest.mark.one_lane
def test_a_batch_of_any_sizes_gives_what_each_image_gives(exported):
    files = [encode(64, 64), encode(40, 90, "PNG", seed=1), encode(100, 30, seed=2)]
    files += [encode(50, 50, mode="L", seed=3), encode(1, 300)]
    batch = exported.serve(files)
    assert batch["image_size"].tolist() == [[64, 64], [40, 90], [100, 30], [50, 50], [1, 300]]
    assert batch["num_detections"].sum() > 10
    compared = 0
    for i, file in enumerate(files):
        single = exported.serve([file])
        compared += assert_same({name: value[i : i + 1] for name, value in batch.items()}, single)
    assert compared > 10


def test_all_signatures_answer_alike(exported):
    file = encode(48, 80, "PNG")
    expected = exported.serve([file])
    signatures = tf.saved_model.load(exported.folder).signatures
    pixels = tf.io.decode_png(file, channels=3)[tf.newaxis]
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    examples = tf.constant([example.SerializeToString()])
    for outputs in (
        signatures["serving_image_tensor"](image_tensor=pixels),
        signatures["serving_tf_example"](examples=examples),
    ):
        assert assert_same({name: value.numpy() for name, value in outputs.items()}, expected) > 2


def assert_rows_behind_the_detections_are_empty(outputs):
    """Checks the outputs for one image."""
    (num,) = outputs["num_detections"]
    assert 0 < num < 50
    for name in ("detection_boxes", "detection_scores", "detection_classes"):
        assert outputs[name].shape[1] == 50
        assert not outputs[name][0, num:].any()
    assert set(outputs["detection_class_names"][0, num:]) <= {b""}
    names = {0: b"", 1: b"circle", 2: b"square", 3: b"triangle", 4: b"star"}
    expected = [names[category] for category in outputs["detection_classes"][0]]
    assert outputs["detection_class_names"][0].tolist() == expected


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"", "is not a JPEG or PNG file"),
        (b"GIF89a" + b"\0" * 100, "is not a JPEG or PNG file"),
        (encode(64, 64)[:300], "is truncated or damaged"),
        (encode(64, 64)[:4], "is truncated or damaged"),
        (encode(64, 64, "PNG")[:60], "is truncated or damaged"),
        (b"\x89PNG\r\n\x1a\n", "is truncated or damaged"),
        (encode(101, 100), r"has \[101 100\] pixels"),
        (encode(50, 300, "PNG"), r"has \[50 300\] pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_image_is_named(exported, bad, why):
    files = [encode(64, 64), bad, encode(20, 20)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"image 1 of the batch {why}") as info:
        exported.serve(files)
    assert "image 0" not in str(info.value) and "image 2" not in str(info.value)


def test_every_bad_image_of_a_batch_is_named(exported):
    message = "image 0 of the batch is not a JPEG or PNG file; image 2 of the batch is truncated"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        exported.serve([b"text", encode(9, 9), encode(64, 64)[:300]])


@pytest.mark.one_lane
def test_what_the_folder_holds(exported):
    folder = pathlib.Path(exported.folder)
    assert folder.name == "1"
    names = json.loads((folder / "assets/class_names.json").read_text())
    assert names == {"1": "circle", "2": "square", "3": "triangle", "4": "star"}
    thresholds = json.loads((folder / "assets/thresholds.json").read_text())
    expected = {"score_threshold": 0.05, "nms_iou_threshold": 0.5, "max_detections": 50}
    assert thresholds == {**expected, "normalized_boxes": False, "precision": "float32"}
    signatures = tf.saved_model.load(str(folder)).signatures
    requests = tf.data.TFRecordDataset(str(folder / warmup.PATH))
    warmed_up = []
    for record in requests:
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        signatures[request.model_spec.signature_name](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        warmed_up.append(request.model_spec.signature_name)
    assert sorted(warmed_up) == sorted(signatures)


@pytest.mark.one_lane
def test_no_python_in_the_graph(exported):
    graph = _meta_graph(exported.folder).graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert not [node.op for node in nodes if "Py" in node.op]


def _meta_graph(folder):
    document = saved_model_pb2.SavedModel()
    document.ParseFromString(pathlib.Path(folder, "saved_model.pb").read_bytes())
    (meta_graph,) = document.meta_graphs
    return meta_graph


@pytest.mark.slow
@only_retinanet
def test_the_next_version_with_a_threshold_and_in_shares(exported):
    file = encode(48, 80)
    expected = exported.serve([file])
    scores = expected["detection_scores"][0, : expected["num_detections"][0]]
    # In the widest gap, where rounding decides nothing.
    num = int(np.argmax(scores[:-1] - scores[1:])) + 1
    threshold = float(scores[num - 1] + scores[num]) / 2
    served = pathlib.Path(exported.folder).parent
    path = saved_model.export(
        exported.model_dir,
        str(served),
        normalized_boxes=True,
        score_threshold=threshold,
        # Fewer than the network's input has.
        max_pixels=4000,
        report=str,
    )
    assert path == str(served / "2")
    assert sorted(os.listdir(served)) == ["1", "2"]
    # Runs the warm-up requests, which must not be refused.
    Version(path).close()
    outputs = load(path)([file])
    assert outputs["num_detections"] == [num]
    assert_rows_behind_the_detections_are_empty(outputs)
    np.testing.assert_allclose(
        outputs["detection_boxes"][0, :num] * [48, 80, 48, 80],
        expected["detection_boxes"][0, :num],
        atol=1e-3,
    )


@pytest.mark.slow
@pytest.mark.one_lane
def test_an_export_in_bfloat16(exported, tmp_path):
    said = []
    path = saved_model.export(
        exported.model_dir, str(tmp_path), asked_precision="bfloat16", report=said.append
    )
    assert "the network computes in bfloat16" in said[0]
    assert json.loads(pathlib.Path(path, "assets/thresholds.json").read_text())["precision"] == (
        "bfloat16"
    )
    graph = _meta_graph(path).graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    convolutions = [node for node in nodes if node.op == "Conv2D"]
    assert convolutions
    assert {node.attr["T"].type for node in convolutions} == {tf.bfloat16.as_datatype_enum}
    suppressions = [node for node in nodes if node.op == "CombinedNonMaxSuppression"]
    assert len(suppressions) >= 3  # One for each signature.
    # The weights are stored once, in float32.
    stored, wide = (
        tf.train.load_checkpoint(f"{folder}/variables/variables")
        for folder in (path, exported.folder)
    )
    assert stored.get_variable_to_shape_map() == wide.get_variable_to_shape_map()
    dtypes = stored.get_variable_to_dtype_map()
    weights = [name for name in dtypes if name.startswith("model/")]
    assert len(weights) > 100
    assert {dtypes[name] for name in weights} == {tf.float32}
    assert all((stored.get_tensor(name) == wide.get_tensor(name)).all() for name in weights)

    file = encode(64, 64)
    outputs, expected = load(path)([file]), exported.serve([file])
    assert outputs["num_detections"][0] > 5
    for name in ("detection_boxes", "detection_scores"):
        assert outputs[name].dtype == np.float32
    # Half of the last place that bfloat16 has, through a few layers.
    np.testing.assert_allclose(
        outputs["detection_scores"][0, :5], expected["detection_scores"][0, :5], atol=0.05
    )
    assert (outputs["detection_scores"] != expected["detection_scores"]).any()


@pytest.mark.one_lane
@only_retinanet
@pytest.mark.slow
def test_class_agnostic_suppression_is_that_of_the_evaluation(exported, tmp_path):
    suppression = {"nms_version": "v2", "use_class_agnostic_nms": True}
    model_dir = copy_run(exported.model_dir, tmp_path / "run", **suppression)
    file = encode(64, 64)
    image, _ = images.decode(tf.constant(file))
    pixels, image_info = images.letterbox(image, [64, 64], [64, 64])
    model = trained_run.read(model_dir).load_model()
    expected = model(pixels[tf.newaxis], image_shape=image_info[tf.newaxis, 1], training=False)
    outputs = local.open_detector(model_dir).predict([file])
    assert outputs["num_detections"] == expected["num_detections"] > 0
    names = ("detection_boxes", "detection_scores", "detection_classes")
    compared = assert_same_detections(
        [outputs[name][0] for name in names], [expected[name][0].numpy() for name in names]
    )
    assert compared > 2
    assert (outputs["detection_scores"] != exported.serve([file])["detection_scores"]).any()


@pytest.mark.one_lane
def test_soft_suppression_is_refused(exported, tmp_path):
    suppression = {"nms_version": "v1", "soft_nms_sigma": 0.5}
    model_dir = copy_run(exported.model_dir, tmp_path / "run", **suppression)
    with pytest.raises(UsageError, match="soft_nms_sigma is set, and Model Garden's soft NMS"):
        saved_model.export(model_dir, str(tmp_path / "served"), report=str)
    assert not (tmp_path / "served").exists()


@pytest.mark.one_lane
def test_exports_at_once_take_different_numbers(tmp_path, monkeypatch):
    next_version = saved_model._next_version

    def overtaken(parent):
        """Finds the next number, which another export takes at once."""
        number = next_version(parent)
        if number < 3:
            (parent / str(number)).mkdir()
            (parent / str(number) / "saved_model.pb").touch()
        return number

    monkeypatch.setattr(saved_model, "_next_version", overtaken)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/mine").touch()
    assert saved_model._publish(tmp_path / "unfinished", tmp_path) == tmp_path / "3"
    assert os.listdir(tmp_path / "3") == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "3"]


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "ckpt-9"}, r"--checkpoint=ckpt-9: .*ckpt-9 does not exist"),
        ({"model_dir": "nowhere"}, r"^nowhere holds no params\.yaml"),
        ({"export_dir": "/proc/served"}, r"--export_dir=/proc/served cannot be created"),
        ({"export_dir": "gs://served"}, r"--export_dir=gs://served is not on this machine"),
    ],
)
def test_what_cannot_be_exported(exported, tmp_path, change, message):
    arguments = {"model_dir": exported.model_dir, "export_dir": str(tmp_path / "served"), **change}
    with pytest.raises(UsageError, match=message):
        saved_model.export(**arguments, report=str)
    assert not list(tmp_path.iterdir())
