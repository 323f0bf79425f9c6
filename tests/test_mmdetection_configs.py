"""Every file in configs/mmdetection is the published recipe of one detector of MMDetection."""

import pathlib
import re

import numpy as np
import pytest
import yaml
from official.core import exp_factory
from official.modeling import optimization

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.checkpoints import experiment
from libra_tf.checkpoints.structure import Backbone, Detector

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs/mmdetection").glob("*.yaml"))
BACKBONES = {"r50": (50,), "r101": (101,), "x101_64x4d": (101, 1.0, 64, 4)}
# What MMDetection's page of its models says, box AP on val2017.
PUBLISHED = {
    "libra_fasterrcnn_r50": 38.3,
    "libra_fasterrcnn_r101": 40.1,
    "libra_fasterrcnn_x101_64x4d": 42.7,
    "libra_retinanet_r50": 37.6,
    "fasterrcnn_r50": 37.4,
    "retinanet_r50": 36.5,
}
STEPS_PER_EPOCH = 7330

pytestmark = pytest.mark.one_lane


def detector(name):
    """The structure that an import of the published checkpoint would find."""
    is_libra, rest = name.startswith("libra_"), name.removeprefix("libra_")
    kind, backbone = rest.split("_", 1)
    depth, *others = BACKBONES[backbone]
    is_retinanet = kind == "retinanet"
    second_stage = {} if is_retinanet else {"num_fcs": 2, "fc_channels": 1024, "crop_size": 7}
    return Detector(
        kind=kind,
        backbone=Backbone(depth, *(others or [1.0])),
        min_level=3 if is_retinanet else 2,
        max_level=7 if is_retinanet else 6,
        channels=256,
        is_balanced=is_libra,
        refine_type="non_local" if is_libra else None,
        num_labels=80,
        num_anchors=9 if is_retinanet else 3,
        num_convs=4 if is_retinanet else 1,
        head_channels=256,
        **second_stage,
    )


def test_one_file_for_each_published_row():
    assert {path.stem for path in FILES} == set(PUBLISHED)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request):
    text = request.param.read_text()
    name = re.search(r"--experiment=(\w+)", text).group(1)
    params = exp_factory.get_exp_config(name)
    params.override(yaml.safe_load(text), is_strict=True)
    return request.param, params


def test_same_detector_and_losses_as_an_import(config):
    path, params = config
    params.task.validate()
    imported = exp_factory.get_exp_config(experiment.EXPERIMENTS[detector(path.stem).kind])
    imported.override(experiment.overrides(path.stem, detector(path.stem), {}), is_strict=True)
    assert params.task.model.as_dict() == imported.task.model.as_dict()
    assert params.task.losses.as_dict() == imported.task.losses.as_dict()
    parsers = (x.task.train_data.parser.as_dict() for x in (params, imported))
    assert next(parsers) == next(parsers)


def test_classes_in_balance(config):
    """MMDetection repeats images by their classes; the two other ways it has no like of."""
    _, params = config
    params.task.train_data.repeat_threshold = 0.1
    params.task.validate()
    refused = [("task.losses", params.task.losses, "class_weighting", "effective_number", "none")]
    if "roi_sampler" in params.task.model:
        sampler = params.task.model.roi_sampler
        sampler.type = "iou_balanced"
        refused += [("task.model.roi_sampler", sampler, "class_balanced", True, "False")]
    for path, group, key, value, allowed in refused:
        setattr(group, key, value)
        message = rf"{path}\.{key} is {value!r}; it must be one of {allowed}$"
        with pytest.raises(ValueError, match=message):
            params.task.validate()
        setattr(group, key, type(group)().as_dict()[key])
    params.task.validate()


def test_schedule_and_header(config):
    path, params = config
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert f"--config_file=configs/mmdetection/{path.name}" in header
    assert f"Reaches: {PUBLISHED[path.stem]} box AP" in header
    rate = 0.01 if "retinanet" in path.stem else 0.02
    trainer = params.trainer
    assert f"({trainer.train_steps:,} steps of 16 images), learning rate {rate}," in header
    assert trainer.train_steps == 12 * STEPS_PER_EPOCH
    assert params.task.train_data.global_batch_size == 16
    assert params.task.frozen_stages == 1
    factory = optimization.OptimizerFactory(trainer.optimizer_config)
    schedule = factory.build_learning_rate()
    # MMEngine's `LinearLR` from 0.001 over 500 iterations, then `MultiStepLR` after epochs 8, 11.
    expected = {0: 0.001, 250: 0.001 + 0.999 * 250 / 499, 499: 1.0, 8 * STEPS_PER_EPOCH - 1: 1.0}
    expected |= {
        8 * STEPS_PER_EPOCH: 0.1,
        11 * STEPS_PER_EPOCH - 1: 0.1,
        11 * STEPS_PER_EPOCH: 0.01,
    }
    for step, factor in expected.items():
        np.testing.assert_allclose(schedule(step), rate * factor, rtol=1e-5)
    optimizer = factory.build_optimizer(schedule)
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (1e-4, None)
