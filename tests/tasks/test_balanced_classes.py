"""Weights of the classes in the losses of the tasks, against formulas and Model Garden's class."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.losses import focal_loss, loss_utils, maskrcnn_losses
from official.vision.tasks import retinanet

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.layers import IoUBalancedROISampler
from libra_tf.runner.config import use_dataset
from tests.detectors import SMALL, predict_in_training

NUM_CLASSES = 5
WEIGHTS = [0.5, 1.0, 2.0, 3.0, 0.0]


def configure(experiment, dataset, **task):
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, dataset)
    params.task.override(SMALL)
    params.task.train_data.global_batch_size = 2
    params.task.override(task)
    assert params.task.model.num_classes == NUM_CLASSES
    return params.task


@pytest.fixture(
    scope="module",
    params=[
        "libra_retinanet_demo",
        pytest.param("libra_fasterrcnn_demo", marks=pytest.mark.one_lane),
    ],
)
def scene(request, tiny_shapes):
    """An experiment, a batch of it and the outputs of a detector for it."""
    config = configure(request.param, tiny_shapes)
    task = task_factory.get_task(config)
    images, labels = next(iter(task.build_inputs(config.train_data).take(1)))
    outputs = predict_in_training(task.build_model(), images, labels)
    outputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)
    return request.param, labels, outputs


def losses(experiment, labels, outputs, dataset, **of_losses):
    """Total and class loss."""
    task = task_factory.get_task(configure(experiment, dataset, losses=of_losses))
    all_losses = task.build_losses(outputs, labels)
    if isinstance(all_losses, dict):
        return float(all_losses["total_loss"]), float(all_losses["frcnn_cls_loss"])
    return float(all_losses[0]), float(all_losses[1])


def expected_class_loss(experiment, labels, outputs):
    if "fasterrcnn" in experiment:
        # Model Garden's own class.
        loss = maskrcnn_losses.FastrcnnClassLoss()
        return float(loss(outputs["class_outputs"], outputs["class_targets"], WEIGHTS))
    targets = loss_utils.multi_level_flatten(labels["cls_targets"], last_dim=None)
    logits = loss_utils.multi_level_flatten(outputs["cls_outputs"], last_dim=NUM_CLASSES)
    config = exp_factory.get_exp_config(experiment).task.losses
    terms = focal_loss.FocalLoss(
        alpha=config.focal_loss_alpha, gamma=config.focal_loss_gamma, reduction="none"
    )(tf.one_hot(targets, NUM_CLASSES), logits)
    # Of the background, the target is -1.
    of_anchors = (
        np.array(WEIGHTS)[np.maximum(targets, 0).astype(int)] * labels["cls_weights"].numpy()
    )
    weighted = terms.numpy() * of_anchors[..., None]
    return weighted.sum() / (labels["box_weights"].numpy().sum() + 1)


@pytest.mark.parametrize("box_loss", ["balanced_l1", "huber"])
def test_a_sample_has_the_weight_of_its_class(scene, box_loss, tiny_shapes):
    experiment = scene[0]
    plain = losses(*scene, tiny_shapes, box_loss=box_loss)
    equal = losses(*scene, tiny_shapes, box_loss=box_loss, class_weights=[1.0] * NUM_CLASSES)
    assert equal == pytest.approx(plain, rel=1e-6)
    total, weighted = losses(*scene, tiny_shapes, box_loss=box_loss, class_weights=WEIGHTS)
    assert weighted == pytest.approx(expected_class_loss(*scene), rel=1e-4)
    assert weighted != pytest.approx(plain[1], rel=1e-2), experiment
    assert total - weighted == pytest.approx(plain[0] - plain[1], rel=1e-4)


def test_weights_that_were_not_counted(scene, tiny_shapes):
    message = "class_weighting is effective_number, but task.losses.class_weights is not set"
    with pytest.raises(ValueError, match=message):
        losses(*scene, tiny_shapes, class_weighting="effective_number")
    losses(*scene, tiny_shapes, class_weighting="effective_number", class_weights=WEIGHTS)


@pytest.mark.one_lane
def test_the_switch_reaches_the_sampler(tiny_shapes):
    for value in (False, True):
        sampler = {"model": {"roi_sampler": {"class_balanced": value}}}
        task = task_factory.get_task(configure("libra_fasterrcnn_demo", tiny_shapes, **sampler))
        chosen = task.build_model().roi_sampler[0]
        assert isinstance(chosen, IoUBalancedROISampler)
        assert chosen.get_config()["class_balanced"] is value


def test_model_gardens_loss_is_back_afterwards(scene, tiny_shapes):
    losses(*scene, tiny_shapes, class_weights=WEIGHTS)
    assert retinanet.focal_loss is focal_loss


@pytest.mark.slow
@pytest.mark.one_lane
@pytest.mark.parametrize("experiment", ["libra_retinanet_demo", "libra_fasterrcnn_demo"])
def test_a_compiled_step_with_all_switches(experiment, tiny_shapes):
    switches = {
        "losses": {"class_weights": WEIGHTS},
        "train_data": {"repeat_threshold": 1.0, "class_frequencies": [0.5] * NUM_CLASSES},
    }
    if "fasterrcnn" in experiment:
        # TensorFlow's batched suppression has no XLA kernel.
        switches["model"] = {
            "roi_sampler": {"class_balanced": True},
            "roi_generator": {"use_batched_nms": False},
        }
    task = task_factory.get_task(configure(experiment, tiny_shapes, **switches))
    model = task.build_model()
    (images, labels), *_ = task.build_inputs(task.task_config.train_data).take(1)

    @tf.function(jit_compile=True)
    def gradients(images, labels):
        with tf.GradientTape() as tape:
            outputs = predict_in_training(model, images, labels)
            outputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)
            result = task.build_losses(outputs, labels)
            total = result["total_loss"] if isinstance(result, dict) else result[0]
        return total, tape.gradient(total, model.trainable_variables)

    total, computed = gradients(images, labels)
    assert np.isfinite(total)
    assert all(np.isfinite(g).all() for g in computed if g is not None)
