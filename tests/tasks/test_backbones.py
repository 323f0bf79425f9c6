"""The balanced pyramid and losses train on Model Garden's other backbones, too."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401

pytestmark = pytest.mark.one_lane

BACKBONES = {
    "mobilenet": {"type": "mobilenet", "mobilenet": {"filter_size_scale": 0.5}},
    # Its levels are as wide as each other, and the FPN before the balanced pyramid takes them all.
    "spinenet": {
        "type": "spinenet_mobile",
        "spinenet_mobile": {"model_id": "49XS", "min_level": 3, "max_level": 5},
    },
}


def experiment(dataset, backbone, **task):
    config = exp_factory.get_exp_config("libra_retinanet_demo")
    config.task.override(task)
    config.task.model.override({"min_level": 3, "max_level": 5, "backbone": BACKBONES[backbone]})
    config.task.model.decoder.libra_fpn.num_filters = 16
    data = config.task.train_data
    data.input_path, data.global_batch_size = dataset.train.input_path, 2
    data.shuffle_buffer_size = 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet", "spinenet"])
def test_a_training_step(backbone, tiny_shapes):
    config = experiment(tiny_shapes, backbone)
    task = task_factory.get_task(config.task)
    model = task.build_model()
    optimizer = task.create_optimizer(config.trainer.optimizer_config, config.runtime)
    before = [variable.numpy() for variable in model.backbone.trainable_variables]
    batch = next(iter(task.build_inputs(config.task.train_data)))
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
    assert np.isfinite(step(batch)[task.loss])
    after = model.backbone.trainable_variables
    changed = [(old != new.numpy()).any() for old, new in zip(before, after, strict=True)]
    assert np.mean(changed) > 0.5
    assert set(model.decoder.output_specs) == {"3", "4", "5"}


@pytest.mark.parametrize(
    ("backbone", "frozen_stages", "message"),
    [
        ("spinenet", 1, "is for resnet, resnet_v1, resnext, efficientnet, mobilenet"),
        ("mobilenet", 0, "for mobilenet it must be from 1 to 4"),
        ("mobilenet", 5, "for mobilenet it must be from 1 to 4"),
    ],
)
def test_stages_that_a_backbone_does_not_have_cannot_be_frozen(
    backbone, frozen_stages, message, tiny_shapes
):
    config = experiment(tiny_shapes, backbone, frozen_stages=frozen_stages)
    with pytest.raises(ValueError, match=rf"task\.frozen_stages is {frozen_stages}.*{message}"):
        task_factory.get_task(config.task).build_model()
