"""`run.py` as a user runs it."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf
import yaml
from PIL import Image

from libra_tf import compat
from libra_tf.data import make_shapes

# Without what the tests set for themselves.
USERS_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
    "task.model.input_size=[64,64,3],"
    "task.model.backbone.resnet.model_id=10,task.model.backbone.resnet.depth_multiplier=0.25,"
    "task.model.decoder.libra_fpn.num_filters=16,task.train_data.global_batch_size=2,"
    "task.validation_data.global_batch_size=4,trainer.train_steps={steps},"
    "trainer.validation_interval=2,trainer.checkpoint_interval=2,trainer.steps_per_loop=1"
)


def run(*arguments, env=None, timeout=600):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**USERS_ENVIRONMENT, **(env or {})},
        check=False,
    )


@pytest.fixture
def without_tensorflow(tmp_path):
    """An environment in which importing TensorFlow fails."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    return {"PYTHONPATH": str(tmp_path / "stub")}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 1, "--dataset"),
        ([], 1, "--mode"),
        (["--mode=trian"], 1, "train_and_eval"),
        (["--mode=train", "--modle_dir=x"], 1, "model_dir"),
        (["--mode=train_and_validate"], 2, "--mode=train_and_validate is not supported"),
        (
            ["--mode=train", "--experiment=libra_retinanet_dmeo"],
            2,
            "no such experiment. Did you mean libra_retinanet_demo?",
        ),
        (["--mode=train", "--dataset=no/such/folder"], 2, "--dataset=no/such/folder: there is no"),
        (["--mode=train", "--config_file=none.yaml"], 2, "--config_file=none.yaml: there is no"),
        (["--mode=train", "--checkpoint=ckpt-2"], 2, "task.init_checkpoint=CHECKPOINT"),
        (["--mode=train", "--report"], 2, "use --mode=train_and_eval"),
        (["--mode=train", "--report_threshold=0.3"], 2, "use --mode=train_and_eval"),
        (["--mode=eval", "--compare=no/such"], 2, "--compare=no/such: there is no such folder"),
    ],
)
def test_flags_are_answered_without_tensorflow(without_tensorflow, arguments, status, message):
    result = run(*arguments, env=without_tensorflow, timeout=60)
    output = result.stdout + result.stderr
    assert result.returncode == status, output
    assert message in output
    assert "TensorFlow was imported" not in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return make_shapes(root / "cells", num_train=6, num_val=6, image_size=64, report=str)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A folder of two training steps of Libra RetinaNet, and what the run printed."""
    root = tmp_path_factory.mktemp("run")
    arguments = [
        "--mode=train_and_eval",
        "--experiment=libra_retinanet_demo",
        f"--dataset={folder}",
        f"--cache_dir={root / 'cache'}",
        f"--model_dir={root / 'model'}",
    ]
    (root / "temporary").mkdir()
    result = run(
        *arguments,
        "--verbosity=1",
        f"--params_override={TINY.format(steps=2)}",
        env={"TMPDIR": str(root / "temporary")},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return root / "model", result, arguments


def test_a_run_leaves_what_it_says(trained):
    model_dir, result, _ = trained
    document = json.loads((model_dir / "results.json").read_text())
    assert document["experiment"] == "libra_retinanet_demo"
    (evaluation,) = document["evaluations"]
    assert evaluation["step"] == document["step"] == 2
    for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", "Precision mAP ByCategory/star"):
        assert -1 <= evaluation[key] <= 1
    for key in ("seconds", "images_per_second", "eval_seconds", "eval_images_per_second"):
        assert evaluation[key] > 0
    assert tf.train.latest_checkpoint(model_dir) == str(model_dir / "ckpt-2")
    params = yaml.safe_load((model_dir / "params.yaml").read_text())
    assert params["task"]["model"]["num_classes"] == 5
    for name in ("results.json", "detections.png", "evaluation.html", "log.txt", "ckpt-2"):
        assert str(model_dir / name) in result.stdout
    with Image.open(model_dir / "detections.png") as sheet:
        # Six images of a dark background on a white sheet.
        assert sheet.convert("L").histogram()[255] < 0.8 * sheet.width * sheet.height


def test_a_training_leaves_a_page_of_its_evaluation(trained):
    model_dir, _, _ = trained
    content = json.loads((model_dir / "evaluation.json").read_text())
    results = json.loads((model_dir / "results.json").read_text())
    (numbers,) = content["kinds"].values()
    assert content["model"] == str(model_dir / "ckpt-2") and content["name"] == "model"
    assert content["num_images"] == content["num_listed_images"] == 6
    measured = numbers["average_precision"]
    for name in ("AP", "AP50", "AP75", "APs"):
        assert measured["all"][name] == pytest.approx(results[name], abs=1e-4)
    assert sum(content["training_objects"].values()) > 6
    assert sum(of["num_objects"] for of in measured["classes"].values()) > 6
    # Two steps find nothing, so there are missed objects to draw, on images from the TFRecords.
    assert "<image " in (model_dir / "evaluation.html").read_text()
    found = json.loads((model_dir / "detections.json").read_text())
    assert len(found) == content["num_detections"]


def test_a_run_leaves_no_temporary_files(trained):
    model_dir, _, _ = trained
    assert not list((model_dir.parent / "temporary").iterdir())


def test_a_run_is_quiet_and_shows_progress(trained):
    _, result, _ = trained
    assert result.stderr == ""
    assert "training: step 2/2, loss" in result.stdout
    assert "evaluating: batch 2/2" in result.stdout
    assert "libra_retinanet_demo: 2 steps of 2 images" in result.stdout
    assert len(result.stdout.splitlines()) < 40


def test_a_run_tells_the_time_to_the_first_step(trained):
    model_dir, result, _ = trained
    (line,) = [text for text in result.stdout.splitlines() if text.startswith("time to the first")]
    parts = re.findall(r"([a-z]+) ([\d.]+)", line[line.index("(") : line.index(")")])
    names = ["import", "data", "detector", "inputs", "checkpoint", "tracing"]
    assert [name for name, _ in parts] == names
    for name, seconds in parts:
        assert float(seconds) > 0 or name == "checkpoint"
    assert "; first 1 steps: " in line
    assert line in (model_dir / "log.txt").read_text()


@pytest.mark.one_lane
@pytest.mark.slow
def test_a_finished_run_is_evaluated_again(trained):
    model_dir, _, arguments = trained
    result = run(*arguments, f"--params_override={TINY.format(steps=2)}")
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads((model_dir / "results.json").read_text())
    first, second = document["evaluations"]
    assert first["AP"] == second["AP"]
    # After two steps the AP is as good as zero, but the loss is not.
    assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=1e-5)
    assert second["step"] == 2
    assert second["images_per_second"] is None
    assert "training has already finished: step 2 of 2" in result.stdout


@pytest.mark.one_lane
@pytest.mark.slow
def test_a_run_is_evaluated_as_its_folder_says(trained, tmp_path):
    """Experiment, config and data set are those of the run, wherever the command is given."""
    model_dir, _, arguments = trained
    before = json.loads((model_dir / "results.json").read_text())
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "run.py"), "--mode=eval", arguments[3]),
            *(f"--model_dir={model_dir}", "--checkpoint=ckpt-2", "--metrics=voc,lvis"),
            *("--report_threshold=0.5", f"--compare={model_dir}"),
            # COCO counts the best hundred.
            "--params_override=task.model.detection_generator.max_num_detections=101",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=USERS_ENVIRONMENT,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"checkpoint:       {model_dir / 'ckpt-2'}" in result.stdout
    after = json.loads((model_dir / "results.json").read_text())
    assert len(after["evaluations"]) == len(before["evaluations"]) + 1
    assert after["step"] == 2
    assert after["dataset"] == before["dataset"]
    assert before["changed"] == {}
    assert after["changed"] == {"task.model.detection_generator.max_num_detections": 101}
    assert after["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-5)
    # Only what was asked for is there.
    more = {key for key in after if key.startswith(("voc_", "lvis_"))}
    assert {"voc_AP", "voc_AP_11_points", "lvis_AP", "lvis_APr"} <= more and not more & set(before)
    assert after["lvis_AP"] == pytest.approx(after["AP"], abs=1e-4)
    assert f"VOC: AP {after['voc_AP']:.4f} (area), " in result.stdout
    assert f"LVIS: AP {after['lvis_AP']:.4f}, AP50 " in result.stdout
    content = json.loads((model_dir / "evaluation.json").read_text())
    assert content["kinds"]["bbox"]["score_threshold"] == 0.5
    # With itself.
    assert content["compared"]["kinds"]["bbox"]["differences"]["AP"]["difference"] == 0


@pytest.mark.one_lane
@pytest.mark.slow
def test_another_experiments_folder_is_refused(trained):
    _, _, arguments = trained
    arguments = ["--experiment=libra_fasterrcnn_demo" if "--exp" in a else a for a in arguments]
    result = run(*arguments)
    assert result.returncode == 2
    assert "holds checkpoints of another experiment" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.one_lane
@pytest.mark.slow
def test_fast_rcnn_without_proposals(folder, tmp_path):
    result = run(
        "--mode=train",
        "--experiment=libra_fastrcnn_resnetfpn_coco",
        f"--dataset={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={tmp_path / 'model'}",
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: task.train_data.proposals is not set")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists() and not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.one_lane
def test_fine_tuning_then_going_on(trained, tmp_path):
    """The second run has checkpoints of its own, and no use for the first one's any more."""
    start, _, arguments = trained
    arguments = [*arguments[:-1], f"--model_dir={tmp_path}"]
    tiny = TINY.format(steps=2)
    result = run(*arguments, f"--params_override={tiny},task.init_checkpoint={start}")
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fine-tuning from")]
    count = line.split(":")[1].split()[0]
    assert line == f"fine-tuning from {start / 'ckpt-2'}: {count} of {count} weights loaded"
    assert line in (tmp_path / "log.txt").read_text()
    # Only --verbosity shows it.
    assert "time to the first step" not in result.stdout

    tiny = TINY.format(steps=4)
    result = run(*arguments, f"--params_override={tiny},task.init_checkpoint=no/such/folder")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "step 4/4" in result.stdout and "fine-tuning" not in result.stdout
    assert "continues from step 2 of 4" in result.stdout


