"""Wrong values in --params_override are refused before any work, in one line that names the key."""

import functools
import re

import hypothesis
import pytest
from hypothesis import strategies as st
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli import program
from libra_tf.cli.errors import UsageError
from libra_tf.configs import names, ranges
from libra_tf.runner import config
from tests.configs import build, dataset

ADAM = "trainer.optimizer_config.optimizer.adam"
OPTIMIZER = "trainer.optimizer_config.optimizer"
RATE = "trainer.optimizer_config.learning_rate"
WARMUP = "trainer.optimizer_config.warmup.linear"
MODEL = "task.model"
DETECTIONS = "task.model.detection_generator"
PARSER = "task.train_data.parser"

# Keys that all detectors have: what is set, and what the message says of it.
ANY_DETECTOR = {
    f"{MODEL}.input_size=[100,100,3]": r"input_size is \[100, 100, 3\].* such as \[\d+, \d+, 3\]",
    f"{MODEL}.input_size=[128,130,3]": r"height and width must be multiples of 2\*\*max_level",
    f"{MODEL}.input_size=[128,128,1]": r"it must be \[height, width, 3\]",
    f"{MODEL}.max_level=9": r"task\.model\.max_level is 9; .*multiples of 2\*\*max_level = 512",
    f"{MODEL}.max_level=1": r"task\.model\.min_level and max_level are \d and 1; .*at most",
    f"{MODEL}.min_level=1": r"task\.model\.min_level and max_level are 1 .*at least 2, the finest",
    f"{MODEL}.min_level=8": r"task\.model\.min_level and max_level are 8 .*at most max_level",
    f"{MODEL}.num_classes=1": r"task\.model\.num_classes is 1; it must be at least 2",
    f"{MODEL}.num_classes=-3": r"task\.model\.num_classes is -3",
    f"{MODEL}.num_classes=7": r"num_classes is 7, but the classes of cells need 8.*set it to that",
    f"{MODEL}.anchor.num_scales=0": r"anchor\.num_scales is 0; it must be at least 1",
    f"{MODEL}.anchor.aspect_ratios=[]": r"aspect_ratios is \[\]; .*at least one number, .* above 0",
    f"{MODEL}.anchor.aspect_ratios=[-1]": r"aspect_ratios is \[-1\.0\]",
    f"{MODEL}.anchor.anchor_size=0": r"anchor\.anchor_size is 0\.0; it must be above 0",
    f"{MODEL}.decoder.libra_fpn.num_filters=0": r"libra_fpn\.num_filters is 0; .*at least 1",
    f"{MODEL}.decoder.libra_fpn.fusion_type=max": r"fusion_type is 'max'.*one of sum, concat",
    f"{MODEL}.norm_activation.activation=foo": r"activation is 'foo'; .*Keras's activations",
    f"{MODEL}.norm_activation.activation=null": r"activation is None; it must be the name",
    f"{MODEL}.norm_activation.norm_momentum=1.5": r"norm_momentum is 1\.5; .*from 0 to 1",
    f"{MODEL}.norm_activation.norm_epsilon=0": r"norm_epsilon is 0\.0; it must be above 0",
    f"{DETECTIONS}.nms_version=v9": r"nms_version is 'v9'; it must be one of batched, v1, v2",
    f"{DETECTIONS}.nms_iou_threshold=1.5": r"nms_iou_threshold is 1\.5; .*from 0 to 1",
    f"{DETECTIONS}.pre_nms_score_threshold=-0.1": r"pre_nms_score_threshold is -0\.1",
    f"{DETECTIONS}.pre_nms_top_k=0": r"pre_nms_top_k is 0; it must be at least 1",
    f"{DETECTIONS}.max_num_detections=0": r"max_num_detections is 0; it must be at least 1",
    f"{DETECTIONS}.soft_nms_sigma=-1": r"soft_nms_sigma is -1\.0; it must be at least 0",
    "task.losses.loss_weight=0": r"loss_weight is 0\.0; it must be above 0",
    "task.losses.l2_weight_decay=-1": r"l2_weight_decay is -1\.0; it must be at least 0",
    "task.losses.l2_weight_decay=.nan": r"l2_weight_decay is NaN; it must be a number",
    "task.train_data.dtype=int8": r"train_data\.dtype is 'int8'; .*float32, float16, bfloat16",
    "task.validation_data.dtype=double": r"validation_data\.dtype is 'double'",
    "task.train_data.is_training=false": r"train_data\.is_training is False; it must be true$",
    "task.validation_data.is_training=true": r"is_training is True; it must be false$",
    "task.train_data.global_batch_size=100000": r"100000, but cells has 100 training.*at most 100",
    "task.train_data.global_batch_size=0": r"train_data\.global_batch_size is 0; .*at least 1",
    "task.validation_data.global_batch_size=-4": r"validation_data\.global_batch_size is -4",
    "task.validation_data.global_batch_size=30,task.validation_data.drop_remainder=true": (
        r"validation_data\.global_batch_size is 30, but cells has 21 .*set it to false"
    ),
    "task.train_data.shuffle_buffer_size=0": r"shuffle_buffer_size is 0; it must be at least 1",
    "task.train_data.cycle_length=0": r"cycle_length is 0; it must be at least 1",
    "task.train_data.block_length=-1": r"block_length is -1; it must be at least 1",
    "task.train_data.prefetch_buffer_size=-5": r"prefetch_buffer_size is -5; .*at least -1",
    "task.train_data.repeat_threshold=1.5": r"repeat_threshold is 1\.5; it must be from 0 to 1",
    "task.train_data.repeat_threshold=-1": r"repeat_threshold is -1\.0; it must be from 0 to 1",
    "task.train_data.repeat_threshold=0.1,task.train_data.cache=true": (
        r"repeat_threshold is 0\.1, .* but task\.train_data\.cache=true .* set it to false"
    ),
    "task.train_data.repeat_threshold=0.1,task.train_data.decoder.type=label_map_decoder": (
        r"repeat_threshold is 0\.1, which needs .*decoder\.type is label_map_decoder; use simple"
    ),
    "task.train_data.class_frequencies=[0.1,2]": r"class_frequencies is .* each from 0 to 1",
    "task.train_data.class_frequencies=[0.1,0.2]": r"class_frequencies has 2 shares; .*makes 8",
    "task.validation_data.repeat_threshold=0.1": r"no config key task\.validation_data\.repeat_t",
    "task.losses.class_weighting=inverse": r"class_weighting is 'inverse'; it must be one of none,",
    "task.losses.class_weighting=inverse_frequency,task.train_data.tfds_name=coco": (
        r"class_weighting is inverse_frequency, which needs .* leave out tfds_name"
    ),
    "task.losses.effective_number_beta=1": r"beta is 1\.0; it must be at least 0 and below 1",
    "task.losses.class_weights=[1,2]": r"class_weights has 2 weights; .*which makes 8",
    "task.losses.class_weights=[1,-2]": r"class_weights is \[1\.0, -2\.0\]; .*at least 0",
    "task.train_data.file_type=csv": r"file_type is 'csv'; .*tfrecord, tfrecord_compressed",
    f"{PARSER}.max_num_instances=0": r"max_num_instances is 0; it must be at least 1",
    f"{PARSER}.aug_scale_min=-1": r"aug_scale_min is -1\.0; it must be above 0",
    f"{PARSER}.aug_scale_max=0.5": r"aug_scale_min is 1\.0 and aug_scale_max is 0\.5",
    f"{PARSER}.num_channels=4": r"num_channels is 4; it must be 3$",
    f"{PARSER}.aug_type.type=foo": r"aug_type\.type is 'foo'; .*one of randaug, autoaug",
    f"{PARSER}.aug_type.kind=foo": r"no config key task\.train_data\.parser\.aug_type\.kind",
    f"{PARSER}.aug_type.type=randaug,{PARSER}.aug_type.randaug.magnitude=11": (
        r"randaug\.magnitude is 11\.0; it must be from 0 to 10"
    ),
    f"{PARSER}.aug_type.type=autoaug,{PARSER}.aug_type.autoaug.augmentation_name=x": (
        r"augmentation_name is 'x'; it must be the name of one of Model Garden's policies"
    ),
    "task.analysis.interval=0": r"task\.analysis\.interval is 0; it must be at least 1",
    f"{RATE}.cosine.initial_learning_rate=-1": r"initial_learning_rate is -1\.0; .*above 0",
    f"{RATE}.cosine.initial_learning_rate=0": r"initial_learning_rate is 0\.0; .*above 0",
    f"{RATE}.cosine.initial_learning_rate=.inf": r"initial_learning_rate is inf; .*above 0",
    f"{RATE}.cosine.initial_learning_rate=null": r"initial_learning_rate is None; .*above 0",
    f"{RATE}.cosine.decay_steps=0": r"cosine\.decay_steps is 0; it must be at least 1",
    f"{RATE}.cosine.alpha=2": r"cosine\.alpha is 2\.0; it must be from 0 to 1",
    f"{RATE}.type=exponential": r"exponential\.initial_learning_rate is None; it must be above 0",
    f"{RATE}.type=null": r"learning_rate\.type is not set; choose one of constant, stepwise",
    f"{RATE}.type=stepwise": r"stepwise\.boundaries is None; it must be a list",
    f"{RATE}.type=stepwise,{RATE}.stepwise.boundaries=[90],{RATE}.stepwise.values=[1]": (
        r"stepwise\.values is \[1\.0\].*one more value than boundaries"
    ),
    f"{RATE}.type=stepwise,{RATE}.stepwise.boundaries=[90,80],{RATE}.stepwise.values=[1,1,1]": (
        r"stepwise\.boundaries is \[90, 80\]; each step must be greater than the one before"
    ),
    f"{RATE}.type=stepwise,{RATE}.stepwise.boundaries=[90],{RATE}.stepwise.values=[1,-1]": (
        r"stepwise\.values is \[1\.0, -1\.0\]; .*at least 0"
    ),
    f"{WARMUP}.warmup_steps=-1": r"warmup_steps is -1; it must be at least 0",
    f"{WARMUP}.warmup_learning_rate=-0.1": r"warmup_learning_rate is -0\.1",
    f"{OPTIMIZER}.type=null": r"optimizer\.type is not set; choose one of sgd, ",
    f"{ADAM}.beta_1=2": r"adam\.beta_1 is 2\.0; it must be at least 0 and below 1",
    f"{ADAM}.beta_2=1": r"adam\.beta_2 is 1\.0; it must be at least 0 and below 1",
    f"{ADAM}.epsilon=0": r"adam\.epsilon is 0\.0; it must be above 0",
    f"{ADAM}.global_clipnorm=0": r"global_clipnorm is 0\.0; .*above 0, or null for no clipping",
    f"{OPTIMIZER}.type=sgd,{OPTIMIZER}.sgd.momentum=1.2": r"sgd\.momentum is 1\.2",
    f"{OPTIMIZER}.type=torch_sgd,{OPTIMIZER}.torch_sgd.weight_decay=-1": r"weight_decay is -1\.0",
    "trainer.optimizer_config.ema.average_decay=1.5": r"ema\.average_decay is 1\.5; .*from 0 to 1",
    "trainer.optimizer_config.ema.average_decay=x": r"ema\.average_decay is 'x'; it must be a num",
    "runtime.mixed_precision_dtype=float16,trainer.optimizer_config.ema.average_decay=0.9": (
        r"mixed_precision_dtype is float16, which does not work with averages"
    ),
    "trainer.eval_tf_while_loop=true": r"eval_tf_while_loop is true.*set it to false",
    "trainer.train_steps=-1": r"trainer\.train_steps is -1; it must be at least 0",
    "trainer.checkpoint_interval=0": r"trainer\.checkpoint_interval is 0; .*at least 1",
    "trainer.max_to_keep=0": r"trainer\.max_to_keep is 0; it must be at least 1",
    "trainer.loss_upper_bound=0": r"trainer\.loss_upper_bound is 0\.0; it must be above 0",
    "trainer.best_checkpoint_metric_comp=more": r"metric_comp is 'more'; .*higher, lower",
    "trainer.train_tf_function=false": r"train_tf_function is false.*set both to false",
    "task.use_wod_metrics=true": r"use_wod_metrics is True; it must be false",
    "runtime.num_gpus=-1": r"runtime\.num_gpus is -1; it must be at least 0",
}

