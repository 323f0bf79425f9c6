"""The client and the stand-in server over real sockets, against the SavedModel in process."""

import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.config import model_server_config_pb2

from libra_tf.cli import image_files
from libra_tf.cli.errors import UsageError
from libra_tf.inference import detecting, local
from libra_tf.inference.client import connection, retrying
from libra_tf.inference.client.errors import ServerError
from libra_tf.inference.client.target import Target
from libra_tf.inference.drawing import draw_detections
from libra_tf.inference.errors import RefusedError, RequestError
from tests.detectors import assert_same, encode
from tests.inference.server import Server

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENT = str(ROOT / "export" / "client.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LOADING = 20
AVAILABLE = 30

only_retinanet = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)
both_protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


class Doubling(tf.Module):
    """A model that is no detector."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def double(self, x):
        return {"y": 2 * x}


@pytest.fixture(scope="module")
def config_file(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    module = Doubling()
    tf.saved_model.save(module, str(folder / "double/1"), signatures=module.double)
    tf.saved_model.save(module, str(folder / "other/1"), signatures={"double": module.double})
    file = folder / "models.config"
    file.write_text(f"""
        model_config_list {{
          config {{
            name: "shapes" base_path: "{pathlib.Path(exported.folder).parent}"
            model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 }} }}
            version_labels {{ key: "stable" value: 1 }}
          }}
          config {{ name: "double" base_path: "{folder}/double" model_platform: "tensorflow" }}
          config {{ name: "other" base_path: "{folder}/other" model_platform: "tensorflow" }}
        }}""")
    return file


@pytest.fixture(scope="module")
def running(config_file):
    config = text_format.Parse(config_file.read_text(), model_server_config_pb2.ModelServerConfig())
    server = Server(config)
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    """The running server as it was at its start, and no long waits."""
    monkeypatch.setattr(retrying, "FIRST_WAIT_SECONDS", 0.01)
    running.num_predictions = 0
    yield running
    running.before_predict = lambda: None
    running.models["shapes"].states[1] = AVAILABLE


@contextlib.contextmanager
def connected(server, protocol, **kwargs):
    address = server.grpc_address if protocol == "grpc" else server.rest_address
    target = Target(f"{protocol}://{address}", **{"model": "shapes", **kwargs})
    with contextlib.closing(connection.connect(target)) as transport:
        yield transport


def write_files(folder, images):
    for name, image in images.items():
        (folder / name).write_bytes(image)
    return image_files.find([str(folder)])


@only_retinanet
@both_protocols
@pytest.mark.parametrize("which", [{}, {"version": 1}, {"label": "stable"}], ids=str)
def test_same_as_the_saved_model(exported, server, protocol, which):
    images = [encode(64, 64), encode(40, 90, "PNG", seed=1), encode(100, 30, seed=2)]
    expected = exported.serve(images)
    expected["detection_class_names"] = expected["detection_class_names"].astype(str)
    with connected(server, protocol, **which) as transport:
        assert assert_same(transport.predict(images), expected) > 10


@only_retinanet
@both_protocols
@pytest.mark.parametrize("batch_size", [1, 3])
def test_bad_files_are_named_and_the_others_answered(
    exported, server, protocol, batch_size, tmp_path
):
    good = encode(64, 64)
    contents = {
        "a.jpg": good,
        "b.jpg": good[:300],
        "c.png": b"",
        "d.JPEG": encode(50, 40),
        "e.jpg": good,
    }
    images = write_files(tmp_path, contents)
    os.symlink("nowhere", tmp_path / "f.jpg")
    images = image_files.find([str(tmp_path)])
    assert len(images) == 6
    with connected(server, protocol) as transport:
        results = list(detecting.detect(transport, images, batch_size=batch_size))
    assert [result.file.path.name for result in results] == [*contents, "f.jpg"]
    assert [result.problem for result in results] == [
        "",
        "is truncated or damaged",
        "is not a JPEG or PNG file",
        "",
        "",
        "cannot be read (No such file or directory)",
    ]
    lines = [json.loads(result.to_line()) for result in results]
    assert [line["file"] for line in lines] == [str(image.path) for image in images]
    assert lines[1]["error"] == "is truncated or damaged"
    for name in ("a.jpg", "d.JPEG"):
        (line,) = (line for line in lines if line["file"].endswith(name))
        expected = exported.serve([contents[name]])
        num = expected["num_detections"][0]
        assert len(line["detections"]) == num > 0
        boxes = [detection["box"] for detection in line["detections"]]
        np.testing.assert_allclose(boxes, expected["detection_boxes"][0, :num], atol=1e-3)
        names = [detection["name"].encode() for detection in line["detections"]]
        assert names == expected["detection_class_names"][0, :num].tolist()


class Batching:
    """Puts requests that come together into one batch, as a server with batching does."""

    def __init__(self, detector):
        self._detector = detector
        self._lock = threading.Lock()
        self._waiting, self._outputs = [], None

    def predict(self, images):
        with self._lock:
            start = len(self._waiting)
            if not start:
                self._outputs = concurrent.futures.Future()
            self._waiting += images
            outputs = self._outputs
        if not start:
            time.sleep(0.1)
            self._run(outputs)
        return {
            name: value[start : start + len(images)] for name, value in outputs.result().items()
        }

    def _run(self, outputs):
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            outputs.set_result(self._detector.predict(batch))
        except RefusedError as error:
            outputs.set_exception(error)


@only_retinanet
@pytest.mark.parametrize("batch_size", [1, 2])
def test_bad_files_do_not_spoil_others_in_a_batch_of_the_server(exported, batch_size, tmp_path):
    contents = {f"{i}.jpg": encode(30 + i, 20, seed=i) for i in range(8)}
    contents |= {"0.jpg": b"text", "5.jpg": contents["5.jpg"][:300]}
    detector = Batching(local.open_detector(exported.folder))
    images = write_files(tmp_path, contents)
    results = list(detecting.detect(detector, images, batch_size=batch_size))
    assert [result.problem for result in results] == [
        "is not a JPEG or PNG file" if i == 0 else "is truncated or damaged" if i == 5 else ""
        for i in range(8)
    ]
    assert [result.answer.height for result in results if result.answer] == [31, 32, 33, 34, 36, 37]


class BesideOthers:
    """Is asked together with a bad image of another client, at the first calls."""

    def __init__(self, detector, times):
        self._detector, self._left = detector, times

    def predict(self, images):
        self._left -= 1
        outputs = self._detector.predict([*images, b"text"] if self._left >= 0 else images)
        return {name: value[: len(images)] for name, value in outputs.items()}


@only_retinanet
@pytest.mark.parametrize(("times", "problem"), [(3, ""), (99, "not answered: .*other clients.*")])
def test_bad_images_of_other_clients(exported, times, problem, tmp_path):
    detector = BesideOthers(local.open_detector(exported.folder), times)
    (result,) = detecting.detect(detector, write_files(tmp_path, {"a.jpg": encode(20, 20)}))
    assert re.fullmatch(problem, result.problem)


class Failing:
    """Raises an error at the first calls."""

    def __init__(self, error, times, message="in a test"):
        self._error, self._left, self._message = error, times, message

    def __call__(self):
        self._left -= 1
        if self._left >= 0:
            raise self._error(None, None, self._message)


@only_retinanet
@both_protocols
@pytest.mark.parametrize("error", [tf.errors.UnavailableError, tf.errors.ResourceExhaustedError])
def test_a_server_that_recovers_is_asked_again(exported, server, protocol, error):
    server.before_predict = Failing(error, times=2)
    with connected(server, protocol, retries=2) as transport:
        assert transport.predict([encode(20, 20)])["num_detections"].shape == (1,)
    assert server.num_predictions == 3


@only_retinanet
@both_protocols
@pytest.mark.parametrize(
    ("error", "retries", "asked", "expected", "message"),
    [
        (tf.errors.UnavailableError, 2, 3, ServerError, "cannot be reached .in a test.; check"),
        (tf.errors.UnavailableError, 0, 1, ServerError, "cannot be reached"),
        (tf.errors.ResourceExhaustedError, 2, 3, RequestError, "overloaded .* lower --concurrency"),
        (tf.errors.InternalError, 2, 1, RequestError, "answered .*(INTERNAL|500): in a test"),
        (tf.errors.DeadlineExceededError, 2, 1, RequestError, "within --timeout=30 seconds"),
    ],
)
def test_retries_have_a_limit(exported, server, protocol, error, retries, asked, expected, message):
    server.before_predict = Failing(error, times=99)
    with (
        connected(server, protocol, retries=retries) as transport,
        pytest.raises(expected, match=message),
    ):
        transport.predict([encode(20, 20)])
    assert server.num_predictions == asked


@only_retinanet
@both_protocols
def test_a_full_queue_fails_one_image_only(exported, server, protocol, tmp_path):
    message = "The batch scheduling queue to which this task was submitted is full"
    server.before_predict = Failing(tf.errors.UnavailableError, 2, message)
    images = write_files(tmp_path, {"a.jpg": encode(20, 20), "b.jpg": encode(20, 20)})
    with connected(server, protocol, retries=1) as transport:
        first, second = detecting.detect(transport, images, concurrency=1)
    assert first.problem == f"the server is overloaded ({message}); lower --concurrency"
    assert second.problem == ""


BUSY = b"HTTP/1.1 503 -\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
CUT_OFF = b'HTTP/1.1 200 -\r\nContent-Length: 99\r\n\r\n{"outputs": '
CUT_OFF_CHUNK = b'HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"outputs": '
WHOLE = b'HTTP/1.1 200 -\r\nContent-Length: 23\r\n\r\n{"outputs": {"a": [1]}}'


@contextlib.contextmanager
def raw_server(answers, hangs=False):
    """Sends each request the next answer and then hangs up or, if `hangs`, nothing.

    Yields the transport that asks it, and a list that gets the time of every request.
    """
    times, over = [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            times.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answers[len(times) - 1])
            if hangs:
                over.wait()

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://localhost:{server.server_address[1]}"
        target = Target(address, "shapes", timeout=0.5 if hangs else 30, retries=4)
        try:
            with contextlib.closing(connection.connect(target)) as transport:
                yield transport, times
        finally:
            over.set()
            server.shutdown()


def test_rest_repeats_what_breaks_anywhere_and_waits_as_long_as_documented(monkeypatch):
    assert retrying.waits(4) == [0.5, 1, 2, 4]
    monkeypatch.setattr(retrying, "FIRST_WAIT_SECONDS", 0.05)
    with raw_server([BUSY, CUT_OFF, CUT_OFF_CHUNK, b"", WHOLE]) as (transport, times):
        assert transport.predict([b"image"]) == {"a": [1]}
    waits = np.diff(times)
    assert np.all(waits >= [0.05, 0.1, 0.2, 0.4]) and waits.sum() < 30


@pytest.mark.parametrize("answer", [b"", CUT_OFF, CUT_OFF_CHUNK], ids=["start", "body", "chunk"])
def test_rest_gives_up_an_answer_that_stalls_anywhere(answer):
    with (
        raw_server([answer], hangs=True) as (transport, times),
        pytest.raises(RequestError, match=r"no answer within --timeout=0\.5 seconds"),
    ):
        transport.predict([b"image"])
    assert len(times) == 1


def test_rest_ends_when_every_answer_breaks(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_WAIT_SECONDS", 0.01)
    with (
        raw_server([CUT_OFF] * 5) as (transport, times),
        pytest.raises(ServerError, match="cannot be reached"),
    ):
        transport.predict([b"image"])
    assert len(times) == 5


@only_retinanet
@both_protocols
def test_bad_images_are_not_sent_again(exported, server, protocol):
    with connected(server, protocol) as transport, pytest.raises(RefusedError) as info:
        transport.predict([b"text", encode(20, 20), encode(200, 100)])
    assert info.value.problems == {
        0: "is not a JPEG or PNG file",
        2: "has [200 100] pixels (height, width), and at most 10000 in all are accepted",
    }
    assert server.num_predictions == 1


@only_retinanet
@both_protocols
def test_a_slow_answer_is_given_up_once(exported, server, protocol, tmp_path):
    server.before_predict = lambda: time.sleep(0.6)
    images = write_files(tmp_path, {"a.jpg": encode(20, 20)})
    with connected(server, protocol, timeout=0.2) as transport:
        (result,) = detecting.detect(transport, images)
    assert result.problem == "no answer within --timeout=0.2 seconds"
    time.sleep(0.7)  # A request that is sent again would be counted by now.
    assert server.num_predictions == 1


@only_retinanet
@both_protocols
def test_requests_run_at_once(exported, server, protocol, tmp_path):
    barrier = threading.Barrier(4)
    server.before_predict = lambda: barrier.wait(timeout=20)
    images = write_files(tmp_path, {f"{i}.jpg": encode(30 + i, 20) for i in range(8)})
    with connected(server, protocol, concurrency=4) as transport:
        results = list(detecting.detect(transport, images, concurrency=4))
    # In their order, whichever was answered first.
    assert [json.loads(result.to_line())["height"] for result in results] == list(range(30, 38))


@only_retinanet
@both_protocols
@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"model": "nope"}, "does not serve model nope .*check --model"),
        ({"version": 7}, "does not serve model shapes version 7"),
        ({"label": "canary"}, "does not serve model shapes label canary"),
        ({"model": "double"}, "model double on .* has no signature serving_default with an input"),
        ({"model": "other"}, "model other on .* has no signature serving_default with an input"),
    ],
)
def test_asking_for_the_wrong_thing(exported, server, protocol, which, message):
    with connected(server, protocol, **which) as transport:
        with pytest.raises(ServerError, match=message) as info:
            transport.predict([encode(20, 20)])
        if which.keys() & {"version"} or which.get("model") == "nope":
            with pytest.raises(ServerError, match=message):
                transport.states()
    assert "\n" not in str(info.value)


@only_retinanet
@both_protocols
def test_the_port_of_the_other_protocol(exported, server, protocol):
    address = server.rest_address if protocol == "grpc" else server.grpc_address
    target = Target(f"{protocol}://{address}", "shapes")
    with (
        contextlib.closing(connection.connect(target)) as transport,
        pytest.raises(ServerError, match="8500 is usual for grpc://, 8501 for http://") as info,
    ):
        transport.states()
    assert str(info.value).isprintable()


@only_retinanet
@both_protocols
def test_waiting_until_the_model_is_loaded(exported, server, protocol):
    server.models["shapes"].states[1] = LOADING
    target = Target("http://localhost", "shapes")
    with connected(server, protocol) as transport:
        message = r"not available yet \(version 1 LOADING\); use --wait"
        with pytest.raises(UsageError, match=message):
            connection.wait_until_available(transport, target, 0, report=str)
        said = []
        timer = threading.Timer(0.3, lambda: server.models["shapes"].states.update({1: AVAILABLE}))
        timer.start()
        connection.wait_until_available(transport, target, 20, report=said.append)
        assert len(said) == 1
        connection.wait_until_available(transport, target, 0, report=said.append)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_is_there(protocol):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        target = Target(f"{protocol}://localhost:{free.getsockname()[1]}", "shapes", timeout=5)
    with contextlib.closing(connection.connect(target)) as transport:
        start = time.monotonic()
        with pytest.raises(UsageError, match=r"cannot be reached \(.*refused\)"):
            connection.wait_until_available(transport, target, 0.5, report=str)
        assert 0.5 <= time.monotonic() - start < 5


def test_finding_files(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/c.jpeg", "notes.txt", "odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    def find(*arguments):
        return [
            str(image.name) for image in image_files.find([f"{tmp_path}/{a}" for a in arguments])
        ]

    assert find("") == ["a.jpg", "b.PNG", "sub/c.jpeg"]
    assert find("odd", "") == ["odd", "a.jpg", "b.PNG", "sub/c.jpeg"]
    assert find("*.jpg", "a.jpg") == ["a.jpg"]
    assert find("**/*.jp*g") == ["a.jpg", "c.jpeg"]
    for argument in ("nowhere", "*.gif"):
        with pytest.raises(UsageError, match="does not exist"):
            find(argument)
    with pytest.raises(UsageError, match="empty holds no file that ends in"):
        find("empty")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        image_files.find([os.devnull])
    with pytest.raises(
        UsageError, match=f"^{re.escape(str(tmp_path))}: .* would replace the image"
    ):
        image_files.name_pictures(image_files.find([str(tmp_path)]), str(tmp_path))


NAMES = st.lists(st.from_regex(r"(sub/)?[ab](_2)?(\.jpg|\.png|\.gif)?", fullmatch=True), max_size=9)


@hypothesis.given(NAMES)
def test_every_image_has_a_picture_of_its_own(names):
    images = [
        image_files.ImageFile(pathlib.Path("/x", str(i), name), pathlib.PurePath(name))
        for i, name in enumerate(names)
    ]
    pictures = image_files.name_pictures(images, "drawn")
    assert len(set(pictures)) == len(names)
    for picture, name in zip(pictures, names, strict=True):
        assert picture.suffix in image_files.PICTURE_SUFFIXES
        assert picture.parent == pathlib.Path("drawn", name).parent
    if names and names[0].endswith(image_files.PICTURE_SUFFIXES):
        assert pictures[0] == pathlib.Path("drawn", names[0])


def test_the_config_of_the_document_is_one():
    text = (ROOT / "docs/serving.md").read_text()
    (block,) = re.findall(r"^```proto\n(.*?)^```", text, re.M | re.S)
    config = text_format.Parse(block, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


# The whole program.


def call(*arguments):
    return subprocess.run(
        [sys.executable, CLIENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )


@only_retinanet
@both_protocols
def test_the_program(exported, server, protocol, tmp_path):
    (tmp_path / "in").mkdir()
    contents = {"a.jpg": encode(64, 64), "b.png": encode(80, 40, "PNG", seed=1), "c.jpg": b"no"}
    write_files(tmp_path / "in", contents)
    address = server.grpc_address if protocol == "grpc" else server.rest_address
    result = call(
        *(f"--server={protocol}://{address}", "--model=shapes", f"--pictures={tmp_path}/drawn"),
        *("--draw_threshold=0.1", f"--output={tmp_path}/out.jsonl", tmp_path / "in"),
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "2 of 3 images without a problem" in result.stderr
    assert f"{tmp_path}/in/c.jpg: is not a JPEG or PNG file" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("height") for line in lines] == [64, 80, None]
    assert sorted(os.listdir(tmp_path / "drawn")) == ["a.jpg", "b.png"]
    shown = [detection for detection in lines[1]["detections"] if detection["score"] >= 0.1]
    assert 0 < len(shown) < len(lines[1]["detections"])
    expected = draw_detections(
        Image.open(tmp_path / "in/b.png"),
        [detection["box"] for detection in shown],
        [detection["name"] for detection in shown],
        [detection["score"] for detection in shown],
    )
    np.testing.assert_array_equal(Image.open(tmp_path / "drawn/b.png"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images: name files"),
        (["nowhere"], "nowhere does not exist"),
        ([CLIENT, "--server=localhost:8500"], "--server=localhost:8500: write grpc://HOST:PORT"),
        ([CLIENT, "--model_version=1", "--model_label=a"], "exclude each other"),
        ([CLIENT, "--pictures=/proc/drawn"], "--pictures=/proc/drawn cannot be created"),
        ([CLIENT, "--pictures=gs://drawn"], "--pictures=gs://drawn is not on this machine"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message):
    result = call("--model=shapes", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_full_disk_gets_one_line():
    code = """if True:
        import pathlib, sys
        from absl import flags
        from libra_tf.cli import image_files, program
        from libra_tf.commands import client
        from libra_tf.inference.detecting import Result
        flags.FLAGS(["client", "--model=cells", "--output=/dev/full"])
        file = image_files.ImageFile(pathlib.Path("a.jpg"), pathlib.PurePath("a.jpg"))
        sys.exit(program.exit_status(lambda: client._write([Result(file, problem="lost")], 1)))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "/dev/full cannot be written (No space left on device)" in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_flags_leave_no_folder_behind(tmp_path):
    result = call(
        CLIENT, "--model=shapes", "--server=localhost:8500", f"--pictures={tmp_path}/drawn"
    )
    assert result.returncode == 2
    assert not list(tmp_path.iterdir())


