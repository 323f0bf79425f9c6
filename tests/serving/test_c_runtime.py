"""The exported folder in TensorFlow's C runtime, against the Keras model of the run.

`benchmarks/soak.c` sends the requests and checks the answers; here its verdict is read, and it is
shown that the verdict can be the other one.
"""

import dataclasses
import re
import subprocess

import numpy as np
import pytest

from benchmarks import c_runtime, damage
from libra_tf.inference import local
from tests.detectors import MAX_PIXELS, encode

pytestmark = pytest.mark.one_lane

only_retinanet = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)
FEW = c_runtime.Load(threads=2, requests=4, warm_up=1)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return c_runtime.build(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def detector(exported):
    return local.open_detector(exported.model_dir, max_pixels=MAX_PIXELS)


@pytest.fixture
def run(exported, program, tmp_path):
    """Runs the program with a load and with good and damaged requests."""

    def run(load, good, damaged):
        requests = tmp_path / "requests"
        c_runtime.write_requests(requests, exported.folder, good, damaged)
        command = load.command(program, exported.folder, requests)
        return subprocess.run(command, capture_output=True, text=True, errors="replace")

    return run


def row(name, answered, refused, wrong):
    return rf"(?m)^{name} +{answered} +{refused} +{wrong}$"


@pytest.mark.slow
@pytest.mark.parametrize(("requests", "num_damaged"), [(100, 60), (10_000, 1_000)])
def test_a_shared_session_answers_right_before_and_after_damage(
    detector, run, requests, num_damaged
):
    good = [c_runtime.ask(detector, *request) for request in damage.good_requests()]
    assert all(request.outputs["num_detections"].min() > 0 for request in good)
    damaged = [c_runtime.ask(detector, *each) for each in damage.damaged_requests(num_damaged)]
    harmless = [request.kind for request in damaged if not request.refusal]
    assert set(harmless) <= set(damage.MAY_BE_HARMLESS)

    result = run(c_runtime.Load(requests=requests, warm_up=100), good, damaged)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert re.search(row("all", requests, 0, 0), result.stdout)
    num_refused = num_damaged - len(harmless)
    assert re.search(row("all", len(harmless), num_refused, 0), result.stdout)
    assert len(re.findall(r"MB resident after \d+ requests", result.stdout)) == 9


def test_the_same_seed_gives_the_same_damage():
    first, again, other = (list(damage.damaged_requests(24, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len({kind for kind, _ in first}) == 12
    differs = [one != another for one, another in zip(first, other, strict=True)]
    # There is only one way to have no bytes.
    assert sum(differs) == 22


def _with(request, name, number):
    """Expects another number in the first place of an output."""
    value = np.array(request.outputs[name])
    value.flat[0] += number
    return dataclasses.replace(request, kind=name, outputs={**request.outputs, name: value})


@pytest.mark.slow
@only_retinanet
def test_wrong_answers_fail(detector, run):
    good = c_runtime.ask(detector, "good", [encode(64, 64)])
    wrong = [
        _with(good, "detection_scores", 1e-3),
        _with(good, "detection_boxes", 0.1),
        _with(good, "detection_classes", 1),
        _with(good, "num_detections", -1),
        _with(good, "image_size", 1),
    ]
    result = run(c_runtime.Load(requests=12, warm_up=1), [good, *wrong], [])
    assert result.returncode == 1
    assert re.search(row("good", 2, 0, 0), result.stdout)
    for request in wrong:
        complaint = f"wrong: {request.kind}: other detections in image 0 of the batch\n"
        assert complaint in result.stdout
        assert re.search(row(request.kind, 0, 0, 2), result.stdout)


@pytest.mark.slow
@only_retinanet
def test_errors_that_do_not_name_the_bad_image_fail(detector, run):
    images = [encode(64, 64)[:200], encode(20, 30)]
    says = "image 0 of the batch is truncated or damaged"
    good = c_runtime.ask(detector, "good", [encode(64, 64), encode(20, 30)])
    damaged = {
        "right": c_runtime.Request("right", images, {}, says),
        "another image": c_runtime.Request("another image", images, {}, says.replace("0", "1")),
        "half of it": c_runtime.Request("half of it", images, {}, says.removesuffix(" or damaged")),
        "an answer": c_runtime.Request("an answer", images, good.outputs),
        "harmless": c_runtime.Request("harmless", good.images, {}, says),
    }
    result = run(FEW, [good], damaged.values())
    assert result.returncode == 1
    assert re.search(row("right", 0, 1, 0), result.stdout)
    assert f"wrong: harmless: answered, not refused: {says}\n" in result.stdout
    assert re.search(row("harmless", 0, 0, 1), result.stdout)
    for kind in ("another image", "half of it", "an answer"):
        complaint = f"wrong: {kind}: got status 3, assertion failed: [{says}]"
        expected = damaged[kind].refusal or "an answer"
        assert f"{complaint}; expected {expected}\n" in result.stdout
        assert re.search(row(kind, 0, 0, 1), result.stdout)


@pytest.mark.slow
@only_retinanet
def test_memory_beyond_the_bound_fails(detector, run):
    good = c_runtime.ask(detector, "good", [encode(64, 64)])
    result = run(dataclasses.replace(FEW, max_growth=-1000), [good], [])
    assert re.search(row("all", 4, 0, 0), result.stdout)
    assert result.returncode == 1
    assert "after the warm-up; -1000 MB are allowed" in result.stdout
