"""Trainings that are stopped go on, and with --seed end as if they had not been stopped."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.data import make_shapes

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 150
# Without what the tests set for themselves.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


@pytest.fixture(
    scope="module",
    params=[
        ("libra_fasterrcnn_demo", "float32"),
        pytest.param(("libra_retinanet_demo", "float32"), marks=pytest.mark.slow),
        pytest.param(("libra_retinanet_demo", "bfloat16"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def command(request, tmp_path_factory):
    """Returns a function from a model folder to the command that trains there."""
    experiment, dtype = request.param
    root = tmp_path_factory.mktemp("resume")
    folder = make_shapes(root / "shapes", num_train=6, num_val=2, image_size=64, report=str)
    override = (
        "task.model.input_size=[64,64,3],"
        "task.model.backbone.resnet.model_id=10,task.model.backbone.resnet.depth_multiplier=0.25,"
        "task.model.decoder.libra_fpn.num_filters=16,task.train_data.global_batch_size=2,"
        f"trainer.train_steps={STEPS},trainer.checkpoint_interval=10,trainer.steps_per_loop=1,"
        f"runtime.mixed_precision_dtype={dtype}"
    )
    if "fasterrcnn" in experiment:
        override += ",task.model.rpn_sampler.type=iou_balanced"  # It draws in the input pipeline.

    def make(model_dir, *more):
        return [
            sys.executable,
            str(ROOT / "run.py"),
            "--mode=train",
            f"--experiment={experiment}",
            "--seed=3",
            f"--dataset={folder}",
            f"--cache_dir={root / 'cache'}",
            f"--model_dir={model_dir}",
            "--params_override=" + ",".join([override, *more]),
        ]

    return make


def finish(command):
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=ENVIRONMENT
    )


def saved_steps(model_dir):
    return [int(path.stem.removeprefix("ckpt-")) for path in model_dir.glob("ckpt-*.index")]


def stop_at_step(command, step, signal_number):
    """Starts a training, sends a signal once it has made some steps, and waits for its end."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    model_dir = pathlib.Path(command[-2].removeprefix("--model_dir="))
    while process.poll() is None and not any(s >= step for s in saved_steps(model_dir)):
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def weights(model_dir):
    reader = tf.train.load_checkpoint(os.path.join(model_dir, f"ckpt-{STEPS}"))
    names = [n for n in reader.get_variable_to_shape_map() if "_CHECKPOINTABLE" not in n]
    return {name: reader.get_tensor(name) for name in names}


def assert_same_weights(model_dir, expected):
    actual = weights(model_dir)
    assert set(actual) == set(expected)
    different = [name for name in expected if not np.array_equal(actual[name], expected[name])]
    assert not different


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("uninterrupted")
    result = finish(command(model_dir))
    assert result.returncode == 0, result.stderr
    return weights(model_dir)


@pytest.mark.slow
def test_killed_then_asked_to_end_then_damaged(command, uninterrupted, tmp_path):
    status, _ = stop_at_step(command(tmp_path), 20, signal.SIGKILL)
    assert status == -signal.SIGKILL

    killed_at = max(saved_steps(tmp_path))
    status, errors = stop_at_step(command(tmp_path), killed_at + 10, signal.SIGTERM)
    assert status == 143, errors
    assert "stopped: step" in errors and len(errors.splitlines()) == 1

    newest = pathlib.Path(tf.train.latest_checkpoint(tmp_path))
    data = next(tmp_path.glob(f"{newest.name}.data*"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    result = finish(command(tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"checkpoint {newest} is damaged" in result.stdout
    assert (tmp_path / "damaged" / data.name).exists()
    assert "skipping the data already used" in result.stdout
    assert_same_weights(tmp_path, uninterrupted)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(command, uninterrupted, tmp_path):
    rng = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(
            command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(2, 40))
        process.kill()
        process.wait()
    result = finish(command(tmp_path))
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learning_rate", "problem"),
    [
        ("1e30", "total_loss is"),
        pytest.param("1e5", "above trainer.loss_upper_bound=1e+06", marks=pytest.mark.slow),
    ],
)
def test_a_loss_that_explodes(command, tmp_path, learning_rate, problem):
    rate = f"trainer.optimizer_config.learning_rate.cosine.initial_learning_rate={learning_rate}"
    result = finish(
        command(tmp_path, rate, "trainer.optimizer_config.warmup.linear.warmup_steps=1")
    )
    assert result.returncode == 1
    assert "training diverged by step" in result.stderr
    assert problem in result.stderr and "trainer.optimizer_config" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list((tmp_path / "diverged").glob("step-*.index"))