ONE_STAGE = {
    f"{MODEL}.head.num_convs=-1": r"task\.model\.head\.num_convs is -1; it must be at least 0",
    f"{MODEL}.head.num_filters=0": r"task\.model\.head\.num_filters is 0; it must be at least 1",
    "task.losses.focal_loss_alpha=7": r"focal_loss_alpha is 7\.0; it must be from 0 to 1",
    "task.losses.focal_loss_gamma=-1": r"focal_loss_gamma is -1\.0; it must be at least 0",
    "task.losses.huber_loss_delta=0": r"huber_loss_delta is 0\.0; it must be above 0",
    "task.losses.box_loss_weight=-4": r"box_loss_weight is -4; it must be at least 0",
    "task.max_num_eval_detections=0": r"max_num_eval_detections is 0; it must be at least 1",
    f"{DETECTIONS}.nms_version=tflite": r"nms_version is 'tflite'; .*batched, v1, v2, v3",
    f"{DETECTIONS}.nms_version=v1,{DETECTIONS}.use_class_agnostic_nms=true": (
        r"use_class_agnostic_nms is true.*nms_version=v2"
    ),
    f"{DETECTIONS}.box_coder_weights=[1,1,0,1]": r"box_coder_weights is .* each above 0",
    "task.losses.class_weighting=inverse_frequency,"
    f"{MODEL}.head.attribute_heads=[{{name: depth}}]": r"attribute_heads have .* leave out one",
    f"{PARSER}.match_threshold=1.5": r"match_threshold is 1\.5; it must be from 0 to 1",
    f"{PARSER}.unmatched_threshold=0.9": r"unmatched_threshold is 0\.9.*in ascending order",
}

