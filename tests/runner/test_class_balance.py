"""A run counts the classes of its training images, whether they come from a folder or not."""

import dataclasses
import json
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from official.vision.configs import maskrcnn, retinanet

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.analysis import collect
from libra_tf.cli.errors import UsageError
from libra_tf.dataloaders import repeat_factors
from libra_tf.modeling import class_weights
from libra_tf.runner import class_balance, config
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder

pytestmark = pytest.mark.one_lane

NAMES = {1: "circle", 2: "square", 3: "triangle", 4: "star"}


def experiment(dataset, **task):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.override({"task": {"train_data": {"input_path": dataset.train.input_path}}})
    params.override({"task": task})
    return params


def fill_in(params, mode="train"):
    lines = []
    class_balance.fill_in(params, mode, NAMES, lines.append)
    return lines


@pytest.fixture(scope="module")
def counted(tiny_shapes):
    """Numbers of objects and images by class, from the annotations that the folder came with."""
    path = tiny_shapes.train.annotation_file
    with open(path) as file:
        coco = json.load(file)
    objects, images = np.zeros(5, int), np.zeros(5, int)
    for category in range(5):
        of_category = [a for a in coco["annotations"] if a["category_id"] == category]
        objects[category] = len(of_category)
        images[category] = len({a["image_id"] for a in of_category})
    return objects, images / len(coco["images"])


@pytest.mark.parametrize("weighting", ["effective_number", "inverse_frequency"])
def test_weights(weighting, tiny_shapes, counted):
    losses = {"class_weighting": weighting, "effective_number_beta": 0.9}
    params = experiment(tiny_shapes, losses=losses)
    line = fill_in(params)[-1]
    expected = class_weights.class_weights(weighting, counted[0], 0.9)
    np.testing.assert_allclose(params.task.losses.class_weights, expected)
    assert params.task.train_data.class_frequencies is None
    least, most = np.argsort(expected[1:])[[0, -1]] + 1
    assert re.fullmatch(
        rf"class weights \({weighting}\): from [\d.]+ \({NAMES[least]}\) to [\d.]+ \(.*\); "
        "the average object weighs 1, as the background does",
        line,
    )
    assert f"{expected[most]:.3g} (" in line


def test_frequencies(tiny_shapes, counted):
    params = experiment(tiny_shapes, train_data={"repeat_threshold": 1.0})
    line = fill_in(params)[-1]
    data = params.task.train_data
    np.testing.assert_allclose(data.class_frequencies, counted[1])
    assert params.task.losses.class_weights is None
    factors = repeat_factors.of_classes(counted[1], 1.0)
    assert f"to {factors.max():.3g} (" in line
    images = float(re.search(r"the 8 images make an epoch of about (\d+)", line).group(1))
    assert 8 < images <= 8 * factors.max() + 1
    steps = params.trainer.train_steps * data.global_batch_size
    assert float(re.search(r"has ([\d.]+) epochs", line).group(1)) == pytest.approx(
        steps / images, rel=0.1
    )


def test_what_is_given_or_not_needed_is_not_counted(tiny_shapes):
    weights, shares = [1.0, 2.0, 1.0, 1.0, 1.0], [0.0, 0.5, 0.5, 0.5, 0.5]
    repeats = {"train_data": {"repeat_threshold": 1.0, "class_frequencies": shares}}
    weighs = {"losses": {"class_weighting": "inverse_frequency", "class_weights": weights}}
    kept_weights = "class weights: those of the config; task.losses.class_weights=null counts anew"
    kept_shares = (
        "shares of images by class: those of the config; "
        "task.train_data.class_frequencies=null counts anew"
    )
    for task, mode, lines in (
        ({}, "train", []),
        ({"train_data": {"repeat_threshold": 1.0}}, "eval", []),
        (repeats, "train", [kept_shares]),
        (weighs, "train_and_eval", [kept_weights]),
        ({**repeats, **weighs}, "eval", []),
    ):
        params = experiment(tiny_shapes, **task)
        before = params.as_dict()
        assert fill_in(params, mode) == lines
        assert params.as_dict() == before


@pytest.mark.parametrize(
    ("experiment_name", "data"),
    [
        ("libra_retinanet_demo", retinanet.DataConfig(is_training=True)),
        ("libra_fasterrcnn_demo", maskrcnn.DataConfig(is_training=True)),
    ],
)
def test_model_gardens_own_config_of_the_data(experiment_name, data):
    """It has no key for repeated images."""
    params = exp_factory.get_exp_config(experiment_name)
    task = dataclasses.replace(params.task, train_data=data)
    assert "repeat_threshold" not in task.train_data
    task.validate()
    config._check_one_for_each_class(task)
    assert fill_in(dataclasses.replace(params, task=task)) == []
    run = types.SimpleNamespace(params=types.SimpleNamespace(task=task))
    assert collect._settings(run)["task.train_data.repeat_threshold"] == 0


def test_a_run_keeps_what_was_counted(tiny_shapes, tmp_path):
    losses = {"class_weighting": "effective_number"}
    params = experiment(tiny_shapes, losses=losses, train_data={"repeat_threshold": 1.0})
    fill_in(params)
    folder = RunFolder(str(tmp_path))
    folder.write_config("libra_retinanet_demo", params, NAMES)
    read = trained_run.read_params(folder)
    assert read.task.losses.class_weights == params.task.losses.class_weights
    assert read.task.train_data.as_dict() == params.task.train_data.as_dict()
    # An evaluation needs no training images.
    read.task.train_data.input_path = "gone*"
    assert fill_in(read, "eval") == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"train_data": {"input_path": "gone*"}}, r"input_path is 'gone\*', and there are no such"),
        ({"model": {"num_classes": 3}}, r"an object has the class \d, but .*num_classes is 3"),
    ],
)
@pytest.mark.parametrize("key", ["class_weighting", "repeat_threshold"])
def test_images_that_cannot_be_counted(key, task, message, tiny_shapes):
    params = experiment(tiny_shapes, **task)
    if key == "class_weighting":
        params.task.losses.class_weighting = "inverse_frequency"
    else:
        params.task.train_data.repeat_threshold = 0.1
    with pytest.raises(UsageError, match=message) as error:
        fill_in(params)
    assert len(str(error.value).splitlines()) == 1


def test_an_evaluation_without_losses_needs_no_training_images():
    params = exp_factory.get_exp_config("libra_fasterrcnn_demo")
    params.task.losses.class_weighting = "inverse_frequency"
    params.task.train_data.input_path = "gone*"
    assert fill_in(params, "eval") == [] and params.task.losses.class_weights is None
    with pytest.raises(UsageError, match="there are no such"):
        fill_in(params, "train")


@pytest.mark.parametrize(
    ("content", "message"), [(b"no records" * 9, "corrupted record"), (None, "no record of")]
)
def test_files_without_objects(content, message, tiny_shapes, tmp_path):
    path = tmp_path / "records"
    if content:
        path.write_bytes(content)
    else:
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(tf.train.Example().SerializeToString())
    losses = {"class_weighting": "inverse_frequency"}
    params = experiment(tiny_shapes, losses=losses, train_data={"input_path": str(path)})
    with pytest.raises(UsageError, match=message) as error:
        fill_in(params)
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1
