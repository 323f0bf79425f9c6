"""Histograms of a training: counted by hand, in compiled and distributed steps, in TensorBoard."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from tensorboard.backend.event_processing import event_accumulator

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.configs import components
from libra_tf.runner import config, training
from libra_tf.runs import results
from libra_tf.runs.folder import RunFolder
from libra_tf.tasks import histograms

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}},
    },
    "train_data": {"global_batch_size": 4, "shuffle_buffer_size": 1},
    "analysis": {"enabled": True, "interval": 2},
}


def make_params(experiment, dataset, *overrides):
    params = exp_factory.get_exp_config(experiment)
    config.use_dataset(params, dataset)
    for override in (SMALL, *overrides):
        params.task.override(override)
    return params


def test_bins_hold_their_upper_edge():
    values = tf.constant([0.0, 0.05, 0.051, 0.97, 1.0, 7.0])
    counts = histograms._histogram(values, tf.ones_like(values), 0.05).numpy()
    assert counts[0] == 2 and counts[1] == 1 and counts[19] == 3


def test_samples_counted_by_hand():
    gt_boxes = tf.constant([[0.0, 0, 10, 10], [-1, -1, -1, -1]])
    boxes = tf.constant(
        [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 2], [20, 20, 30, 30], [-1, -1, -1, -1]]
    )
    counted = histograms.of_samples(
        boxes, gt_boxes, components.IoUBalancing(), 4, 0.5, 0.5, 0.5, tf.constant(0)
    )
    values, amounts = counted["iou/candidates"]
    np.testing.assert_allclose(values, [1, 0.8, 0.2, 0, 0])
    np.testing.assert_array_equal(amounts, [True, True, True, True, False])
    # Two positives, so that two negatives are wanted, and there are two.
    for name in ("random", "iou_balanced", "mmdet_bins"):
        mask = counted[f"iou/negatives_{name}"][1]
        np.testing.assert_array_equal(mask, [False, False, True, True, False])
    positives, is_object = counted["positives_of_an_object"]
    assert positives.numpy().tolist() == [2, 0] and is_object.numpy().tolist() == [True, False]


def test_gradient_of_errors():
    errors = tf.constant([[0.5, 2.0], [9.0, 0.1]])
    is_positive = tf.constant([[True, True], [False, False]])
    counted = histograms.of_boxes(errors, is_positive, components.BalancedL1(), None)
    slopes = counted["box_gradient_by_error_over_beta"][1]
    b = np.expm1(3)
    np.testing.assert_allclose(slopes, [[0.5 * np.log1p(b * 0.5), 1.5], [0, 0]], rtol=1e-5)
    counted = histograms.of_boxes(errors, is_positive, components.BalancedL1(), 0.1)
    np.testing.assert_allclose(counted["box_error_over_beta"][0][0], [5, 20], rtol=1e-6)


@pytest.mark.parametrize(
    "experiment",
    ["libra_retinanet_demo", pytest.param("libra_fasterrcnn_demo", marks=pytest.mark.slow)],
)
def test_a_training_writes_them(experiment, two_devices, tiny_shapes, tmp_path):
    """Two replicas; counted at steps 0 and 2 of four."""
    params = make_params(experiment, tiny_shapes)
    params.trainer.override(
        {"train_steps": 4, "steps_per_loop": 2, "summary_interval": 4, "checkpoint_interval": 4}
    )
    folder = RunFolder(str(tmp_path))
    record = results.Results(folder, experiment, "shapes")
    training.run(params, two_devices, "train", folder, _Silent(), record, False)
    (events,) = (tmp_path / "train").glob("events*")
    accumulator = event_accumulator.EventAccumulator(
        str(events), size_guidance={"tensors": 0, "histograms": 0}
    ).Reload()
    tags = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith("analysis/")]
    # An image without objects has no errors of boxes.
    names = {f"analysis/{name}" for name in histograms._NAMES}
    assert {name for name in names if "/iou/" in name} <= set(tags) <= names
    (event,) = accumulator.Tensors("analysis/iou/candidates")
    assert event.step == 4
    buckets = tf.make_ndarray(event.tensor_proto)
    assert buckets.shape == (20, 3)
    if experiment == "libra_retinanet_demo":
        # All anchors of one image, of each of two replicas, twice.
        assert buckets[:, 2].sum() == (16**2 + 8**2 + 4**2) * 6 * 2 * 2
    (random,), (balanced,) = (
        accumulator.Tensors(f"analysis/iou/negatives_{name}") for name in ("random", "iou_balanced")
    )
    counts = [tf.make_ndarray(e.tensor_proto)[:, 2].sum() for e in (random, balanced)]
    assert counts[0] == counts[1] > 0


class _Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["libra_retinanet_demo", "libra_fasterrcnn_demo"])
def test_a_step_trains_as_without(experiment, tiny_shapes):
    """Counting changes no weight; for RetinaNet in a step that XLA compiles."""
    weights = {}
    for enabled in (True, False):
        params = make_params(
            experiment,
            tiny_shapes,
            {"analysis": {"enabled": enabled, "interval": 1}},
            {"train_data": {"parser": {"aug_rand_hflip": False}}},
        )
        # Adam takes a step of the same size for a gradient that is rounding alone.
        params.trainer.optimizer_config.override({"optimizer": {"type": "sgd"}})
        keras.utils.set_random_seed(3)
        task = task_factory.get_task(params.task)
        model = task.build_model()
        metrics = task.build_metrics(training=True)
        optimizer = task.create_optimizer(params.trainer.optimizer_config)
        if enabled:
            batch = next(iter(task.build_inputs(params.task.train_data)))
        # TensorFlow's batched suppression, which the RPN uses here, has no XLA kernel.
        compiled = experiment == "libra_retinanet_demo"
        step = tf.function(
            lambda inputs, task=task, model=model, optimizer=optimizer: task.train_step(
                inputs, model, optimizer
            )[task.loss],
            jit_compile=compiled,
        )
        assert metrics
        keras.utils.set_random_seed(4)
        step(batch)
        weights[enabled] = [variable.numpy() for variable in model.trainable_variables]
        if enabled:
            counts = task.training_histograms._counts["iou/candidates"].numpy()
            assert counts.sum() > 0
    for counted, plain in zip(*weights.values(), strict=True):
        np.testing.assert_allclose(counted, plain, rtol=1e-4, atol=1e-5)