TWO_STAGES = {
    f"{MODEL}.roi_aligner.crop_size=0": r"roi_aligner\.crop_size is 0; it must be at least 1",
    f"{MODEL}.roi_aligner.sample_offset=2": r"sample_offset is 2\.0; it must be from 0 to 1",
    f"{MODEL}.detection_head.num_convs=-1": r"detection_head\.num_convs is -1",
    f"{MODEL}.detection_head.fc_dims=0": r"fc_dims is 0; it must be at least 1",
    f"{MODEL}.detection_head.num_fcs=-1": r"num_fcs is -1; it must be at least 0",
    f"{DETECTIONS}.nms_version=v3": r"nms_version is 'v3'; it must be one of batched, v1, v2",
    "task.losses.frcnn_huber_loss_delta=-1": r"frcnn_huber_loss_delta is -1\.0",
    "task.losses.frcnn_box_weight=-1": r"frcnn_box_weight is -1\.0; it must be at least 0",
    "task.losses.frcnn_class_loss_top_k_percent=0": r"top_k_percent is 0\.0; .*at most 1",
    f"{MODEL}.outer_boxes_scale=0.5": r"outer_boxes_scale is 0\.5; it must be at least 1",
    f"{MODEL}.roi_sampler.foreground_fraction=1.5": r"foreground_fraction is 1\.5",
    f"{MODEL}.roi_sampler.class_balanced=true,{MODEL}.roi_sampler.type=random": (
        r"class_balanced is true, but .*type is random.* set it to iou_balanced"
    ),
    f"{MODEL}.roi_sampler.background_iou_high_threshold=-7": r"high_threshold is -7\.0; .*above 0",
}

