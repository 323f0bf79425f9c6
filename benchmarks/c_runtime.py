"""A SavedModel in TensorFlow's C runtime, under load and with damaged images: what soak.c needs.

TensorFlow Serving runs a SavedModel in the same C++ session that the C API gives, without Python.
"""

import dataclasses
import os
import pathlib
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from libra_tf.inference.errors import RefusedError
from libra_tf.inference.signature import INPUT, SIGNATURE

_SOURCE = pathlib.Path(__file__).with_name("soak.c")
_OUTPUTS = (
    "detection_boxes",
    "detection_scores",
    "detection_classes",
    "num_detections",
    "image_size",
)


class Detector(Protocol):
    """What knows the answers, such as `libra_tf.inference.local.LocalDetector`."""

    def predict(self, images: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        """Returns the outputs for image files, or raises `RefusedError`."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request and what it must get: outputs or a refusal.

    Attributes:
      kind: requests of one kind are counted together.
      images: the image files.
      outputs: the served graph's, by name; empty if the request must be refused.
      refusal: what the error must say of the images; empty if the request must be answered.
    """

    kind: str
    images: Sequence[bytes]
    outputs: Mapping[str, np.ndarray]
    refusal: str = ""


def ask(detector: Detector, kind: str, images: Sequence[bytes]) -> Request:
    """Makes a request that must get what the detector gives."""
    try:
        return Request(kind, images, detector.predict(images))
    except RefusedError as error:
        problems = (f"image {i} of the batch {why}" for i, why in error.problems.items())
        return Request(kind, images, {}, "; ".join(problems))


def write_requests(
    path: str | os.PathLike[str],
    saved_model: str | os.PathLike[str],
    good: Iterable[Request],
    damaged: Iterable[Request],
) -> None:
    """Writes the file that soak.c reads.

    Args:
      path: the file.
      saved_model: the SavedModel's folder; the names of its tensors are written, too.
      good: requests that are sent again and again.
      damaged: requests that are sent once.
    """
    with open(path, "wb") as file:
        for name in _tensor_names(saved_model):
            _write_bytes(file, name.encode())
        for requests in (list(good), list(damaged)):
            _write_ints(file, len(requests))
            for request in requests:
                _write_request(file, request)


def build(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Compiles soak.c with gcc into a folder, against the installed TensorFlow."""
    program = pathlib.Path(folder, "soak")
    libraries = os.path.dirname(tf.__file__)
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    options += [f"-I{tf.sysconfig.get_include()}", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    options += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-pthread", "-lm"]
    subprocess.run(["gcc", str(_SOURCE), "-o", str(program), *options], check=True)
    return program


@dataclasses.dataclass(frozen=True)
class Load:
    """How much is asked of the program.

    Attributes:
      threads: how many share one session.
      requests: good requests under load.
      warm_up: good requests before these.
      max_growth: megabytes by which resident memory may grow after the warm-up.
    """

    threads: int = 8
    requests: int = 10_000
    warm_up: int = 500
    max_growth: float = 50

    def command(
        self,
        program: str | os.PathLike[str],
        saved_model: str | os.PathLike[str],
        requests_file: str | os.PathLike[str],
    ) -> list[str]:
        """Returns the command line for soak.c."""
        numbers = (self.threads, self.requests, self.warm_up, self.max_growth)
        return [str(part) for part in (program, saved_model, requests_file, *numbers)]


def _tensor_names(saved_model: str | os.PathLike[str]) -> list[str]:
    document = saved_model_pb2.SavedModel()
    document.ParseFromString(pathlib.Path(saved_model, "saved_model.pb").read_bytes())
    (meta_graph,) = document.meta_graphs
    signature = meta_graph.signature_def[SIGNATURE]
    return [signature.inputs[INPUT].name, *(signature.outputs[name].name for name in _OUTPUTS)]


def _write_request(file: BinaryIO, request: Request) -> None:
    _write_bytes(file, request.kind.encode())
    _write_ints(file, len(request.images))
    for image in request.images:
        _write_bytes(file, image)
    _write_bytes(file, request.refusal.encode())
    if not request.refusal:
        boxes, scores, classes, nums, sizes = (request.outputs[name] for name in _OUTPUTS)
        for i, num in enumerate(nums):
            _write_ints(file, *sizes[i], num)
            file.write(scores[i, :num].astype(np.float32).tobytes())
            file.write(boxes[i, :num].astype(np.float32).tobytes())
            file.write(classes[i, :num].astype(np.int32).tobytes())


def _write_bytes(file: BinaryIO, content: bytes) -> None:
    _write_ints(file, len(content))
    file.write(content)


def _write_ints(file: BinaryIO, *numbers: int) -> None:
    file.write(struct.pack(f"={len(numbers)}i", *numbers))
