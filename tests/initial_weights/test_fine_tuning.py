"""Detectors that start from the weights of others."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory, train_lib
from official.vision.modeling.backbones import resnet
from tensorflow.core.protobuf import trackable_object_graph_pb2

import libra_tf.registry_imports  # noqa: F401
from libra_tf.compat import keras
from libra_tf.initial_weights import fine_tuning
from libra_tf.initial_weights.checkpoint_files import CheckpointError

# tests/runner/test_run.py has the quick ones.
pytestmark = pytest.mark.slow

SMALL = {
    "input_size": [128, 128, 3],
    "num_classes": 5,
    "backbone": {"resnet": {"model_id": 18, "depth_multiplier": 0.125}},
}
HEADS = {
    "retinanet": {"head": {"num_convs": 1, "num_filters": 8}},
    "fasterrcnn": {
        "rpn_head": {"num_filters": 8},
        "detection_head": {"num_convs": 1, "num_filters": 8, "num_fcs": 1, "fc_dims": 16},
    },
}
HEADS["maskrcnn"] = {**HEADS["fasterrcnn"], "mask_head": {"num_convs": 1, "num_filters": 8}}
HEADS["cascadercnn"] = HEADS["fasterrcnn"]
CLASS_LAYERS = {
    "retinanet": {"head/scores"},
    "fasterrcnn": {"detection_head/detection-scores", "detection_head/detection-boxes"},
    "maskrcnn": {
        "detection_head/detection-scores",
        "detection_head/detection-boxes",
        "mask_head/mask-logits",
    },
    # Its boxes are those of any class.
    "cascadercnn": {f"detection_head[{stage}]/detection-scores" for stage in range(3)},
}
BALANCED = "decoder/balanced_feature_pyramid/refine"


def make_task(detector, plain=False, **model):
    """Returns a small Libra task, or Model Garden's own."""
    config = exp_factory.get_exp_config(f"{'' if plain else 'libra_'}{detector}_resnetfpn_coco")
    config.task.override({"model": SMALL})
    config.task.override({"model": HEADS[detector]})
    for decoder in ("fpn",) if plain else ("fpn", "libra_fpn"):
        getattr(config.task.model.decoder, decoder).num_filters = 8
    config.task.init_checkpoint = None
    config.task.annotation_file = None
    config.task.override({"model": model})
    return task_factory.get_task(config.task)


def make_model(*args, seed=0, **kwargs):
    """Returns a detector whose weights are all random, those that start with zeros included."""
    model = make_task(*args, **kwargs).build_model()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def save(model, folder):
    """Saves a detector as Model Garden's trainer does."""
    checkpoint = tf.train.Checkpoint(
        model=model, global_step=tf.Variable(7), **model.checkpoint_items
    )
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1).save()


def parts(model):
    items = dict(model.checkpoint_items)
    stages = items.pop("detection_head", [])
    names = ["detection_head" + f"[{i}]" * (len(stages) > 1) for i in range(len(stages))]
    return {**items, **dict(zip(names, stages, strict=True))}


def own_weights(layer):
    inner = {weight.ref() for sublayer in layer.submodules for weight in weights_of(sublayer)}
    return [weight for weight in weights_of(layer) if weight.ref() not in inner]


def weights_of(layer):
    return getattr(layer, "weights", [])


def values(model):
    """The weights by the name of their layer, those of the backbone by its number."""
    named = {}
    for part, module in parts(model).items():
        for index, layer in enumerate(module.submodules):
            for weight in own_weights(layer):
                layer_name, own_name = weight.name.split(":")[0].split("/")[-2:]
                if part == "backbone":
                    layer_name = str(index)
                elif layer_name == "refine":
                    layer_name = "balanced_feature_pyramid/refine"
                named[f"{part}/{layer_name}/{own_name}"] = weight.numpy()
    assert len(named) == len(model.weights)
    return named


def layers_of(names):
    return {name.rsplit("/", 1)[0] for name in names}


