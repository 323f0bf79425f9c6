import itertools
import pathlib

import pytest
from absl import flags
from official.core import exp_factory
from official.modeling import optimization

import libra_tf.registry_imports  # noqa: F401
from libra_tf.cli.errors import UsageError
from libra_tf.configs import names
from libra_tf.runner import config
from libra_tf.runner import flags as runner_flags
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder
from tests.configs import build, dataset


def test_every_libra_experiment_is_registered():
    registered = {n for n in exp_factory._REGISTERED_CONFIGS if n.startswith("libra")}
    assert registered == set(names.EXPERIMENTS)


@pytest.mark.parametrize("experiment", names.EXPERIMENTS)
def test_the_data_set_sets_what_follows_from_it(parse, experiment):
    params = build(experiment, parse(), dataset())
    task, trainer = params.task, params.trainer
    assert task.model.num_classes == 8
    assert task.train_data.input_path == "t/train*"
    assert task.validation_data.input_path == "t/val*"
    assert task.annotation_file == "v.json"
    assert task.validation_data.parser.max_num_instances == 150
    batch = task.validation_data.global_batch_size
    assert trainer.validation_steps * batch >= 21 > (trainer.validation_steps - 1) * batch
    assert not task.validation_data.drop_remainder


@pytest.fixture
def run_folder(tmp_path):
    """A run of other settings than its experiment's, on another machine."""
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.override(
        {
            "task": {"model": {"head": {"num_convs": 2}}, "annotation_file": "run.json"},
            "trainer": {"train_steps": 700, "validation_steps": 3},
            "runtime": {
                "distribution_strategy": "multi_worker_mirrored",
                "num_gpus": 8,
                "mixed_precision_dtype": "float32",
            },
        }
    )
    params.task.train_data.input_path = "run/train*"
    params.task.validation_data.input_path = "run/val*"
    # One more than in the other images.
    params.task.model.num_classes = 9
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_config("libra_retinanet_demo", params, {})
    return folder


def test_a_run_is_evaluated_with_its_own_config(parse, run_folder):
    override = "--params_override=task.validation_data.global_batch_size=5"
    draft = config.build_from_run(run_folder, parse(override))
    params = config.settle(draft, None)
    assert draft.experiment == "libra_retinanet_demo"
    expected = trained_run.read_params(run_folder).task.as_dict()
    expected["validation_data"]["global_batch_size"] = 5
    assert params.task.as_dict() == expected
    # Not those of the machine that trained.
    runtime = exp_factory.get_exp_config("libra_retinanet_demo").runtime
    runtime.mixed_precision_dtype = "float32"
    assert params.runtime.as_dict() == {**runtime.as_dict(), "tpu": None}