@only_retinanet
def test_rest_needs_no_tensorflow(exported, server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(64, 64))
    code = f"""if True:
        import runpy, sys
        sys.argv = ["client.py", "--model=shapes", "--server=http://{server.rest_address}",
                    "--pictures={tmp_path}/drawn", "{tmp_path}/a.jpg"]
        try:
            runpy.run_path({CLIENT!r}, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, end.code
        assert "tensorflow" not in sys.modules"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["height"] == 64


@only_retinanet
@pytest.mark.slow
def test_a_server_that_is_killed(exported, config_file, tmp_path):
    """What was answered is written; the rest is given up with one line, not one per image."""
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / "tests/inference/server.py", "--port=0", "--rest_api_port=0"),
            f"--model_config_file={config_file}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        address = process.stdout.readline().split()[-1]
        write_files(tmp_path, {f"{i:03}.jpg": encode(64, 64) for i in range(300)})
        client = subprocess.Popen(
            [
                *(sys.executable, CLIENT, f"--server=http://{address}", "--model=shapes"),
                *("--retries=1", "--concurrency=2", str(tmp_path)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        first = [client.stdout.readline() for _ in range(5)]
        process.kill()
        # Not by communicate(), which passes over what readline() has taken from the pipe already.
        rest, said = client.stdout.read(), client.stderr.read()
        client.wait()
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    assert 5 <= len(lines) < 300
    assert not any("error" in line for line in lines)
    assert client.returncode == 1
    assert f"{len(lines)} of 300 images without a problem" in said
    assert said.splitlines()[-1].startswith(f"error: http://{address} cannot be reached (")
    assert said.count("cannot be reached") == 1
