"""Puts a server under sustained load, and sends it 1,000 damaged requests.

    python benchmarks/soak.py

It exports a tiny Libra RetinaNet, serves it with the stand-in of tests/serving/server.py in a
process of its own, and sends 10,000 requests from 8 clients, half over gRPC and half over REST.
Every answer is compared with that of the SavedModel in this process, and the resident memory of the
server is read from time to time. Then it sends the damaged requests: each must be answered, or
refused as the client's fault. If anything else happens, the program exits with status 1.
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np
import psutil
import requests
import rich.console
import rich.progress
import rich.table
import tensorflow as tf
from absl import app, flags
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from exporting import export_run
from libra_tf.inference.client import run
from libra_tf.inference.client.errors import RefusedError
from libra_tf.inference.client.target import Target

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}},
        "detection_generator": {"max_num_detections": 50},
    }
}
MAX_PIXELS = 100_000
# Rounding depends on the batch size.
TOLERANCE = 1e-3

_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Requests under load.", lower_bound=1)
_CLIENTS = flags.DEFINE_integer("clients", 8, "Concurrent clients.", lower_bound=2)
_MUTATIONS = flags.DEFINE_integer("mutations", 1_000, "Damaged requests.", lower_bound=0)


def main(_):
    """Runs both parts and prints their tables."""
    with tempfile.TemporaryDirectory() as folder:
        console = rich.console.Console()
        with console.status("exporting a tiny model"):
            version = export_run(folder, "libra_retinanet_demo", TINY, True, MAX_PIXELS)
        with _serving(os.path.dirname(version)) as server:
            is_well = _soak(server, version, console)
            is_well &= _send_damaged(server, console)
    sys.exit(0 if is_well else 1)


@contextlib.contextmanager
def _serving(base_path):
    """Starts the server, and yields its process and its two addresses."""
    command = [
        sys.executable,
        str(ROOT / "tests/serving/server.py"),
        f"--model_base_path={base_path}",
    ]
    process = subprocess.Popen(
        [*command, "--port=0", "--rest_api_port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        # "gRPC on HOST:PORT, REST on HOST:PORT"
        words = process.stdout.readline().replace(",", "").split()
        yield Server(process, words[2], words[5])
    finally:
        process.terminate()
        process.wait()


Server = collections.namedtuple("Server", ["process", "grpc_address", "rest_address"])


def _transports(server, count):
    addresses = itertools.cycle([f"grpc://{server.grpc_address}", f"http://{server.rest_address}"])
    return [run.connect(Target(next(addresses), "default", timeout=120)) for _ in range(count)]


def _soak(server, version, console):
    images = [_encode(30 + 7 * i, 80 - 3 * i, "PNG" if i % 3 else "JPEG", i) for i in range(16)]
    serve = tf.saved_model.load(version).signatures["serving_default"]
    expected = [
        {name: value.numpy() for name, value in serve(image_bytes=tf.constant([image])).items()}
        for image in images
    ]
    process, counts, lock = (
        psutil.Process(server.process.pid),
        collections.Counter(),
        threading.Lock(),
    )
    every = max(1, _REQUESTS.value // 10)
    memory = []
    progress = rich.progress.Progress(console=console)
    task = progress.add_task("requests", total=_REQUESTS.value)
    numbers = iter(range(_REQUESTS.value))

    def work(transport):
        while True:
            with lock:
                number = next(numbers, None)
                if number is None:
                    return
                if number % every == 0:
                    memory.append((number, process.memory_info().rss / 2**20))
            which = number % len(images)
            try:
                outputs = transport.predict([images[which]])
                outcome = "right" if _is_same(outputs, expected[which]) else "wrong"
            except Exception as error:
                outcome = f"failed: {error}"
            with lock:
                counts[outcome] += 1
            progress.advance(task)

    transports = _transports(server, _CLIENTS.value)
    with progress, concurrent.futures.ThreadPoolExecutor(_CLIENTS.value) as pool:
        list(pool.map(work, transports))
    for transport in transports:
        transport.close()
    memory.append((_REQUESTS.value, process.memory_info().rss / 2**20))
    (elapsed,) = (t.elapsed for t in progress.tasks)
    console.print(
        f"{_REQUESTS.value} requests from {_CLIENTS.value} clients, "
        f"{_REQUESTS.value / elapsed:.0f} a second: {dict(counts)}"
    )
    table = rich.table.Table("requests", "MB resident in the server")
    for number, megabytes in memory:
        table.add_row(str(number), f"{megabytes:.0f}")
    console.print(table)
    return set(counts) == {"right"}


def _is_same(outputs, expected):
    names = expected["detection_class_names"].astype(str)
    scores, boxes = expected["detection_scores"], expected["detection_boxes"]
    return (
        np.array_equal(outputs["detection_class_names"], names)
        and np.allclose(outputs["detection_scores"], scores, atol=TOLERANCE)
        and np.allclose(outputs["detection_boxes"], boxes, atol=TOLERANCE)
        and np.array_equal(outputs["num_detections"], expected["num_detections"])
    )


def _send_damaged(server, console):
    rng = np.random.default_rng(0)
    transports = _transports(server, 2)
    counts = collections.defaultdict(collections.Counter)
    kinds = itertools.cycle([*_IMAGE_MUTATIONS, *_REQUEST_MUTATIONS])
    for number in rich.progress.track(range(_MUTATIONS.value), "damaged requests", console=console):
        kind = next(kinds)
        if kind in _IMAGE_MUTATIONS:
            damaged = _IMAGE_MUTATIONS[kind](rng)
            outcome = _outcome_of_image(transports[number // 2 % 2], damaged)
        else:
            outcome = _REQUEST_MUTATIONS[kind](server, rng)
        counts[kind][outcome] += 1
    # The server still answers correctly.
    transports[0].predict([_encode(40, 40, "JPEG", 0)])
    for transport in transports:
        transport.close()
    outcomes = ("answered", "refused", "other")
    table = rich.table.Table("damage", *outcomes)
    for kind, counter in counts.items():
        table.add_row(kind, *(str(counter[outcome]) for outcome in outcomes))
    console.print(table)
    return server.process.poll() is None and not any(c["other"] for c in counts.values())


def _outcome_of_image(transport, image):
    try:
        transport.predict([image])
    except RefusedError:
        return "refused"
    except Exception as error:
        print(error)
        return "other"
    return "answered"


def _encode(height, width, image_format, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, format=image_format)
    return buffer.getvalue()


def _a_file(rng, image_format):
    height, width = rng.integers(8, 120, 2)
    return _encode(int(height), int(width), image_format, int(rng.integers(1 << 30)))


def _truncate(image_format, rng):
    image = _a_file(rng, image_format)
    return image[: rng.integers(0, len(image))]


def _flip_bits(image_format, rng):
    image = bytearray(_a_file(rng, image_format))
    for _ in range(rng.integers(1, 20)):
        image[rng.integers(len(image))] ^= 1 << rng.integers(8)
    return bytes(image)


def _enlarge_png(rng):
    """Returns a PNG that declares sides of up to 2**31 pixels, with or without a valid checksum."""
    image = bytearray(_a_file(rng, "PNG"))
    for start in (16, 20):
        image[start : start + 4] = int(rng.integers(1000, 2**31)).to_bytes(4, "big")
    if rng.integers(2):
        image[29:33] = zlib.crc32(image[12:29]).to_bytes(4, "big")
    return bytes(image)


def _enlarge_jpeg(rng):
    image = bytearray(_a_file(rng, "JPEG"))
    start = image.index(b"\xff\xc0") + 5
    image[start : start + 4] = b"".join(
        int(rng.integers(1000, 2**16)).to_bytes(2, "big") for _ in range(2)
    )
    return bytes(image)


_IMAGE_MUTATIONS = {
    "JPEG cut off": functools.partial(_truncate, "JPEG"),
    "PNG cut off": functools.partial(_truncate, "PNG"),
    "JPEG with flipped bits": functools.partial(_flip_bits, "JPEG"),
    "PNG with flipped bits": functools.partial(_flip_bits, "PNG"),
    "PNG that declares a huge size": _enlarge_png,
    "JPEG that declares a huge size": _enlarge_jpeg,
    "random bytes": lambda rng: rng.bytes(rng.integers(1, 3000)),
    "random bytes with a JPEG's start": lambda rng: b"\xff\xd8\xff" + rng.bytes(200),
    "random bytes with a PNG's start": lambda rng: b"\x89PNG\r\n\x1a\n" + rng.bytes(200),
    "no bytes": lambda rng: b"",
}


def _wrong_tensor(server, rng):
    """Sends types, shapes, names and signatures that the model does not have, over gRPC."""
    values = [
        ("image_bytes", tf.random.uniform([2]), "serving_default"),
        ("image_bytes", tf.constant([["a"]]), "serving_default"),
        ("image_bytes", tf.constant("a"), "serving_default"),
        ("images", tf.constant(["a"]), "serving_default"),
        ("image_tensor", tf.zeros([1, 9, 9], tf.uint8), "serving_image_tensor"),
        ("image_tensor", tf.zeros([1, 9, 9, 4], tf.uint8), "serving_image_tensor"),
        ("image_tensor", tf.zeros([1, 0, 9, 3], tf.uint8), "serving_image_tensor"),
        ("image_tensor", tf.zeros([1, 9, 9, 3]), "serving_image_tensor"),
        ("examples", tf.constant([rng.bytes(50)]), "serving_tf_example"),
        ("examples", tf.constant([b""]), "serving_tf_example"),
        ("image_bytes", tf.constant(["a"]), "serving"),
    ]
    name, value, signature = values[rng.integers(len(values))]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(server.grpc_address) as channel:
        try:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        except grpc.RpcError as error:
            if error.code().name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
                return "refused"
            print(signature, value.shape, error.code(), error.details())
            return "other"
    return "answered"


def _wrong_json(server, rng):
    """Sends JSON of the wrong structure, and text that is not valid JSON."""
    right = json.dumps({"instances": [{"b64": "aGVsbG8="}]}).encode()
    bodies = [
        b"{" * int(rng.integers(1, 5000)),
        b"[" * int(rng.integers(1, 5000)),
        right[: rng.integers(len(right))],
        rng.bytes(100),
        b'{"instances": [{"b64": "***"}]}',
        b'{"instances": [{"b64": 5}, {"b64": "aGVsbG8="}]}',
        b'{"instances": [[["aGVsbG8="]], "x"]}',
        b'{"instances": 5}',
        b'{"inputs": {"image_bytes": [1e999, NaN]}}',
        b'{"signature_name": "serving_image_tensor", "instances": [[[[1, 2, 300]]]]}',
        b'{"signature_name": "serving_image_tensor", "instances": [[[["a"]]]]}',
        b'{"signature_name": "nope", "instances": ["a"]}',
    ]
    url = f"http://{server.rest_address}/v1/models/default:predict"
    response = requests.post(url, data=bodies[rng.integers(len(bodies))], timeout=60)
    if response.status_code == 400:
        return "refused"
    return "answered" if response.ok else "other"


_REQUEST_MUTATIONS = {
    "tensors of wrong type, shape, name": _wrong_tensor,
    "wrong JSON": _wrong_json,
}

if __name__ == "__main__":
    app.run(main)
