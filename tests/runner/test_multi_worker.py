"""Two processes train one detector together, are told to stop, and continue."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from libra_tf.data import make_shapes

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Without what the tests set for themselves.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
STEPS = 400
OVERRIDE = """
runtime:
  distribution_strategy: multi_worker_mirrored
  worker_hosts: '{hosts}'
  task_index: {index}
task:
  model:
    input_size: [64, 64, 3]
    backbone: {{resnet: {{model_id: 10, depth_multiplier: 0.25}}}}
    decoder: {{libra_fpn: {{num_filters: 16}}}}
  train_data: {{global_batch_size: 4}}
trainer: {{train_steps: {steps}, checkpoint_interval: 10, steps_per_loop: 5}}
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for a_socket in sockets:
        a_socket.bind(("127.0.0.1", 0))
    ports = [a_socket.getsockname()[1] for a_socket in sockets]
    for a_socket in sockets:
        a_socket.close()
    return ports


def start(model_dir, folder, cache, steps):
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    return [
        subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "run.py"),
                "--mode=train",
                "--experiment=libra_fasterrcnn_demo",
                "--seed=3",
                f"--dataset={folder}",
                f"--cache_dir={cache}",
                f"--model_dir={model_dir}",
                "--params_override=" + OVERRIDE.format(hosts=hosts, index=index, steps=steps),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return make_shapes(root / "shapes", num_train=8, num_val=2, image_size=64, report=str)


def newest_step(model_dir):
    newest = tf.train.latest_checkpoint(model_dir)
    return int(newest.rpartition("-")[2]) if newest else 0


@pytest.mark.slow
def test_two_processes(folder, tmp_path):
    model_dir, cache = tmp_path / "run", tmp_path / "cache"
    workers = start(model_dir, folder, cache, STEPS)
    while all(worker.poll() is None for worker in workers) and newest_step(model_dir) < 5:
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGTERM)
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 143, errors
        assert "stopped: step" in errors and "Traceback" not in errors
    saved = newest_step(model_dir)
    assert 5 <= saved < STEPS

    last = saved + 10
    workers = start(model_dir, folder, cache, last)
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert not any("Traceback" in errors for _, errors in outputs)
    assert newest_step(model_dir) == last
    # Both say the loss of the last step, which is that of both halves of the batch.
    losses = [re.search(rf"step {last}/{last}, loss ([\d.]+)", out).group(1) for out, _ in outputs]
    assert losses[0] == losses[1]
    assert "skipping the data already used" in outputs[1][0]
    names = {path.name for path in model_dir.iterdir()}
    assert {"log.txt", "log-worker1.txt", "params.yaml"} <= names