def test_a_run_is_evaluated_on_other_images(parse, run_folder):
    draft = config.build_from_run(run_folder, parse("--dataset=cells"))
    params = config.settle(draft, dataset())
    saved = trained_run.read_params(run_folder)
    assert params.task.train_data.as_dict() == saved.task.train_data.as_dict()
    assert params.trainer.train_steps == 700
    assert params.task.validation_data.input_path == "t/val*"
    assert params.task.annotation_file == "v.json"
    assert params.task.model.as_dict() == saved.task.model.as_dict()
    batch_size = params.task.validation_data.global_batch_size
    assert params.trainer.validation_steps == -(-21 // batch_size) != 3


def test_another_batch_size_still_evaluates_every_image(parse):
    override = "--params_override=task.validation_data.global_batch_size=4"
    params = build("libra_retinanet_demo", parse(override), dataset())
    assert params.trainer.validation_steps == 6
    override = "--params_override=trainer.validation_steps=3"
    assert build("libra_retinanet_demo", parse(override), dataset()).trainer.validation_steps == 3


def test_a_published_experiment_keeps_its_epochs(parse):
    params = build("libra_fasterrcnn_resnetfpn_coco", parse(), dataset(num_train=1600))
    assert params.trainer.train_steps == pytest.approx(12 * 100, abs=2)
    boundaries = params.trainer.optimizer_config.learning_rate.stepwise.boundaries
    assert boundaries == [pytest.approx(800, abs=2), pytest.approx(1100, abs=2)]
    assert params.trainer.validation_interval == 100


@pytest.mark.parametrize("batch_size", [2, 32])
def test_the_epochs_stay_with_another_batch_size(parse, tmp_path, batch_size):
    path = tmp_path / "batch.yaml"
    path.write_text(f"task: {{train_data: {{global_batch_size: {batch_size}}}}}")
    arguments = parse(f"--config_file={path}")
    params = build("libra_fasterrcnn_resnetfpn_coco", arguments, dataset(num_train=1600))
    epoch = 1600 // batch_size
    assert params.task.train_data.global_batch_size == batch_size
    assert params.trainer.train_steps == pytest.approx(12 * epoch, rel=0.01)
    boundaries = params.trainer.optimizer_config.learning_rate.stepwise.boundaries
    assert boundaries == pytest.approx([8 * epoch, 11 * epoch], rel=0.01)
    assert params.trainer.validation_interval == params.trainer.checkpoint_interval == epoch


def test_fewer_images_than_a_batch_keep_the_epochs_too(parse):
    params = build("libra_fasterrcnn_resnetfpn_coco", parse(), dataset(num_train=5))
    assert params.trainer.train_steps == 12


def test_steps_that_are_set_are_not_scaled(parse):
    override = "trainer.train_steps=77,trainer.validation_interval=7,trainer.validation_steps=3"
    override += ",task.train_data.global_batch_size=4,task.validation_data.global_batch_size=4"
    arguments = parse(f"--params_override={override}")
    trainer = build("libra_retinanet_resnetfpn_coco", arguments, dataset()).trainer
    assert (trainer.train_steps, trainer.validation_interval) == (77, 7)
    assert trainer.validation_steps == 3


def test_a_short_training_reaches_its_learning_rate(parse):
    """Of 205 images, an epoch has 12 steps, and the learning rate drops after 96 of 144."""
    arguments = parse()
    params = build("libra_retinanet_resnetfpn_coco", arguments, dataset(num_train=205))
    assert params.trainer.train_steps == 144
    factory = optimization.OptimizerFactory(params.trainer.optimizer_config)
    rate = factory.build_learning_rate()
    rates = [float(rate(step)) for step in range(145)]
    assert rates[0] == pytest.approx(0.01 / 3)
    assert all(a < b for a, b in itertools.pairwise(rates[:49]))
    assert rates[48:97] == pytest.approx([0.01] * 49)
    assert rates[97:133] == pytest.approx([0.001] * 36)
    assert rates[133:] == pytest.approx([0.0001] * 12)


def test_a_warmup_that_is_set_stays(parse):
    key = "trainer.optimizer_config.warmup.linear.warmup_steps"
    params = build(
        "libra_retinanet_demo", parse(f"--params_override={key}=60,trainer.train_steps=77"), None
    )
    assert params.trainer.optimizer_config.warmup.linear.warmup_steps == 60
    arguments = parse(f"--params_override={key}=97")
    with pytest.raises(UsageError, match=rf"{key} is 97, but the learning rate drops.*step 96"):
        build("libra_retinanet_resnetfpn_coco", arguments, dataset(num_train=205))


def test_the_schedule_of_a_folder_is_not_judged_before_the_folder_is_read(parse):
    """An epoch of 205 images ends the loop of 100 steps after 12."""
    arguments = parse("--dataset=cells", "--params_override=trainer.summary_interval=12")
    build("libra_retinanet_resnetfpn_coco", arguments, None)
    params = build("libra_retinanet_resnetfpn_coco", arguments, dataset(num_train=205))
    assert (params.trainer.summary_interval, params.trainer.steps_per_loop) == (12, 12)


@pytest.mark.parametrize(("steps_per_loop", "summary_interval"), [(50, 50), (5, 10), (7, 7)])
def test_summaries_follow_the_loops(parse, steps_per_loop, summary_interval):
    override = f"--params_override=trainer.steps_per_loop={steps_per_loop}"
    trainer = build("libra_retinanet_demo", parse(override), None).trainer
    assert trainer.summary_interval == summary_interval


def test_a_small_experiment_keeps_its_steps(parse):
    plain = exp_factory.get_exp_config("libra_retinanet_demo")
    params = build("libra_retinanet_demo", parse(), dataset())
    assert params.trainer.train_steps == plain.trainer.train_steps


def test_a_batch_is_not_larger_than_the_data_set(parse):
    params = build("libra_retinanet_demo", parse(), dataset(num_train=3))
    assert params.task.train_data.global_batch_size == 3


def test_the_cosine_ends_with_training(parse):
    params = build("libra_retinanet_demo", parse("--params_override=trainer.train_steps=77"), None)
    assert params.trainer.optimizer_config.learning_rate.cosine.decay_steps == 77


def test_a_cosine_that_is_set_stays(parse):
    key = "trainer.optimizer_config.learning_rate.cosine.decay_steps"
    override = f"--params_override=trainer.train_steps=77,{key}=450"
    params = build("libra_retinanet_demo", parse(override), None)
    assert params.trainer.optimizer_config.learning_rate.cosine.decay_steps == 450


def test_files_come_before_params_override(parse, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("trainer: {train_steps: 5, steps_per_loop: 3}\n")
    arguments = parse(f"--config_file={path}", "--params_override=trainer.train_steps=6")
    params = build("libra_retinanet_demo", arguments, None)
    assert (params.trainer.train_steps, params.trainer.steps_per_loop) == (6, 3)


def test_a_whole_number_may_be_written_as_a_float(parse):
    params = build("libra_retinanet_demo", parse("--params_override=trainer.train_steps=1e3"), None)
    assert params.trainer.train_steps == 1000
    assert isinstance(params.trainer.train_steps, int)


def test_a_number_may_be_written_without_a_point(parse):
    key = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
    params = build("libra_retinanet_demo", parse(f"--params_override={key}=1e-4"), None)
    assert params.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate == 1e-4


def test_what_yaml_reads_as_another_type(parse):
    override = (
        "task.model.backbone.type=spinenet,task.model.backbone.spinenet.model_id=96,"
        "task.model.min_level=3,"
        "task.losses.rpn_box_weight=0.5,task.model.mask_head=null,task.init_checkpoint=null,"
        "task.model.roi_sampler.cascade_iou_thresholds=[1e-1],"
        "task.model.detection_head.class_agnostic_bbox_pred=true"
    )
    task = build("libra_fasterrcnn_demo", parse(f"--params_override={override}"), None).task
    assert task.model.backbone.spinenet.model_id == "96"
    assert task.losses.rpn_box_weight == 0.5
    assert task.model.mask_head is None and task.init_checkpoint is None
    assert task.model.roi_sampler.cascade_iou_thresholds == [0.1]


def test_a_seed_that_numpy_cannot_take(parse):
    assert parse(f"--seed={2**32 - 1}").seed == 2**32 - 1
    with pytest.raises(flags.IllegalFlagValueError, match=r"--seed.*range \[0, 4294967295\]"):
        parse(f"--seed={2**32}")


@pytest.mark.parametrize("experiment", ["libra_retinanet_demo", "libra_fasterrcnn_demo"])
def test_tpu_chooses_its_strategy_and_suppression(experiment, parse):
    elsewhere = build(experiment, parse(), None)
    assert elsewhere.runtime.distribution_strategy != "tpu"
    assert elsewhere.task.model.detection_generator.nms_version != "v2"
    params = build(experiment, parse("--tpu=local"), None)
    assert params.runtime.distribution_strategy == "tpu"
    assert params.runtime.tpu == "local"
    assert params.task.model.detection_generator.nms_version == "v2"
    if experiment == "libra_fasterrcnn_demo":
        assert elsewhere.task.model.roi_generator.use_batched_nms
        assert not params.task.model.roi_generator.use_batched_nms


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.modle.num_classes=3", r"no config key task\.modle.*Did you mean task\.model\?"),
        (
            "task.losses.balanced_l1.alpa=1.0",
            r"Did you mean task\.losses\.balanced_l1\.alpha\?",
        ),
        ("task.model.decoder.xyz=1", r"The keys there are .*libra_fpn"),
        ("trainer.train_steps=many", r"trainer\.train_steps is 'many'; it must be an int"),
        ("trainer.train_steps=2.5", r"trainer\.train_steps is 2\.5; it must be an int"),
        ("trainer.train_steps", r"--params_override=trainer\.train_steps could not be read"),
        ("task.losses.box_loss=l2", r"task\.losses\.box_loss is 'l2'.*balanced_l1, l1, huber"),
        ("task.losses.balanced_l1.form=x", r"task\.losses\.balanced_l1: `form`.*got 'x'"),
        ("task.losses.balanced_l1.gamma=-1", r"task\.losses\.balanced_l1: `gamma`.*got -1"),
        ("task.model.roi_sampler.num_bins=0", r"task\.model\.roi_sampler: `num_bins`"),
        ("task.model.roi_sampler.num_sampled_rois=400", r"num_sampled_rois is 400.*from 1 to 300"),
        ("task.model.decoder.libra_fpn.refine_level=9", r"refine_level is 9.*one of 2, 3, 4"),
        ("task.model.backbone.type=vgg", r"task\.model\.backbone\.type is 'vgg'.*resnet"),
        (
            "trainer.optimizer_config.optimizer.type=adm",
            r"trainer\.optimizer_config\.optimizer\.type is 'adm'.*adam",
        ),
        ("task.model.roi_sampler.type=ohem", r"roi_sampler\.type is 'ohem'.*iou_balanced, random"),
        ("task.model.decoder.type=bifpn", r"decoder\.type is 'bifpn'.*libra_fpn"),
        ("trainer.train_steps=null", r"train_steps is None; it must be an int, such as 450"),
        ("trainer.train_steps=true", r"train_steps is True; it must be an int"),
        ("task.per_category_metrics=7", r"metrics is 7; it must be true or false"),
        ("task.frozen_stages=two", r"task\.frozen_stages is 'two'; it must be an int$"),
        ("task.model.input_size=128", r"is 128; it must be a list, such as \[128, 128, 3\]"),
        ("task.model.input_size=[128,x,3]", r"input_size\[1\] is 'x'; it must be an int"),
        ("task.model.input_size=[128,128]", r"input_size is \[128, 128\]; it must be \[height"),
        ("task.model.roi_sampler.cascade_iou_thresholds=0.6", r"0\.6; it must be a list"),
        ("task.model.backbone.resnet.model_id=51", r"resnet\.model_id is 51; .*one of 10, 18"),
        ("task.model.backbone=resnet", r"backbone is 'resnet', but it is a group of keys"),
        ("runtime.mixed_precision_dtype=half", r"dtype is 'half'; .*float32, float16, bfloat16"),
        ("task.use_coco_metrics=false", r"task\.use_coco_metrics is false.*--mode=train"),
        (
            "trainer.summary_interval=15",
            r"summary_interval is 15; .* trainer\.steps_per_loop, which is 10",
        ),
        ("trainer.steps_per_loop=0", r"trainer\.steps_per_loop is 0; it must be at least 1"),
        ("trainer.validation_steps=0", r"trainer\.validation_steps is 0.*or -1"),
        (
            "trainer.optimizer_config.warmup.type=polynomial",
            r"warmup\.polynomial\.warmup_steps is not set",
        ),
    ],
)
def test_bad_overrides(parse, override, message):
    with pytest.raises(UsageError, match=message):
        build("libra_fasterrcnn_demo", parse(f"--params_override={override}"), None)