def assert_loaded(model, before, source, report):
    """Checks each weight: the source's where the report says so, the initial one elsewhere."""
    expected = values(source)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, (before if name in report.kept else expected)[name])
    assert len(report.loaded) + len(report.kept) == len(model.weights)


def fine_tune(model, source, folder, **kwargs):
    before = values(model)
    report = fine_tuning.load(model, save(source, folder), **kwargs)
    assert_loaded(model, before, source, report)
    return report


@pytest.fixture(scope="module")
def libra():
    """For each detector a Libra one with random weights."""
    return {detector: make_model(detector) for detector in HEADS}


@pytest.mark.parametrize("detector", ["retinanet", "fasterrcnn", "cascadercnn"])
def test_all_of_the_same_detector(detector, libra, tmp_path):
    report = fine_tune(make_model(detector, seed=1), libra[detector], tmp_path)
    assert not report.kept and not report.unused
    assert report.summary().endswith(f"{len(report.loaded)} of {len(report.loaded)} weights loaded")


@pytest.mark.parametrize("detector", HEADS)
def test_all_but_the_class_layers_of_other_classes(detector, libra, tmp_path):
    model = make_model(detector, seed=1, num_classes=3)
    report = fine_tune(model, libra[detector], tmp_path)
    assert layers_of(report.kept) == CLASS_LAYERS[detector]
    assert all(" in the checkpoint, [" in reason for reason in report.kept.values())
    assert not report.unused
    for layer in CLASS_LAYERS[detector]:
        assert layer in report.summary()


@pytest.mark.parametrize("detector", ["retinanet", "fasterrcnn"])
def test_model_garden_into_libra_and_back(detector, libra, tmp_path):
    plain = make_model(detector, plain=True, seed=1)
    report = fine_tune(make_model(detector, seed=2), plain, tmp_path / "to_libra")
    assert layers_of(report.kept) == {BALANCED}
    assert set(report.kept.values()) == {"not in the checkpoint"}
    assert not report.unused

    switched_off = make_model(detector, seed=3, decoder={"type": "fpn"})
    report = fine_tune(switched_off, libra[detector], tmp_path / "from_libra")
    assert not report.kept
    assert layers_of(report.unused) == {BALANCED}


def test_a_pyramid_of_other_levels_is_matched_by_level(libra, tmp_path):
    report = fine_tune(make_model("fasterrcnn", seed=1), libra["retinanet"], tmp_path)
    assert "decoder/norm_6/gamma" in report.loaded and "decoder/post_hoc_3/kernel" in report.loaded
    kept = {layer for layer in layers_of(report.kept) if layer.startswith("decoder")}
    assert kept == {"decoder/lateral_2", "decoder/post_hoc_2", "decoder/norm_2"}
    assert {"decoder/coarser_7", "decoder/norm_7", "head/scores"} <= layers_of(report.unused)


def test_heads_of_other_levels_are_matched_by_level(libra, tmp_path):
    model = make_model("retinanet", seed=1, min_level=4, max_level=7)
    report = fine_tune(model, libra["retinanet"], tmp_path)
    assert not report.kept
    assert "head/classnet-conv-norm_3_0/gamma" in report.unused


