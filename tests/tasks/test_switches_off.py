"""With every switch off a Libra experiment is Model Garden's own: same graph, same loss."""

import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401
from libra_tf.compat import keras
from tests.detectors import predict_in_training

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SMALL = {
    "task": {
        "init_checkpoint": None,
        "annotation_file": None,
        "model": {
            "input_size": [128, 128, 3],
            "num_classes": 5,
            "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
            "decoder": {"fpn": {"num_filters": 16}},
        },
        "train_data": {"global_batch_size": 2, "dtype": "float32", "shuffle_buffer_size": 1},
    }
}
SMALL_TWO_STAGE = {
    "task": {
        "model": {
            "detection_head": {"num_convs": 1, "num_filters": 8, "fc_dims": 16},
            "roi_generator": {"pre_nms_top_k": 50, "num_proposals": 40},
            "roi_sampler": {"num_sampled_rois": 32},
        }
    }
}
PAIRS = {
    "retinanet": ("libra_retinanet_resnetfpn_coco", "retinanet_resnetfpn_coco", {}),
    "fasterrcnn": (
        "libra_fasterrcnn_resnetfpn_coco",
        "fasterrcnn_resnetfpn_coco",
        SMALL_TWO_STAGE,
    ),
}
SWITCHES = {
    "retinanet": {
        "decoder": {"task": {"model": {"decoder": {"type": "fpn"}}}},
        "box_loss": {"task": {"losses": {"box_loss": "huber"}}},
    },
    "fasterrcnn": {
        "decoder": {"task": {"model": {"decoder": {"type": "fpn"}}}},
        "roi_sampler": {"task": {"model": {"roi_sampler": {"type": "random"}}}},
        "box_loss": {"task": {"losses": {"box_loss": "huber"}}},
    },
}


def model_garden_config(detector, dataset):
    _, name, small = PAIRS[detector]
    config = exp_factory.get_exp_config(name)
    config.override(SMALL)
    config.override(small)
    config.task.train_data.input_path = dataset.train.input_path
    return config


def libra_config(detector, dataset, switches_off):
    """A Libra experiment that has Model Garden's value for every key that Model Garden has."""
    config = exp_factory.get_exp_config(PAIRS[detector][0])
    theirs = model_garden_config(detector, dataset).as_dict()
    decoder_type = theirs["task"]["model"]["decoder"].pop("type")
    assert decoder_type == "fpn"
    config.override(theirs)
    config.task.model.decoder.libra_fpn.num_filters = 16
    config.task.frozen_stages = None  # Part of the published recipe; Model Garden has no such key.
    for switch in switches_off:
        config.override(SWITCHES[detector][switch])
    return config


def first_batch(config):
    task = task_factory.get_task(config.task)
    return next(iter(task.build_inputs(config.task.train_data).take(1)))


def losses_and_graph(config, batch):
    """Returns the training losses on a batch and the graph that computes them."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    task = task_factory.get_task(config.task)
    model = task.build_model()
    keras.utils.set_random_seed(7)

    @tf.function
    def losses(images, labels):
        outputs = predict_in_training(model, images, labels)
        outputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)
        return task.build_losses(outputs, labels, aux_losses=model.losses)

    concrete = losses.get_concrete_function(*batch)
    values = {
        str(index): float(value) for index, value in enumerate(tf.nest.flatten(losses(*batch)))
    }
    graph = [
        (op.type, [out.shape.as_list() for out in op.outputs if out.shape.rank is not None])
        for op in concrete.graph.get_operations()
    ]
    return values, graph


@pytest.fixture(scope="module")
def model_garden(tiny_shapes):
    """Returns Model Garden's losses and graph of a detector on a batch, and the batch."""

    @functools.cache
    def compute(detector):
        config = model_garden_config(detector, tiny_shapes)
        batch = first_batch(config)
        return *losses_and_graph(config, batch), batch

    return compute


@pytest.mark.parametrize(
    "detector", ["retinanet", pytest.param("fasterrcnn", marks=pytest.mark.one_lane)]
)
def test_all_off_is_model_garden(detector, tiny_shapes, model_garden):
    their_losses, their_graph, batch = model_garden(detector)
    config = libra_config(detector, tiny_shapes, switches_off=[])
    config.override(yaml.safe_load((CONFIGS / f"{detector}_switches_off.yaml").read_text()))
    losses, graph = losses_and_graph(config, batch)
    assert graph == their_graph
    assert losses == their_losses


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("detector", "switch"),
    [
        pytest.param(detector, switch, marks=pytest.mark.slow if detector == "fasterrcnn" else ())
        for detector, switches in SWITCHES.items()
        for switch in switches
    ],
)
def test_each_switch_alone_changes_the_loss(detector, switch, tiny_shapes, model_garden):
    their_losses, their_graph, batch = model_garden(detector)
    others = [name for name in SWITCHES[detector] if name != switch]
    losses, graph = losses_and_graph(libra_config(detector, tiny_shapes, others), batch)
    assert graph != their_graph
    assert losses != their_losses
    assert np.isfinite(list(losses.values())).all()