def test_a_file_that_is_not_yaml(parse, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("trainer: [1,\n")
    with pytest.raises(UsageError, match=r"broken\.yaml.*could not be read"):
        build("libra_retinanet_demo", parse(f"--config_file={path}"), None)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("libra_retinanet_dmeo", "libra_retinanet_demo"),
        # Model Garden's own, whose tasks do not keep what is recorded and drawn of an evaluation.
        ("retinanet_resnetfpn_coco", "libra_retinanet_resnetfpn_coco"),
    ],
)
def test_an_unknown_experiment_names_the_nearest(parse, name, nearest):
    with pytest.raises(UsageError, match=rf"{name}: there is no.*Did you mean {nearest}\?"):
        runner_flags.experiment_name(parse(f"--experiment={name}"))


def test_an_experiment_of_another_kind(parse):
    with pytest.raises(UsageError, match=r"no such experiment\. The Libra.*cannot be run here"):
        runner_flags.experiment_name(parse("--experiment=resnet_imagenet"))


def test_default_experiments_and_folders(parse):
    assert runner_flags.experiment_name(parse()) == names.DEMO_EXPERIMENT
    arguments = parse("--dataset=/data/my cells/")
    name = runner_flags.experiment_name(arguments)
    assert name == names.FOLDER_EXPERIMENT
    assert runner_flags.model_dir(arguments, name) == f"runs/{name}-my cells"


@pytest.mark.parametrize("detector", ["fasterrcnn", "retinanet"])
def test_the_switches_off_files_fit_their_experiments(parse, detector):
    path = pathlib.Path(__file__).parents[2] / "configs" / f"{detector}_switches_off.yaml"
    task = build(f"libra_{detector}_demo", parse(f"--config_file={path}"), None).task
    assert task.model.decoder.type == "fpn"
    assert task.model.decoder.fpn.num_filters == task.model.decoder.libra_fpn.num_filters
    assert task.losses.box_loss == "huber"
    if detector == "fasterrcnn":
        assert task.model.roi_sampler.type == "random"
