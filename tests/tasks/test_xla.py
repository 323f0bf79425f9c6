"""The whole training step compiles with XLA, as a TPU needs it: static shapes, bfloat16."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.modeling import performance
from official.vision.configs import maskrcnn

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.runner.config import use_dataset

pytestmark = pytest.mark.one_lane


@pytest.fixture
def dtype(request):
    performance.set_mixed_precision_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def configure(experiment, dtype, dataset):
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, dataset)
    model = params.task.model
    model.input_size = [64, 64, 3]
    model.max_level = 4
    model.backbone.resnet.model_id = 10
    model.backbone.resnet.depth_multiplier = 0.25
    model.decoder.libra_fpn.num_filters = 16
    model.norm_activation.use_sync_bn = False
    if isinstance(model, maskrcnn.MaskRCNN):
        # TensorFlow's batched suppression has no XLA kernel.
        model.roi_generator.use_batched_nms = False
        model.detection_generator.nms_version = "v2"
    params.task.init_checkpoint = None
    params.task.train_data.global_batch_size = 2
    params.task.train_data.dtype = dtype
    return params


def take_every_box(params):
    """The last bit of an IoU decides what is drawn, and XLA rounds in its own way."""
    num_proposals = params.task.model.roi_generator.num_proposals
    num_instances = params.task.train_data.parser.max_num_instances
    params.task.model.roi_sampler.num_sampled_rois = num_proposals + num_instances


def build(params):
    """Returns a function that takes one step, always from the same weights.

    It returns the loss, the weights that are not trained, such as the statistics of batch norms,
    by how much each trained one moved, and the operations.
    """
    keras.utils.set_random_seed(2)
    task = task_factory.get_task(params.task)
    model = task.build_model()
    # One step only, so it may be large: a small one would be lost among the weights' own digits.
    optimizer = keras.optimizers.legacy.SGD(1e4)
    batch = next(iter(task.build_inputs(params.task.train_data)))
    before = model.get_weights()

    def train(**kwargs):
        model.set_weights(before)
        start = [variable.numpy() for variable in model.trainable_variables]
        optimizer.iterations.assign(0)
        step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer), **kwargs)
        operations = {op.type for op in step.get_concrete_function(batch).graph.get_operations()}
        loss = float(step(batch)[task.loss])
        steps = [
            variable.numpy() - value
            for variable, value in zip(model.trainable_variables, start, strict=True)
        ]
        statistics = [variable.numpy() for variable in model.non_trainable_variables]
        return loss, statistics, steps, operations

    return train


TWO_STAGES = ["libra_fasterrcnn_demo", "libra_cascadercnn_resnetfpn_coco"]


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
@pytest.mark.parametrize(
    "experiment",
    [
        "libra_retinanet_demo",
        pytest.param(TWO_STAGES[0], marks=pytest.mark.slow),
        pytest.param(TWO_STAGES[1], marks=pytest.mark.slow),
    ],
)
def test_compiled_step_is_the_plain_one(experiment, dtype, tiny_shapes):
    params = configure(experiment, dtype, tiny_shapes)
    if experiment in TWO_STAGES:
        take_every_box(params)
    train = build(params)
    loss, statistics, steps, operations = train(jit_compile=True)
    plain_loss, plain_statistics, plain_steps, _ = train()
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-3)
    for values, plain_values in zip(statistics, plain_statistics, strict=True):
        np.testing.assert_allclose(values, plain_values, rtol=1e-3, atol=1e-4)
    # Some gradients, such as that of a bias before a batch norm, are rounding alone.
    rounding = 1e-4 + 1e-5 * max(np.abs(plain_step).max() for plain_step in plain_steps)
    for step, plain_step in zip(steps, plain_steps, strict=True):
        tolerance = rounding + 1e-3 * np.abs(plain_step).max()
        np.testing.assert_allclose(step, plain_step, rtol=1e-3, atol=tolerance)
    assert np.mean([np.abs(plain_step).max() > 2 * rounding for plain_step in plain_steps]) > 0.5
    # Nothing calls back into Python.
    assert not {name for name in operations if "PyFunc" in name}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
@pytest.mark.parametrize(
    "experiment", [pytest.param("libra_retinanet_demo", marks=pytest.mark.slow), *TWO_STAGES[:1]]
)
def test_compiled_step_in_bfloat16(experiment, dtype, tiny_shapes):
    """Here many scores are equal, and which boxes become RoIs differs with the way to round."""
    train = build(configure(experiment, dtype, tiny_shapes))
    loss, statistics, steps, _ = train(jit_compile=True)
    assert np.isfinite(loss)
    assert all(np.isfinite(values).all() for values in [*statistics, *steps])
