import pathlib
import re

import pytest
import tensorflow as tf
import yaml
from absl import flags
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import UsageError
from libra_tf.data import DatasetError, DetectionDataset, Split, shapes
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.runner import cluster, input_data, session
from libra_tf.runner.options import Options
from libra_tf.runs.folder import RunFolder

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.one_lane


@pytest.mark.parametrize("name", ["train_data", "validation_data"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_that_does_not_divide_over_the_replicas(name, batch_size, two_devices):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    session._check_divides(params, "train_and_eval", two_devices)
    getattr(params.task, name).global_batch_size = batch_size
    uses, ignores = ("train", "eval") if name == "train_data" else ("eval", "train")
    session._check_divides(params, ignores, two_devices)
    for mode in (uses, "train_and_eval"):
        message = rf"task\.{name}\.global_batch_size is {batch_size}.*of 2"
        with pytest.raises(UsageError, match=message):
            session._check_divides(params, mode, two_devices)


def test_a_checkpoint_that_cannot_be_read_now_is_not_set_aside(tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), max_to_keep=2)
    path = manager.save()

    def fail(_):
        raise tf.errors.PermissionDeniedError(None, None, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(tf.train, "load_checkpoint", fail)
        with pytest.raises(UsageError, match=r"ckpt-1 cannot be read \(.*not now\)"):
            folder.set_damaged_checkpoints_aside(report=str)
        with pytest.raises(CheckpointError, match=r"ckpt-1 cannot be read \(.*not now\)"):
            checkpoint_files.check(path)
    assert folder.latest_checkpoint() == path
    for data in tmp_path.glob("*.data*"):
        data.unlink()
    folder.set_damaged_checkpoints_aside(report=str)
    assert folder.latest_checkpoint() is None


def test_a_run_whose_checkpoints_are_damaged_is_trained_again_but_not_evaluated(tmp_path):
    folder, lines = RunFolder(str(tmp_path)), []
    path = tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), max_to_keep=2).save()
    (data,) = tmp_path.glob("*.data*")
    data.write_bytes(b"")
    with pytest.raises(UsageError, match="holds no checkpoint that can be read"):
        session._set_damaged_checkpoints_aside(folder, "eval", None, lines.append)
    (line,) = lines
    assert line.startswith(f"checkpoint {path} is damaged (") and "none takes its place" in line
    for mode, checkpoint in (("train", None), ("eval", "/elsewhere/ckpt-9")):
        session._set_damaged_checkpoints_aside(folder, mode, checkpoint, lines.append)


@pytest.mark.parametrize("num_gpus", [0, 2])
def test_one_device_is_a_gpu_if_there_is_one(monkeypatch, num_gpus):
    asked = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * num_gpus)
    monkeypatch.setattr(
        cluster.distribute_utils, "get_distribution_strategy", lambda **kwargs: asked.update(kwargs)
    )
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.runtime.distribution_strategy = "one_device"
    cluster.build_strategy(params, "train")
    assert asked["num_gpus"] == min(num_gpus, 1)


def test_averages_of_the_weights_need_a_strategy():
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    # As YAML reads an unquoted `off`.
    params.override({"runtime": {"distribution_strategy": False}})
    cluster.build_strategy(params, "train")
    params.override({"trainer": {"optimizer_config": {"ema": {"average_decay": 0.9}}}})
    with pytest.raises(UsageError, match=r"distribution_strategy is off, but averages.*one_device"):
        cluster.build_strategy(params, "train")


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker_mirrored"])
def test_xla_needs_one_device_or_a_gpu(monkeypatch, strategy):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}, "task": {}}')
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.override({"runtime": {"enable_xla": True, "distribution_strategy": strategy}})
    with pytest.raises(UsageError, match=r"enable_xla is true, but.*one_device"):
        cluster.build_strategy(params, "train")
    params.override({"runtime": {"distribution_strategy": "one_device"}})
    cluster.build_strategy(params, "train")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/mmdetection").glob("*.yaml")), ids=str)