WITH_RPN = {
    f"{MODEL}.rpn_head.num_filters=0": r"rpn_head\.num_filters is 0; it must be at least 1",
    f"{MODEL}.roi_generator.nms_iou_threshold=-1": r"roi_generator\.nms_iou_threshold is -1\.0",
    f"{MODEL}.roi_generator.test_num_proposals=0": r"test_num_proposals is 0",
    "runtime.enable_xla=true": r"runtime\.enable_xla is true, .*use_batched_nms=false",
    f"{MODEL}.roi_generator.pre_nms_min_size_threshold=-1": r"min_size_threshold is -1\.0",
    f"{PARSER}.rpn_fg_fraction=2": r"rpn_fg_fraction is 2\.0; it must be from 0 to 1",
    f"{PARSER}.rpn_batch_size_per_im=0": r"rpn_batch_size_per_im is 0; it must be at least 1",
}

MASKS = {
    f"{MODEL}.mask_head.num_convs=-1": r"mask_head\.num_convs is -1; it must be at least 0",
    f"{MODEL}.mask_head.upsample_factor=0": r"upsample_factor is 0; it must be at least 1",
    f"{MODEL}.mask_sampler.num_sampled_masks=0": r"num_sampled_masks is 0; it must be at least 1",
    f"{MODEL}.roi_sampler.num_sampled_rois=8": r"num_sampled_masks is 128, but only the 8 of",
    f"{MODEL}.mask_roi_aligner.crop_size=0": r"mask_roi_aligner\.crop_size is 0",
    "task.losses.mask_weight=-1": r"mask_weight is -1\.0; it must be at least 0",
    f"{PARSER}.mask_crop_size=0": r"mask_crop_size is 0; it must be at least 1",
}


