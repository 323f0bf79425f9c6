"""Histograms of a training: counted by hand, in compiled and distributed steps, in TensorBoard."""

import types

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.modeling.layers import roi_sampler
from tensorboard.backend.event_processing import event_accumulator

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.analysis import detectors, gradients
from libra_tf.analysis.batches import Batch
from libra_tf.analysis.samples import SampleTally
from libra_tf.balance import boxes, quotas, samples
from libra_tf.compat import keras
from libra_tf.configs import components
from libra_tf.runner import config, training
from libra_tf.runs import results
from libra_tf.runs.folder import RunFolder
from libra_tf.tasks import histograms
from tests.detectors import predict_in_training

pytestmark = pytest.mark.one_lane

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
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


def test_samples_counted_by_hand():
    gt_boxes = tf.constant([[0.0, 0, 10, 10], [-1, -1, -1, -1]])
    boxes_to_match = tf.constant(
        [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 2], [20, 20, 30, 30], [-1, -1, -1, -1]]
    )
    matches = samples.match_proposals(boxes_to_match, gt_boxes, roi_sampler.ROISampler())
    quota = quotas.Quota(num_samples=4, positive_fraction=0.5, negative_iou=0.5)
    counted = histograms.of_samples(matches, gt_boxes, quota, tf.constant(0))
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
    of_head = boxes.BoxErrors([errors], [errors], [is_positive])
    counted = histograms.of_boxes(of_head, boxes.BoxLoss(1.0, components.BalancedL1()))
    slopes = counted["box_gradient_by_error_over_beta"][1]
    b = np.expm1(3)
    np.testing.assert_allclose(slopes, [0.5 * np.log1p(b * 0.5), 1.5, 0, 0], rtol=1e-5)
    counted = histograms.of_boxes(of_head, boxes.BoxLoss(0.1))
    values, amounts = counted["box_error_over_beta"]
    np.testing.assert_allclose(values[:2], [5, 20], rtol=1e-6)
    np.testing.assert_array_equal(amounts, [1, 1, 0, 0])
    np.testing.assert_allclose(counted["box_gradient_by_error_over_beta"][1], [0.1, 0.1, 0, 0])


def predict(detector, batch):
    """What a training step predicts, but with the report's proposals, those of an inference."""
    model, labels = detector.model, batch.labels
    if not hasattr(model, "rpn_head"):
        return predict_in_training(model, batch.images, labels)
    # First: a training step moves the statistics of batch norms.
    features = model.decoder(model.backbone(batch.images, training=False), training=False)
    scores, rpn_boxes = model.rpn_head(features, training=False)
    outputs = predict_in_training(model, batch.images, labels)
    return {**outputs, "rpn_scores": scores, "rpn_boxes": rpn_boxes}


def count_in_training(detector, batch):
    """The counts of the histograms after one step."""
    task = detector.task
    task.build_metrics(training=True)

    @tf.function
    def step():
        task.build_losses(predict(detector, batch), batch.labels)

    with task.training_histograms.during(tf.Variable(0, dtype=tf.int64), detector.model):
        step()
    counts = task.training_histograms._counts
    return {name: variable.numpy() for name, variable in counts.items()}


def count_in_report(detector, batch, kind, loss):
    """The numbers of the report under the names of the histograms."""
    tally = SampleTally(detector.levels, {1: "a", 2: "b", 3: "c"}, detector.quotas[kind])
    (candidates,) = detector.candidates(batch)[kind]
    tally.add(candidates)
    result = tally.result()
    of_gradients = gradients.GradientTally(detector)
    of_gradients.add(batch.images, batch.labels)
    errors = of_gradients.result()["box_errors"][loss]
    by_pick = {name: np.array(of["histogram"]) for name, of in result["picks"].items()}
    of_objects = np.array([*result["positives"]["all"]["histogram"], *[0] * 21])[:21]
    return {
        "iou/candidates": by_pick["candidates"],
        "iou/negatives_random": by_pick["random"],
        "iou/negatives_iou_balanced": by_pick["iou_balanced"],
        "iou/negatives_mmdet_bins": by_pick["mmdet"],
        # The first of the histogram's bins is [0, 1].
        "positives_of_an_object": np.append(of_objects[:2].sum(), of_objects[2:]),
        # The last of the histogram's bins is from 1.9, the report has one up to 2 more.
        "box_error_over_beta": fold(errors["histogram"]["count_share"]) * errors["num_coordinates"],
        "box_gradient_by_error_over_beta": fold(errors["histogram"]["gradient_share"]),
    }