def test_mmdetections_recipes_run_on_several_devices(path, two_devices):
    """The commands in the headers, with two devices instead of eight."""
    text = path.read_text()
    experiment = re.search(r"--experiment=(\w+)", text)[1]
    params = exp_factory.get_exp_config(experiment)
    params.override(yaml.safe_load(text))
    session._check_divides(params, "train", two_devices)
    one_device = tf.distribute.OneDeviceStrategy("/cpu:0")
    session._check_divides(params, "train_and_eval", one_device)
    for mode in ("eval", "train_and_eval"):
        with pytest.raises(UsageError, match="one at a time, but there are 2 replicas"):
            session._check_divides(params, mode, two_devices)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ({}, "task.frozen_stages=null,task.model.backbone.resnet.bn_trainable=true"),
        ({"frozen_stages": None}, "=task.model.backbone.resnet.bn_trainable=true"),
        ({"model": {"backbone": {"resnet": {"bn_trainable": True}}}}, "=task.frozen_stages=null"),
    ],
)
def test_what_is_random_is_not_frozen(overrides, keys, tmp_path):
    params = exp_factory.get_exp_config("libra_retinanet_resnetfpn_coco")
    params.task.override({"init_checkpoint": None, **overrides})
    with pytest.raises(UsageError, match=rf"init_checkpoint is not set.*{keys}"):
        session._check_init_checkpoint(params, RunFolder(str(tmp_path)), "train")
    session._check_init_checkpoint(params, RunFolder(str(tmp_path)), "eval")
    keys = {"frozen_stages": None, "model": {"backbone": {"resnet": {"bn_trainable": True}}}}
    params.task.override(keys)
    session._check_init_checkpoint(params, RunFolder(str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("model", "modules", "message"),
    [
        ({}, "backbone", "there are no ImageNet weights for the backbone resnet 50"),
        (
            {"backbone": {"type": "efficientnet"}},
            "backbone",
            "the weights of efficientnet b0 were trained with the activation relu6",
        ),
        ({}, "decoder", "imagenet has weights for the backbone alone"),
    ],
)
def test_imagenet_weights_are_checked_before_any_work(model, modules, message, tmp_path):
    params = exp_factory.get_exp_config("libra_retinanet_resnetfpn_coco")
    params.task.override({"init_checkpoint": "imagenet", "model": model})
    params.task.init_checkpoint_modules = modules
    with pytest.raises(UsageError, match=rf"^task\.init_checkpoint: {message}"):
        session._check_init_checkpoint(params, RunFolder(str(tmp_path)), "train")


def test_the_folder_of_the_run_is_checked_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    folder = RunFolder(str(tmp_path / "file/run"))
    with pytest.raises(UsageError, match=r"--model_dir=.*file/run: .*file is not a folder"):
        session._prepare("libra_retinanet_demo", folder, Options(mode="train"), report=str)


@pytest.fixture
def data_flags(tmp_path, monkeypatch):
    """The flags for the data; the shapes are few."""
    monkeypatch.setattr(input_data, "DEMO_SHAPES", {"num_train": 2, "num_val": 2, "image_size": 64})
    values = flags.FlagValues()
    flags.DEFINE_string("dataset", None, "", flag_values=values)
    flags.DEFINE_string("cache_dir", str(tmp_path), "", flag_values=values)
    flags.DEFINE_float("val_share", None, "", flag_values=values)
    values(["test"])
    return values


def test_a_cache_with_shapes_drawn_in_another_way_is_no_hindrance(data_flags, monkeypatch):
    before = input_data.prepare("libra_fasterrcnn_demo", data_flags, report=str)
    monkeypatch.setattr(shapes, "_DRAWING_VERSION", shapes._DRAWING_VERSION + 1)
    after = input_data.prepare("libra_fasterrcnn_demo", data_flags, report=str)
    assert before.folder != after.folder


def test_the_images_to_evaluate_a_run_on(tiny_shapes, tmp_path):
    values = flags.FlagValues()
    flags.DEFINE_string("dataset", None, "", flag_values=values)
    cache = pathlib.Path(tiny_shapes.folder).parent / "cache"
    flags.DEFINE_string("cache_dir", str(cache), "", flag_values=values)
    flags.DEFINE_float("val_share", None, "", flag_values=values)
    values(["test"])
    folder = RunFolder(str(tmp_path / "run"))
    params = exp_factory.get_exp_config("libra_retinanet_demo")

    def prepared(*named):
        return input_data.prepare_of_run(folder, values, named, report=str)

    assert prepared() is None
    folder.write_config("libra_retinanet_demo", params, {}, tiny_shapes.folder)
    assert prepared() == tiny_shapes
    assert prepared("task.validation_data.input_path") is None
    for not_a_folder in (str(tmp_path / "gone"), "coco/train*"):
        folder.write_config("libra_retinanet_demo", params, {}, not_a_folder)
        assert prepared() is None
    values.dataset = tiny_shapes.folder
    assert prepared() == tiny_shapes
    values.dataset = str(tmp_path / "gone")
    with pytest.raises(DatasetError):
        prepared()


@pytest.mark.parametrize(
    ("names", "said"), [({1: "a"}, "6 images, 1 class: a;"), ({1: "a", 2: "b"}, "2 classes: a, b;")]
)
def test_the_number_of_classes(names, said, tmp_path):
    split = Split("t*", "t.json", 6, 6, 1)
    dataset = DetectionDataset("cells", names, 3, split, split, ())
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    assert said in session._announcement("demo", params, dataset, RunFolder(str(tmp_path)))


def test_epochs_are_left_out_where_repeated_images_lengthen_them(tmp_path):
    split = Split("t*", "t.json", 6, 6, 1)
    dataset = DetectionDataset("cells", {1: "a"}, 2, split, split, ())
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    said = []
    for threshold in (0.0, 0.5):
        params.task.train_data.repeat_threshold = threshold
        said.append(session._announcement("demo", params, dataset, RunFolder(str(tmp_path))))
    assert "600.0 epochs of 6 images), evaluation" in said[0]
    assert "epochs of" not in said[1] and "(6 images), evaluation" in said[1]


def test_a_detector_of_masks_needs_a_folder_with_masks(data_flags):
    boxes = input_data.prepare("libra_fasterrcnn_demo", data_flags, report=str)
    masks = input_data.prepare("libra_maskrcnn_demo", data_flags, report=str, with_masks=True)
    assert masks.train.num_masks == masks.train.num_boxes == boxes.train.num_boxes > 0
    data_flags.dataset = boxes.folder
    for experiment, instead in {
        "libra_maskrcnn_small": "--experiment=libra_fasterrcnn_small",
        "libra_cascadercnn_resnetfpn_coco": "task.model.include_mask=false",
    }.items():
        message = f"{boxes.folder} has no segmentations, and {experiment} needs them: .*{instead}"
        with pytest.raises(DatasetError, match=message):
            input_data.prepare(experiment, data_flags, report=str, with_masks=True)


def test_class_names_of_annotations_that_are_not_coco(tmp_path):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.task.annotation_file = str(tmp_path / "other.json")
    assert session._class_names(params, dataset=None) == {}
    (tmp_path / "other.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match=r"other\.json is not a COCO annotation file"):
        session._class_names(params, dataset=None)


@pytest.mark.parametrize(
    "write", [lambda *p: ", ".join(p), lambda *p: list(p), lambda *p: [",".join(p)]]
)
def test_files_are_named_as_model_garden_reads_them(write, tmp_path):
    (tmp_path / "val-0").touch()
    (tmp_path / "more[1]").touch()
    here, gone = str(tmp_path / "val-*"), str(tmp_path / "gone-*")
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.task.validation_data.input_path = write(here, str(tmp_path / "more[1]"))
    input_data.check_files(params, "eval")
    params.task.validation_data.input_path = write(here, gone)
    with pytest.raises(UsageError, match=r"task\.validation_data\.input_path is .*no such files"):
        input_data.check_files(params, "eval")


def test_no_files():
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    with pytest.raises(UsageError, match=r"task\.train_data\.input_path is ''"):
        input_data.check_files(params, "train")