def cases():
    """Experiments of every size and kind, with what is wrong."""
    for experiment, tables in {
        "libra_retinanet_demo": (ANY_DETECTOR, ONE_STAGE),
        "libra_fasterrcnn_small": (ANY_DETECTOR, TWO_STAGES, WITH_RPN),
        "libra_retinanet_lite0": (ONE_STAGE,),
        "libra_fasterrcnn_lite0": (WITH_RPN,),
        "libra_retinanet_resnetfpn_coco": (ONE_STAGE,),
        "libra_cascadercnn_resnetfpn_coco": (TWO_STAGES,),
        "libra_fastrcnn_resnetfpn_coco": (TWO_STAGES,),
        "libra_maskrcnn_resnetfpn_coco": (MASKS,),
    }.items():
        for table in tables:
            for override, message in table.items():
                yield pytest.param(experiment, override, message, id=f"{experiment}-{override}")


@pytest.fixture(scope="module", autouse=True)
def experiments_once():
    """Model Garden takes longer to make the config of an experiment than a run to check it."""
    make = exp_factory.get_exp_config
    kept = functools.cache(make)
    with pytest.MonkeyPatch.context() as patch:
        # Experiments change the configs of Model Garden's that they begin with.
        patch.setattr(
            exp_factory,
            "get_exp_config",
            lambda name: kept(name) if name in names.EXPERIMENTS else make(name),
        )
        yield


