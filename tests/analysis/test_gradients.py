"""Gradient norms against a tape of their own over the task's loss."""

import numpy as np
import pytest
import tensorflow as tf
from official.vision.losses import loss_utils

from libra_tf.analysis import detectors, gradients
from libra_tf.runs import trained_run
from tests.detectors import predict_in_training

pytestmark = pytest.mark.one_lane

# Random weights make no errors above 1.
LOW_KNEE = {"losses": {"balanced_l1": {"beta": 0.3}}}
# The seeded sampler draws the same RoIs for the measure and for the test.
SEEDED = {"model": {"roi_sampler": {"type": "iou_balanced"}}}


def test_gradient_norms_are_those_of_a_training_step(report_of_both):
    """Against one tape over the loss that Model Garden's step minimises, regularisation apart."""
    run = trained_run.read(report_of_both.model_dirs[0])
    detector = detectors.load(run)
    batch = next(iter(detector.read(None)))
    tally = gradients.GradientTally(detector)
    before = [variable.numpy() for variable in detector.model.variables]
    tally.add(batch.images, batch.labels)
    for variable, value in zip(detector.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    measured = tally.result()
    variables = detector.model.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        outputs = detector.model(batch.images, training=True)
        _, cls_loss, box_loss, model_loss = detector.task.build_losses(outputs, batch.labels)
        box_loss = detector.config.losses.box_loss_weight * box_loss
    assert sum(measured["losses"].values()) == pytest.approx(float(model_loss), rel=1e-4)
    for name, loss in (("cls", cls_loss), ("box", box_loss)):
        parts = measured["gradient_norms"][name]["all"]
        total = np.sqrt(sum(parts[p] ** 2 for p in ("backbone", "decoder", "head")))
        gradient = tape.gradient(loss, variables, unconnected_gradients="zero")
        assert total == pytest.approx(float(tf.linalg.global_norm(gradient)), rel=1e-3)
    slopes = np.abs(flatten(tape.gradient(cls_loss, outputs["cls_outputs"]), num_classes=5))
    targets = flatten(batch.labels["cls_targets"], num_classes=1)[..., 0]
    of_classes = tally.of_classes()
    for category in range(1, 5):
        positives = slopes[targets == category, category].sum()
        assert of_classes.sampled[category] == (targets == category).sum() > 0
        assert of_classes.positives[category] == pytest.approx(positives, rel=1e-3)
        negatives = slopes[targets != category, category].sum()
        assert of_classes.negatives[category] == pytest.approx(negatives, rel=1e-3)


def flatten(levels, num_classes):
    """With Model Garden's function: float `[anchors in all images, num_classes]`."""
    flat = loss_utils.multi_level_flatten(levels, num_classes)
    return tf.reshape(flat, [-1, num_classes]).numpy()


def keep(kind, outputs, errors, beta):
    """The same outputs, but only some of them send a gradient back."""
    if kind == "all":
        return outputs
    is_inlier = tf.abs(errors) < beta
    sends = is_inlier if kind == "inliers" else ~is_inlier
    return tf.where(sends, outputs, tf.stop_gradient(outputs))


def retinanet_losses(detector, batch, kind):
    labels, beta = batch.labels, detector.config.losses.balanced_l1.beta
    outputs = detector.model(batch.images, training=True)
    kept = {
        level: keep(kind, predicted, predicted - labels["box_targets"][level], beta)
        for level, predicted in outputs["box_outputs"].items()
    }
    _, _, box_loss, _ = detector.task.build_losses({**outputs, "box_outputs": kept}, labels)
    return {"box": detector.config.losses.box_loss_weight * box_loss}


def fasterrcnn_losses(detector, batch, kind):
    labels, losses = batch.labels, detector.config.losses
    outputs = predict_in_training(detector.model, batch.images, labels)
    rpn = {
        level: keep(
            kind,
            predicted,
            predicted - labels["rpn_box_targets"][level],
            losses.rpn_huber_loss_delta,
        )
        for level, predicted in outputs["rpn_boxes"].items()
    }
    predicted = outputs["box_outputs"]
    errors = predicted - tf.tile(outputs["box_targets"], [1, 1, predicted.shape[-1] // 4])
    rois = keep(kind, predicted, errors, losses.frcnn_huber_loss_delta)
    computed = detector.task.build_losses(
        {**outputs, "rpn_boxes": rpn, "box_outputs": rois}, labels
    )
    return {
        "rpn_box": losses.rpn_box_weight * computed["rpn_box_loss"],
        "frcnn_box": losses.frcnn_box_weight * computed["frcnn_box_loss"],
    }


@pytest.mark.parametrize(
    ("index", "changes", "compute_losses"),
    [
        (0, LOW_KNEE, retinanet_losses),
        pytest.param(1, SEEDED, fasterrcnn_losses, marks=pytest.mark.slow),
    ],
    ids=["retinanet", "fasterrcnn"],
)
@pytest.mark.slow
def test_inliers_and_outliers_are_the_whole_box_gradient(
    report_of_both, index, changes, compute_losses
):
    """At each part, the norms of the whole gradient and of its two parts."""
    run = trained_run.read(report_of_both.model_dirs[index])
    run.params.task.override(changes)
    detector = detectors.load(run)
    batch = next(iter(detector.read(None)))
    tally = gradients.GradientTally(detector)
    tally.add(batch.images, batch.labels)
    norms = tally.result()["gradient_norms"]

    @tf.function
    def differentiate(kind):
        with tf.GradientTape(persistent=True) as tape:
            losses = compute_losses(detector, batch, kind)
        return {
            name: tape.gradient(loss, detector.modules, unconnected_gradients="zero")
            for name, loss in losses.items()
        }

    independent = {kind: differentiate(kind) for kind in ("all", "inliers", "outliers")}
    for name, whole in independent["all"].items():
        assert set(norms[name]) == set(independent)
        for part, of_part in whole.items():
            of_kinds = {kind: independent[kind][name][part] for kind in independent}
            for kind, gradient in of_kinds.items():
                expected = float(tf.linalg.global_norm(gradient))
                assert norms[name][kind][part] == pytest.approx(expected, rel=1e-3, abs=1e-7)
            both = [a + b for a, b in zip(of_kinds["inliers"], of_kinds["outliers"], strict=True)]
            difference = tf.linalg.global_norm([a - b for a, b in zip(both, of_part, strict=True)])
            assert float(difference) <= 1e-4 * float(tf.linalg.global_norm(of_part)) + 1e-7
    # Neither kind is empty.
    for name in independent["all"]:
        assert norms[name]["inliers"]["shared"] > 0 and norms[name]["outliers"]["shared"] > 0
