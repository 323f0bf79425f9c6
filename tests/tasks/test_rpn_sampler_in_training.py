"""The RPN's anchors are sampled evenly where the config says so, and by Model Garden elsewhere."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.tasks import maskrcnn

import libra_tf.registry_imports  # noqa: F401
from libra_tf.compat import keras
from libra_tf.dataloaders import rpn_sampling

pytestmark = pytest.mark.one_lane

ON = {"type": "iou_balanced", "max_negatives_per_positive": 5}
PUBLISHED = {"type": "random", "max_negatives_per_positive": 5}


@pytest.fixture
def make(tiny_shapes):
    """Returns a function from the config of the sampler to a tiny experiment."""

    def make(sampler):
        config = exp_factory.get_exp_config("libra_fasterrcnn_demo")
        task = config.task
        task.model.input_size = [64, 64, 3]
        task.model.backbone.resnet.model_id = 10
        task.model.backbone.resnet.depth_multiplier = 0.25
        task.model.decoder.libra_fpn.num_filters = 16
        task.model.override({"rpn_sampler": sampler})
        data = task.train_data
        data.input_path, data.global_batch_size = tiny_shapes.train.input_path, 4
        data.shuffle_buffer_size, data.parser.aug_rand_hflip = 1, False
        data.parser.rpn_batch_size_per_im = 40
        task.validation_data.input_path = tiny_shapes.val.input_path
        return config

    return make


def first_batch(dataset):
    return next(iter(dataset))


def assert_same(actual, expected):
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


def score_targets(batch):
    levels = batch[1]["rpn_score_targets"]
    return {level: targets.numpy() for level, targets in levels.items()}


def build(config, seed):
    keras.utils.set_random_seed(seed)
    task = task_factory.get_task(config.task)
    return task.build_inputs(config.task.train_data)


def test_random_is_model_gardens_dataset(make, monkeypatch):
    calls = []
    monkeypatch.setattr(
        maskrcnn.MaskRCNNTask, "build_inputs", lambda self, *args: calls.append(args) or "theirs"
    )
    config = make({"type": "random"})
    data = config.task.train_data
    assert task_factory.get_task(config.task).build_inputs(data, "context", "fn") == "theirs"
    assert calls[0][0] is data and calls[0][1:] == ("context", "fn")


def test_evaluation_samples_nothing(make):
    config = make(ON)
    task = task_factory.get_task(config.task)
    _, labels = first_batch(task.build_inputs(config.task.validation_data))
    assert "rpn_score_targets" not in labels


@pytest.mark.parametrize("sampler", [PUBLISHED, pytest.param(ON, marks=pytest.mark.slow)])
def test_what_is_sampled_is_labelled_so_and_all_else_is_model_gardens(make, sampler):
    config = make(sampler)
    config.lock()
    data = config.task.train_data
    model_garden = maskrcnn.MaskRCNNTask(config.task)
    theirs = model_garden.build_inputs(data)
    everything = first_batch(model_garden.build_inputs(rpn_sampling.label_all_anchors(data)))
    ours = build(config, seed=1)
    assert ours.element_spec[1]["rpn_score_targets"] == dict(
        theirs.element_spec[1]["rpn_score_targets"]
    )
    batch = first_batch(ours)
    num_positives, num_negatives = np.zeros(4, int), np.zeros(4, int)
    for level, sampled in score_targets(batch).items():
        labels = score_targets(everything)[level]
        assert ((sampled == labels) | (sampled == -1)).all()
        num_positives += (sampled == 1).sum((1, 2, 3))
        num_negatives += (sampled == 0).sum((1, 2, 3))
    assert (num_positives > 0).all() and (num_positives <= 20).all()
    np.testing.assert_array_equal(num_negatives, np.minimum(40 - num_positives, 5 * num_positives))
    for images_or_labels in (batch, everything):
        images_or_labels[1].pop("rpn_score_targets")
    assert_same(batch, everything)


@pytest.mark.slow
def test_the_seed_of_the_run_fixes_every_batch(make):
    def targets(seed):
        return [score_targets(batch) for batch in build(make(ON), seed).take(3)]

    first = targets(seed=1)
    assert_same(targets(seed=1), first)
    assert any((targets(seed=2)[0][level] != first[0][level]).any() for level in first[0])


def test_published_experiments_limit_the_negatives():
    for name in ("fasterrcnn_resnetfpn", "fasterrcnn_resnextfpn", "cascadercnn_resnetfpn"):
        sampler = exp_factory.get_exp_config(f"libra_{name}_coco").task.model.rpn_sampler
        assert sampler.type == "random" and sampler.max_negatives_per_positive == 5


@pytest.mark.slow
def test_a_training_step(make):
    config = make(ON)
    task = task_factory.get_task(config.task)
    model = task.build_model()
    optimizer = task.create_optimizer(config.trainer.optimizer_config, config.runtime)
    before = [variable.numpy() for variable in model.trainable_variables]
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
    logs = step(first_batch(task.build_inputs(config.task.train_data)))
    assert all(np.isfinite(value) for value in tf.nest.flatten(logs))
    changed = [
        (b != v.numpy()).any() for b, v in zip(before, model.trainable_variables, strict=True)
    ]
    assert np.mean(changed) > 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model": {"rpn_sampler": {"type": "ohem"}}}, r"rpn_sampler\.type is 'ohem'"),
        ({"model": {"rpn_sampler": {"num_bins": 0}}}, r"task\.model\.rpn_sampler: `num_bins`"),
        ({"model": {"rpn_sampler": {"bin_range": "x"}}}, r"task\.model\.rpn_sampler: `bin_range`"),
        (
            {"model": {"rpn_sampler": {"max_negatives_per_positive": -1}}},
            r"rpn_sampler\.max_negatives_per_positive is -1; it must be at least 1, or 0",
        ),
        (
            {"train_data": {"parser": {"rpn_batch_size_per_im": 0}}},
            r"task\.train_data\.parser\.rpn_batch_size_per_im is 0",
        ),
        (
            {"train_data": {"parser": {"rpn_fg_fraction": 1.5}}},
            r"task\.train_data\.parser\.rpn_fg_fraction is 1\.5",
        ),
        (
            {"train_data": {"parser": {"rpn_match_threshold": 0.2}}},
            r"rpn_unmatched_threshold is 0\.3, .*rpn_match_threshold is 0\.2; they must be IoUs",
        ),
        ({"model": {"rpn_sampler": {"floor_threshold": 0.4}}}, r"rpn_sampler: `iou_limit` must be"),
        ({"model": {"roi_sampler": {"foreground_fraction": 1.5}}}, r"foreground_fraction is 1\.5"),
        (
            {"model": {"roi_sampler": {"foreground_iou_threshold": 0.4}}},
            r"roi_sampler\.foreground_iou_threshold is 0\.4; they must be IoUs",
        ),
        (
            {"model": {"roi_sampler": {"floor_fraction": 0.5}}},
            r"floor_fraction is 0\.5 without a floor.*set task\.model\.roi_sampler\.floor_thresh",
        ),
        (
            {
                "model": {
                    "detection_head": {"class_agnostic_bbox_pred": True},
                    "roi_sampler": {"cascade_iou_thresholds": [0.6, 0.7, 0.8]},
                }
            },
            r"cascade_iou_thresholds is .* at most 2 IoUs",
        ),
        (
            {"model": {"roi_sampler": {"cascade_iou_thresholds": [0.6]}}},
            r"needs task\.model\.detection_head\.class_agnostic_bbox_pred=true",
        ),
        ({"model": {"num_classes": 1}}, r"task\.model\.num_classes is 1; it must be at least 2"),
        ({"model": {"min_level": 5}}, r"min_level and max_level are 5 and 4"),
        ({"frozen_stages": 9}, r"task\.frozen_stages is 9; for resnet it must be from 0"),
        (
            {"frozen_stages": 1, "model": {"backbone": {"type": "spinenet"}}},
            r"task\.frozen_stages is 1 and the backbone is spinenet",
        ),
    ],
)
def test_bad_values(make, override, message):
    config = make(ON)
    config.task.override(override)
    with pytest.raises(ValueError, match=message):
        config.task.validate()