@pytest.mark.parametrize(("experiment", "override", "message"), cases())
def test_refused(parse, capsys, experiment, override, message):
    flag_values = parse(f"--params_override={override}")
    data = dataset() if "mask" not in experiment else None
    assert program.exit_status(lambda: build(experiment, flag_values, data)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_masks_without_their_parts(parse):
    message = r"include_mask is true, but task\.model\.mask_head is null; use an experiment with"
    with pytest.raises(UsageError, match=message):
        build("libra_fasterrcnn_demo", parse(f"--params_override={MODEL}.include_mask=true"), None)


def test_an_evaluation_needs_detections(parse):
    arguments = parse("--mode=train_and_eval", f"--params_override={DETECTIONS}.apply_nms=false")
    with pytest.raises(UsageError, match=r"apply_nms is false, so --mode=train_and_eval would"):
        build("libra_retinanet_demo", arguments, dataset())
    arguments.mode = "train"
    build("libra_retinanet_demo", arguments, dataset())


@pytest.mark.parametrize("experiment", names.EXPERIMENTS)
def test_every_experiment_is_within_the_ranges(parse, experiment):
    folder = None if "mask" in experiment else dataset()
    params = build(experiment, parse(), folder)
    ranges.check(params.trainer, "trainer")
    ranges.check(params.task, "task")


@pytest.mark.parametrize(
    "override",
    [
        f"{RATE}.cosine.initial_learning_rate=1",
        f"{MODEL}.input_size=[96,160,3]",
        f"{MODEL}.backbone.type=mobiledet,{MODEL}.min_level=1",
        f"{MODEL}.norm_activation.activation=leaky_relu",
        f"{PARSER}.aug_scale_min=0.5,{PARSER}.aug_scale_max=2",
        f"{PARSER}.aug_type.type=randaug,{PARSER}.aug_type.randaug.magnitude=6",
        f"{WARMUP}.warmup_steps=0",
        f"{ADAM}.global_clipnorm=null",
        f"{OPTIMIZER}.type=sgd,{OPTIMIZER}.sgd.momentum=0",
        f"{RATE}.type=constant,{RATE}.constant.learning_rate=0.01",
        f"{RATE}.type=stepwise,{RATE}.stepwise.boundaries=[300],{RATE}.stepwise.values=[1,0]",
        "trainer.optimizer_config.ema.average_decay=0.99",
        "trainer.loss_upper_bound=.inf",
        "trainer.train_steps=0",
        "trainer.train_tf_function=false,trainer.train_tf_while_loop=false",
        "task.losses.class_weights=[1,2,2,2,2,2,2,2]",
        f"{MODEL}.num_classes=20",
        "task.train_data.global_batch_size=100",
        "task.train_data.prefetch_buffer_size=0",
        "task.train_data.repeat_threshold=1e-3",
        "task.losses.class_weighting=effective_number,task.losses.effective_number_beta=0",
        f"{MODEL}.roi_sampler.class_balanced=true",
    ],
)
def test_accepted(parse, override):
    build("libra_fasterrcnn_demo", parse(f"--params_override={override}"), dataset())


def test_a_whole_number_becomes_what_its_key_is(parse):
    override = f"{RATE}.cosine.initial_learning_rate=1,{MODEL}.anchor.aspect_ratios=[1,2]"
    params = build("libra_fasterrcnn_demo", parse(f"--params_override={override}"), None)
    rate = params.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate
    assert [type(number) for number in (rate, *params.task.model.anchor.aspect_ratios)] == [
        float
    ] * 3


def _numbers(group, path):
    """The numeric keys of a config that have an effect."""
    for key, value in ranges._values(group, path):
        if type(value) in (int, float):
            yield key


@hypothesis.settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data(), number=st.sampled_from(["-7", "0", "-0.5", "1e9", "2.5", ".inf"]))
def test_any_number_is_accepted_or_refused_by_name(parse, data, number):
    experiment = data.draw(st.sampled_from(["libra_retinanet_demo", "libra_fasterrcnn_demo"]))
    own = exp_factory.get_exp_config(experiment)
    keys = [*_numbers(own.task, "task"), *_numbers(own.trainer, "trainer")]
    key = data.draw(st.sampled_from(keys))
    try:
        config.build(experiment, parse(f"--params_override={key}={number}"))
    except UsageError as error:
        assert key.split(".")[-1] in str(error) and "\n" not in str(error)
