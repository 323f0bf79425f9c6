"""The command that a verdict ends with."""

import json
import shlex
import types

import pytest
from official.core import exp_factory

from libra_tf.analysis import commands
from libra_tf.runner import config
from libra_tf.runs import trained_run
from libra_tf.runs.folder import RunFolder

pytestmark = pytest.mark.one_lane

LINES = ("task.model.roi_sampler.type=iou_balanced", "task.model.roi_sampler.num_bins=2")
OVERRIDE = f"--params_override={LINES[0]},{LINES[1]}"


def test_a_run_on_a_folder_is_trained_again_beside_it():
    training = commands.Training(RunFolder("runs/cells/"), "libra_fasterrcnn_small", "my cells")
    command = commands.train_with(LINES, training)
    assert shlex.split(command) == [
        "libra-tf",
        "train",
        "--experiment=libra_fasterrcnn_small",
        "--dataset=my cells",
        "--config_file=runs/cells/params.yaml",
        "--model_dir=runs/cells-roi_sampler.type",
        OVERRIDE,
    ]


def test_a_run_whose_config_names_its_images_needs_no_folder():
    training = commands.Training(RunFolder("runs/coco"), "libra_fasterrcnn_resnetfpn_coco", None)
    assert "--dataset" not in commands.train_with(LINES, training)


def test_a_run_is_trained_again_on_the_same_part_of_its_folder(make_run):
    run = make_run("libra_retinanet_small")
    run.folder.write_config("libra_retinanet_small", run.params, {}, "cells", val_share=0.3)
    command = shlex.split(commands.train_with(LINES, commands.read_training(run)))
    assert {"--dataset=cells", "--val_share=0.3"} <= set(command)


def test_of_an_unknown_training_only_the_change_is_known():
    assert commands.train_with(LINES, None) == OVERRIDE


def write_results(run, **results):
    content = json.dumps({**results, "evaluations": []})
    with open(run.folder.file("results.json"), "w") as file:
        file.write(content)


@pytest.fixture
def make_run(tmp_path):
    """Returns a function from an experiment to a run of it that was never evaluated."""

    def make(experiment):
        params = exp_factory.get_exp_config(experiment)
        params.task.model.num_classes = 3
        params.task.train_data.input_path = "cells/train*"
        folder = RunFolder(str(tmp_path / "run"))
        folder.write_config(experiment, params, {})
        return trained_run.TrainedRun(folder, params, folder.file("ckpt-1"))

    return make


def test_where_the_images_of_a_run_are_known_from(make_run):
    run = make_run("libra_retinanet_demo")
    # It may have been trained on the built-in shapes or on a folder.
    assert commands.read_training(run) is None
    write_results(run, dataset="cells")
    known = commands.Training(run.folder, "libra_retinanet_demo", "cells")
    assert commands.read_training(run) == known


def test_the_config_of_a_run_may_name_its_images(make_run):
    run = make_run("libra_retinanet_small")
    known = commands.Training(run.folder, "libra_retinanet_small", None)
    assert commands.read_training(run) == known
    write_results(run, dataset=run.params.task.train_data.input_path)
    assert commands.read_training(run) == known
    run.params.task.train_data.input_path = ""
    write_results(run)
    assert commands.read_training(run) is None


def test_the_command_changes_nothing_else(make_run):
    """As the command reads it, the config is that of the run but for the lines."""
    run = make_run("libra_fasterrcnn_small")
    command = commands.train_with(LINES, commands.read_training(run))
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in shlex.split(command)[2:])
    values = types.SimpleNamespace(
        config_file=[flags["config_file"]],
        params_override=flags["params_override"],
        mode="train_and_eval",
        dataset=None,
        seed=None,
        tpu=None,
        tf_data_service=None,
    )
    params = config.build(flags["experiment"], values).params
    sampler = params.task.model.roi_sampler
    assert (sampler.type, sampler.num_bins) == ("iou_balanced", 2)
    changed, original = params.task.as_dict(), run.params.task.as_dict()
    for task in (changed, original):
        for key in ("type", "num_bins"):
            del task["model"]["roi_sampler"][key]
    assert changed == original