def fold(shares):
    return np.append(shares[:19], np.sum(shares[19:]))


@pytest.mark.parametrize(
    ("experiment", "kind", "loss"),
    [
        ("libra_retinanet_demo", "anchors", "box"),
        pytest.param("libra_fasterrcnn_demo", "proposals", "frcnn_box", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_step_counts_what_the_report_counts(experiment, kind, loss, tiny_shapes):
    """Of the same image, with the same draws: seeds and steps are 0."""
    params = make_params(experiment, tiny_shapes, {"losses": {"balanced_l1": {"beta": 0.3}}})
    model = task_factory.get_task(params.task).build_model()
    run = types.SimpleNamespace(params=params, load_model=lambda: model, model_dir="")
    detector = detectors.load(run)
    batch = next(iter(detector.read(None)))
    labels = tf.nest.map_structure(lambda label: label[:1], batch.labels)
    batch = Batch(batch.images[:1], labels)
    in_report = count_in_report(detector, batch, kind, loss)
    in_training = count_in_training(detector, batch)
    assert set(in_report) == set(in_training)
    gradient = in_training.pop("box_gradient_by_error_over_beta")
    np.testing.assert_allclose(
        gradient / gradient.sum(), in_report["box_gradient_by_error_over_beta"], atol=1e-5
    )
    if kind == "proposals":
        # Padding, which the report leaves out, shifts the draws that are made in two turns.
        for name in ("iou/negatives_iou_balanced", "iou/negatives_mmdet_bins"):
            assert in_training.pop(name).sum() == in_report[name].sum() > 0
    for name, counts in in_training.items():
        assert counts.sum() > 0, name
        np.testing.assert_allclose(counts, in_report[name], atol=1e-3, err_msg=name)


@pytest.mark.slow
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
    record = results.Results(folder, experiment, "shapes", "float32")
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
    steps = {}
    for enabled in (True, False):
        params = make_params(
            experiment,
            tiny_shapes,
            {"analysis": {"enabled": enabled, "interval": 1}},
            {"train_data": {"parser": {"aug_rand_hflip": False}}},
        )
        # Adam takes a step of the same size for a gradient that is rounding alone.
        params.trainer.optimizer_config.override({"optimizer": {"type": "sgd"}})
        # One step only, so it may be large: a small one would be lost in the weights' own digits.
        params.trainer.optimizer_config.warmup.type = None
        params.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate = 1e4
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
        before = [variable.numpy() for variable in model.trainable_variables]
        step(batch)
        steps[enabled] = [
            variable.numpy() - value
            for variable, value in zip(model.trainable_variables, before, strict=True)
        ]
        if enabled:
            counts = task.training_histograms._counts["iou/candidates"].numpy()
            assert counts.sum() > 0
    # Some gradients, such as that of a bias before a batch norm, are rounding alone.
    rounding = 1e-5 + 1e-5 * max(np.abs(plain).max() for plain in steps[False])
    for counted, plain in zip(*steps.values(), strict=True):
        tolerance = rounding + 1e-3 * np.abs(plain).max()
        np.testing.assert_allclose(counted, plain, rtol=1e-4, atol=tolerance)
    assert np.mean([np.abs(plain).max() > 2 * rounding for plain in steps[False]]) > 0.5