def test_more_and_fewer_heads(libra, tmp_path):
    report = fine_tune(make_model("maskrcnn", seed=1), libra["fasterrcnn"], tmp_path / "mask")
    assert {name.split("/")[0] for name in report.kept} == {"mask_head"}
    assert report.summary().endswith("keep their initial values: mask_head")

    wanted = make_model("fasterrcnn", seed=1, detection_head={"class_agnostic_bbox_pred": True})
    report = fine_tuning.load(wanted, save(libra["cascadercnn"], tmp_path / "cascade"))
    assert not report.kept
    first_stage = libra["cascadercnn"].detection_head[0].get_weights()
    for value, expected in zip(wanted.detection_head[0].get_weights(), first_stage, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert len(report.unused) == 2 * len(first_stage)


@pytest.mark.parametrize("modules", ["all", "backbone", ["backbone", "decoder"]])
def test_a_file_of_a_backbone_alone(modules, libra, tmp_path):
    path = tf.train.Checkpoint(backbone=libra["retinanet"].backbone).save(str(tmp_path / "ckpt"))
    model = make_model("retinanet", seed=1)
    before = values(model)
    report = fine_tuning.load(model, path, modules)
    expected = values(libra["retinanet"])
    for name, value in values(model).items():
        origin = expected if name.startswith("backbone/") else before
        np.testing.assert_array_equal(value, origin[name])
    assert len(report.loaded) == len(model.backbone.weights)
    kept = {"all": {"head", "decoder"}, "backbone": set()}.get(str(modules), {"decoder"})
    assert {name.split("/")[0] for name in report.kept} == kept
    assert not report.unused


def test_the_backbone_of_a_detector(libra, tmp_path):
    model = make_model("fasterrcnn", seed=1)
    report = fine_tuning.load(model, save(libra["retinanet"], tmp_path), "backbone")
    assert len(report.loaded) == len(model.backbone.weights)
    assert not report.kept and not report.unused
    assert_same_weights(model.backbone, libra["retinanet"].backbone)


def assert_same_weights(one, other):
    # Layer by layer: a model lists the weights of its frozen layers last.
    weights, expected = (
        [weight.numpy() for layer in module.submodules for weight in own_weights(layer)]
        for module in (one, other)
    )
    assert len(weights) == len(one.weights)
    for value, expected_value in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(value, expected_value)


def test_a_file_of_the_model_alone(libra, tmp_path):
    path = tf.train.Checkpoint(model=libra["retinanet"]).save(str(tmp_path / "ckpt"))
    model = make_model("retinanet", seed=1)
    before = values(model)
    report = fine_tuning.load(model, path)
    assert_loaded(model, before, libra["retinanet"], report)
    assert not report.kept and not report.unused


RESNEXT = {
    "type": "resnext",
    "resnext": {"model_id": 50, "groups": 2, "base_width": 4, "depth_multiplier": 0.25},
}


@pytest.mark.parametrize(
    "backbone",
    [
        {"resnet": {"model_id": 34}},
        {"resnet": {"model_id": 50}},
        {"resnet": {"depth_multiplier": 0.25}},
        RESNEXT,
    ],
    ids=["34", "50", "wider", "resnext"],
)
def test_a_backbone_that_is_built_differently(backbone, libra, tmp_path):
    """Its stem would fit, but the order of the layers says nothing about those that follow."""
    model = make_model("retinanet", seed=1, backbone=backbone)
    before = values(model)
    path = save(libra["retinanet"], tmp_path)
    report = fine_tuning.load(model, path)
    kept = [name for name in report.kept if name.startswith("backbone/")]
    assert len(kept) == len(model.backbone.weights)
    assert all(report.kept[name].startswith("built differently: ") for name in kept)
    assert "head/boxes/kernel" in report.loaded
    after = values(model)
    assert all(np.array_equal(before[n], after[n]) for n in before if n.startswith("backbone/"))

    with pytest.raises(CheckpointError, match=r"nothing in .* fits backbone of this model.* null"):
        fine_tuning.load(model, path, "backbone")


def without_layer_names(path, new_path):
    """Writes a checkpoint again as an older Model Garden, whose pyramid had no names, would."""
    reader = tf.train.load_checkpoint(path)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(tensors["_CHECKPOINTABLE_OBJECT_GRAPH"])
    for number, node in enumerate(graph.nodes):
        for attribute in node.attributes:
            name = attribute.full_name.rsplit("/", 1)[-1]
            attribute.full_name = f"conv2d_{number}/{name}"
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = graph.SerializeToString()
    tf.raw_ops.SaveV2(
        prefix=str(new_path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    return str(new_path)


def test_a_pyramid_without_names_is_matched_by_order_or_not_at_all(tmp_path):
    plain = make_model("retinanet", plain=True)
    path = without_layer_names(save(plain, tmp_path), tmp_path / "unnamed")
    model = make_model("retinanet", seed=1)
    before = values(model)
    report = fine_tuning.load(model, path, ["backbone", "decoder"])
    assert layers_of(report.kept) == {BALANCED}
    expected = values(plain)
    for name, value in values(model).items():
        is_kept = name in report.kept or name.startswith("head/")
        np.testing.assert_array_equal(value, (before if is_kept else expected)[name])

    other_levels = make_model("retinanet", seed=1, min_level=4, max_level=7)
    report = fine_tuning.load(other_levels, path, ["backbone", "decoder"])
    assert not any(name.startswith("decoder/") for name in report.loaded)


def test_a_checkpoint_of_model_gardens_trainer(tiny_shapes, tmp_path):
    """With the optimizer, and averages of the weights, which are not what is loaded."""
    params = exp_factory.get_exp_config("retinanet_resnetfpn_coco")
    task = make_task("retinanet", plain=True)
    params.task = task.task_config
    data = params.task.train_data
    data.override(
        {
            "input_path": tiny_shapes.train.input_path,
            "global_batch_size": 2,
            "dtype": "float32",
            "shuffle_buffer_size": 1,
        }
    )
    params.trainer.override(
        {
            "train_steps": 2,
            "steps_per_loop": 2,
            "checkpoint_interval": 2,
            "optimizer_config": {"ema": {"average_decay": 0.9}},
        }
    )
    trained, _ = train_lib.run_experiment(
        tf.distribute.get_strategy(), task, "train", params, str(tmp_path)
    )
    keys = [name for name, _ in tf.train.list_variables(tf.train.latest_checkpoint(tmp_path))]
    assert any("average" in key for key in keys)

    task = make_task("retinanet")
    task.task_config.init_checkpoint = str(tmp_path)
    task.task_config.init_checkpoint_modules = "all"
    model = task.build_model()
    before = values(model)
    task.initialize(model)
    report = task.initialization_report
    assert report.checkpoint == str(tmp_path / "ckpt-2")
    assert layers_of(report.kept) == {BALANCED}
    assert not report.unused
    assert_loaded(model, before, trained, report)


def test_on_two_replicas(libra, two_devices, tmp_path):
    with two_devices.scope():
        model = make_model("retinanet", seed=1)
        fine_tune(model, libra["retinanet"], tmp_path)
    weight = model.head.weights[0]
    for replica in weight.values:
        np.testing.assert_array_equal(replica, libra["retinanet"].head.weights[0])


def test_a_model_that_nothing_fits_is_left_as_it_was(libra, tmp_path):
    path = tf.train.Checkpoint(layer=keras.layers.Dense(2), step=tf.Variable(1)).save(
        str(tmp_path / "ckpt")
    )
    model = libra["retinanet"]
    before = values(model)
    with pytest.raises(CheckpointError, match=r"nothing in .*ckpt-1 fits backbone") as error:
        fine_tuning.load(model, path)
    assert "\n" not in str(error.value)
    after = values(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_task_without_a_checkpoint_starts_as_it_is():
    task = make_task("retinanet")
    task.initialize(None)
    assert task.initialization_report is None


@pytest.mark.parametrize("modules", ["heads", ["backbone", "head"], None])
def test_unknown_modules_are_refused(modules):
    task = make_task("retinanet")
    task.task_config.init_checkpoint_modules = modules
    with pytest.raises(ValueError, match=r"task.init_checkpoint_modules is .*all, backbone, dec"):
        task.build_model()


def test_imagenet_classifiers_keep_their_backbone_apart(libra, tmp_path):
    """Model Garden's classifier saves its backbone by that name, and the head in the model."""
    backbone = resnet.ResNet(18, depth_multiplier=0.125)
    classifier = keras.Sequential([keras.layers.Dense(10)])
    classifier.build([None, 4])
    path = tf.train.Checkpoint(model=classifier, backbone=backbone).save(str(tmp_path / "ckpt"))
    model = make_model("retinanet", seed=1)
    report = fine_tuning.load(model, path)
    assert len(report.loaded) == len(backbone.weights)
    assert len(report.unused) == 2
    assert_same_weights(model.backbone, backbone)
