"""Training with MMDetection's parts: compiled, in bfloat16, on two devices, and what it trains."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory
from official.modeling import performance

from libra_tf.compat import keras
from libra_tf.configs import checks
from libra_tf.modeling.torch_sgd import TorchSGD
from tests import mmdetection

pytestmark = pytest.mark.one_lane

KINDS = ["retinanet", pytest.param("fasterrcnn", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return mmdetection.prepare(tmp_path_factory.mktemp("training"))


@pytest.fixture
def bfloat16():
    performance.set_mixed_precision_policy("bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def build(kind, dataset, dtype="float32"):
    params = mmdetection.configure(kind, dataset, dtype=dtype)
    keras.utils.set_random_seed(1)
    task = task_factory.get_task(params.task)
    return task, task.build_model(), task.build_inputs(params.task.train_data)


def batches_of_both_shapes(inputs):
    by_shape = {}
    for batch in inputs:
        by_shape.setdefault(tuple(batch[0].shape[1:3]), batch)
        if len(by_shape) == 2:
            return list(by_shape.values())
    raise AssertionError("the data never end")


def step_of(task, model, **kwargs):
    optimizer = TorchSGD(0.01, global_clipnorm=35.0)
    return tf.function(
        lambda inputs: task.train_step(inputs, model, optimizer), reduce_retracing=True, **kwargs
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_for_both_shapes(kind, dataset):
    task, model, inputs = build(kind, dataset)
    before, batches, losses = model.get_weights(), batches_of_both_shapes(inputs), {}
    for compiled in (False, True):
        model.set_weights(before)
        step = step_of(task, model, jit_compile=compiled)
        losses[compiled] = [float(step(batch)[task.loss]) for batch in batches][:1]
    # The first batch only: which RoIs are drawn hinges on the last bit.
    tolerance = 1e-4 if kind == "retinanet" else 0.2
    np.testing.assert_allclose(losses[True], losses[False], rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_histograms_count_its_anchors(kind, dataset):
    params = mmdetection.configure(kind, dataset)
    params.task.analysis.enabled, params.task.analysis.interval = True, 1
    task = task_factory.get_task(params.task)
    model, metrics = task.build_model(), task.build_metrics(training=True)
    batch = next(iter(task.build_inputs(params.task.train_data)))
    optimizer = TorchSGD(0.01)
    tf.function(lambda inputs: task.train_step(inputs, model, optimizer, metrics))(batch)
    counts = [variable.numpy() for variable in task.training_histograms.variables]
    assert sum(count.sum() for count in counts) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(bfloat16, kind, dataset):
    task, model, inputs = build(kind, dataset, "bfloat16")
    step = step_of(task, model)
    losses = [float(step(batch)[task.loss]) for batch in inputs.take(3)]
    assert np.isfinite(losses).all()


def test_trains_all_but_stem_first_stage_and_statistics(dataset):
    task, model, _ = build("retinanet", dataset)
    trained = {id(variable) for variable in model.trainable_variables}
    fixed = [v for v in model.variables if id(v) not in trained]
    statistics = [v for v in fixed if "moving" in v.name]
    assert len(statistics) == 2 * len([v for v in model.variables if "gamma" in v.name])
    # The stem and two blocks of two convolutions, each with scale and shift.
    assert len(fixed) - len(statistics) == 3 * 5
    batch = next(iter(task.build_inputs(task.task_config.train_data)))
    # Biases and the last layer of the non-local block start at 0, which nothing decays.
    for variable in model.trainable_variables:
        variable.assign(variable + 0.01)
    before = [v.numpy() for v in fixed]
    moving = [v.numpy() for v in model.trainable_variables]
    step_of(task, model)(batch)
    for variable, value in zip(fixed, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable, value in zip(model.trainable_variables, moving, strict=True):
        assert np.any(variable.numpy() != value), variable.name


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("retinanet", {"train_data": {"parser": {"aug_scale_max": 1.2}}}, "parser.aug_scale_max"),
        ("retinanet", {"train_data": {"cache": True}}, "task.train_data.cache"),
        ("fasterrcnn", {"train_data": {"parser": {"aug_rand_vflip": True}}}, "aug_rand_vflip"),
        ("fasterrcnn", {"model": {"include_mask": True}}, "task.model.include_mask"),
        (
            "retinanet",
            {"model": {"backbone": {"resnet": {"se_ratio": 0.25}}}},
            r"task\.model\.backbone\.resnet\.se_ratio is 0\.25",
        ),
        (
            "retinanet",
            {"model": {"decoder": {"libra_fpn": {"fusion_type": "concat"}}}},
            r"task\.model\.decoder\.libra_fpn\.fusion_type is 'concat'",
        ),
        (
            "retinanet",
            {"model": {"head": {"attribute_heads": [{"name": "depth"}]}}},
            r"task\.model\.head\.attribute_heads is",
        ),
        (
            "retinanet",
            {"model": {"detection_generator": {"box_coder_weights": [10.0, 10.0, 5.0, 5.0]}}},
            r"task\.model\.detection_generator\.box_coder_weights is",
        ),
        (
            "fasterrcnn",
            {"losses": {"box_loss_normalizer": "positives"}},
            "box_loss_normalizer is 'positives'; it must be one of sampled_rois",
        ),
        (
            "retinanet",
            {"train_data": {"tfds_name": "coco/2017"}},
            r"task\.train_data\.tfds_name is",
        ),
        (
            "retinanet",
            {"model": {"detection_generator": {"soft_nms_sigma": 0.5}}},
            r"task\.model\.detection_generator\.soft_nms_sigma is 0\.5",
        ),
        (
            "fasterrcnn",
            {"model": {"roi_generator": {"pre_nms_score_threshold": 0.1}}},
            r"task\.model\.roi_generator\.pre_nms_score_threshold is 0\.1",
        ),
        (
            "fasterrcnn",
            {"model": {"roi_generator": {"test_pre_nms_min_size_threshold": 2.0}}},
            r"task\.model\.roi_generator\.test_pre_nms_min_size_threshold is 2\.0",
        ),
        (
            "fasterrcnn",
            {"model": {"roi_aligner": {"sample_offset": 0.0}}},
            r"task\.model\.roi_aligner\.sample_offset is 0\.0",
        ),
        (
            "fasterrcnn",
            {"model": {"outer_boxes_scale": 1.2}},
            r"task\.model\.outer_boxes_scale is 1\.2",
        ),
        (
            "fasterrcnn",
            {"losses": {"rpn_huber_loss_delta": 1.0}},
            r"task\.losses\.rpn_huber_loss_delta is 1\.0",
        ),
        (
            "fasterrcnn",
            {
                "model": {
                    "roi_sampler": {"cascade_iou_thresholds": [0.6]},
                    "detection_head": {"class_agnostic_bbox_pred": True},
                }
            },
            "cascade_iou_thresholds",
        ),
    ],
)
def test_refuses_what_it_cannot_honour(kind, changes, message, dataset):
    params = mmdetection.configure(kind, dataset)
    params.task.override(changes)
    with pytest.raises(ValueError, match=message):
        params.task.validate()


@pytest.mark.parametrize(
    ("optimization", "l2_weight_decay", "message"),
    [
        ({"ema": {"average_decay": 0.9}}, 0.0, r"optimizer_config\.ema is set"),
        ({"optimizer": {"type": "moving_average"}}, 0.0, r"type is 'moving_average'"),
        ({"optimizer": {"type": "sgd"}}, 0.0, r"type is 'sgd', whose momentum"),
        ({"optimizer": {"type": "torch_sgd"}}, 1e-4, r"l2_weight_decay is 0\.0001, and torch_sgd"),
    ],
)
def test_refuses_other_ways_to_train(optimization, l2_weight_decay, message, dataset):
    params = mmdetection.configure("retinanet", dataset)
    config = params.trainer.optimizer_config
    config.override({"optimizer": {"type": "torch_sgd"}})
    checks.check_optimization(params.task, config)
    config.override(optimization)
    params.task.losses.l2_weight_decay = l2_weight_decay
    with pytest.raises(ValueError, match=message):
        checks.check_optimization(params.task, config)


def test_l1_is_for_this_mode_alone(dataset):
    params = mmdetection.configure("retinanet", dataset)
    params.task.losses.box_loss = "l1"
    params.task.validate()
    params.task.model.compatibility = None
    # Without the mode, the input must fill the coarsest level.
    params.task.model.input_size = [128, 128, 3]
    with pytest.raises(ValueError, match=r"task\.losses\.box_loss is l1, which only"):
        params.task.validate()