@pytest.mark.one_lane
def test_a_checkpoint_that_is_not_there_is_told_before_data_is_read(folder, tmp_path):
    result = run(
        "--mode=train",
        "--experiment=libra_retinanet_demo",
        f"--dataset={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={tmp_path / 'model'}",
        "--params_override=task.init_checkpoint=no/such/run",
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: task.init_checkpoint: no/such/run does not exist; name")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists() and not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.one_lane
def test_a_checkpoint_of_which_nothing_fits(trained, tmp_path):
    start, _, arguments = trained
    arguments = [*arguments[:-1], f"--model_dir={tmp_path}"]
    tiny = TINY.format(steps=2).replace("depth_multiplier=0.25", "depth_multiplier=0.125")
    override = f"task.init_checkpoint={start},task.init_checkpoint_modules=backbone"
    result = run(*arguments, f"--params_override={tiny},{override}")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: task.init_checkpoint: nothing in {start / 'ckpt-2'}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_optimizer_of_tensorflow_addons(folder, tmp_path):
    """It trains and evaluates in the addons lane; the current one refuses it at once."""
    override = tmp_path / "optimizer.yaml"
    override.write_text(
        "trainer: {optimizer_config: {optimizer: {type: moving_average, "
        "moving_average: {optimizer: {type: rectified_adam}}}}}"
    )
    arguments = [
        "--experiment=libra_retinanet_demo",
        f"--dataset={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={tmp_path / 'model'}",
        f"--config_file={override}",
        f"--params_override={TINY.format(steps=2)}",
    ]
    result = run("--mode=train_and_eval", *arguments)
    if not compat.IS_ADDONS_LANE:
        assert result.returncode == 2
        assert "ema.average_decay" in result.stderr and "TensorFlow Addons" in result.stderr
        assert not (tmp_path / "cache").exists() and not (tmp_path / "model").exists()
        return
    assert result.returncode == 0, result.stdout + result.stderr
    trained = json.loads((tmp_path / "model" / "results.json").read_text())
    result = run("--mode=eval", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    evaluated = json.loads((tmp_path / "model" / "results.json").read_text())
    # The loss is that of the averages, which the checkpoint brings back.
    assert evaluated["validation_loss"] == pytest.approx(trained["validation_loss"], rel=1e-5)
