"""Every file in configs/ fits the experiment that its header names, and trains."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.core import exp_factory, task_factory
from official.vision.data import create_coco_tf_record, tfrecord_lib

import libra_tf.registry_imports  # noqa: F401, registers the experiments

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.yaml"))


def read(path):
    """The experiment that the header's command names, with the file's overrides."""
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    params = exp_factory.get_exp_config(re.search(r"--experiment=(\w+)", header).group(1))
    params.override(yaml.safe_load(path.read_text()), is_strict=True)
    params.task.validate()
    params.validate()
    return params, header


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_and_keys(path):
    params, header = read(path)
    assert f"--config_file=configs/{path.name}" in header
    assert "python run.py --mode=train_and_eval" in header
    switches = [
        params.task.model.decoder.type == "libra_fpn",
        params.task.losses.box_loss != "huber",
    ]
    if "retinanet" not in path.stem:
        switches.append(params.task.model.roi_sampler.type == "iou_balanced")
        # No part of the published models: only the file that is named after it has it.
        balances_rpn = params.task.model.rpn_sampler.type == "iou_balanced"
        assert balances_rpn == ("libra_rpn" in path.stem)
    alone = any(name in path.stem for name in ("sampling", "pyramid", "balanced_l1"))
    expected = {1} if alone else {len(switches)} if "libra" in path.stem else {0}
    assert sum(switches) in expected
    if "switches_off" not in path.stem:
        assert re.search(r"^# Trains 12 epochs", header, re.M)
        assert re.search(r"^# Reaches: ", header, re.M)
        check_frozen(params.task)
        rate = params.trainer.optimizer_config.learning_rate.stepwise.values[0]
        assert f"learning rate {rate}" in header
        assert f"({params.trainer.train_steps:,} steps of 16 images)" in header


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet"])
@pytest.mark.parametrize("kind", ["demo", "small", "resnetfpn_coco"])
def test_the_switch_of_the_pyramid_changes_nothing_else(name, kind):
    decoder = exp_factory.get_exp_config(f"libra_{name}_{kind}").task.model.decoder
    balanced, plain = decoder.libra_fpn.as_dict(), decoder.fpn.as_dict()
    assert plain == {key: value for key, value in balanced.items() if "refine" not in key}


def check_frozen(task):
    """The published recipe freezes the start of a pretrained ResNet; other backbones train."""
    if task.model.backbone.type in ("resnet", "resnext"):
        assert task.frozen_stages == 1
        assert not task.model.backbone.get().bn_trainable
    else:
        assert task.frozen_stages is None
        assert task.init_checkpoint == "imagenet"  # The experiment's is a ResNet-50.


def make_example(image_id):
    """An image with two boxes whose masks fill them, as Model Garden converts COCO."""
    annotations = [
        {
            "bbox": [x, y, 40, 50],
            "segmentation": [[x, y, x + 40, y, x + 40, y + 50, x, y + 50]],
            "category_id": category_id,
            "iscrowd": 0,
            "area": 2000,
        }
        for x, y, category_id in ((4, 6, 1), (50, 30, 17))
    ]
    pixels = np.random.default_rng(image_id).integers(0, 256, (96, 96, 3), np.uint8)
    encoded = tf.io.encode_png(pixels).numpy()
    features = tfrecord_lib.image_info_to_feature_dict(96, 96, "a.png", image_id, encoded, "png")
    objects, _ = create_coco_tf_record.bbox_annotations_to_feature_dict(
        annotations, 96, 96, {1: "person", 17: "cat"}, include_masks=True
    )
    return tf.train.Example(features=tf.train.Features(feature={**features, **objects}))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("records") / "train")
    with tf.io.TFRecordWriter(path) as writer:
        for image_id in (1, 2):
            writer.write(make_example(image_id).SerializeToString())
    return path


@pytest.fixture(scope="module")
def proposals(tmp_path_factory):
    """A folder with the two boxes of each image and one more."""
    folder = tmp_path_factory.mktemp("proposals")
    boxes = np.array([[6, 4, 56, 44], [30, 50, 80, 90], [8, 8, 50, 44]], np.float32)
    for image_id in (1, 2):
        np.save(folder / f"{image_id}.npy", boxes)
    return str(folder)


@pytest.mark.one_lane
# The rest of the tests trains small ones of their kinds.
@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_training_step(path, records, proposals):
    params, _ = read(path)
    task_config = params.task
    task_config.init_checkpoint = None
    task_config.annotation_file = None
    task_config.model.input_size = [128, 128, 3]
    data = task_config.train_data
    data.input_path, data.global_batch_size, data.shuffle_buffer_size = records, 2, 2
    data.dtype = "float32"
    if "proposals" in data:
        data.proposals = proposals
    task = task_factory.get_task(task_config)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    metrics = task.build_metrics(training=True)
    before = {variable.ref(): variable.numpy() for variable in model.variables}

    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer, metrics))
    logs = step(next(iter(task.build_inputs(data))))
    assert np.isfinite(logs[task.loss])
    changed = {ref for ref, value in before.items() if not np.array_equal(ref.deref(), value)}
    # Without the statistics of batch norms, which change whatever the gradients are.
    trainable = {variable.ref() for variable in model.trainable_variables}
    assert len(changed & trainable) > 0.5 * len(trainable)
    # Training makes nothing a weight of the model that was not one.
    assert {variable.ref() for variable in model.variables} == set(before)
    stem = model.backbone.layers[1].weights[0].ref()
    assert (stem in changed) == (task_config.frozen_stages is None)
