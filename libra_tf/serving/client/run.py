"""Sends images to a server, several requests at once, and passes on what comes back."""

import concurrent.futures
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from libra_tf.runner.errors import UsageError
from libra_tf.serving.client import answers
from libra_tf.serving.client.errors import RefusedError, RequestError, ServerError
from libra_tf.serving.client.files import ImageFile
from libra_tf.serving.client.target import Target

_SECONDS_BETWEEN_LOOKS = 1.0


class Detector(Protocol):
    """What detects: a server, or a model in this process (`libra_tf.serving.local`)."""

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of the model for image files.

        Raises:
          RefusedError: if one of them is not an image that the model takes.
        """


class Transport(Detector, Protocol):
    """How a model on a server is asked; see `rest` and `grpc_api`."""

    def states(self) -> dict[int, str]:
        """Returns the state of every version that is asked for."""

    def close(self) -> None:
        """Closes the connections."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of an image.

    Attributes:
      file: the image.
      answer: what was detected, None if that failed.
      problem: why there is no answer or no picture; empty if all went well.
    """

    file: ImageFile
    answer: answers.Answer | None = None
    problem: str = ""

    @property
    def line(self) -> str:
        """JSON, with the detections or the error."""
        if self.answer:
            return self.answer.to_json(str(self.file.path))
        return json.dumps({"file": str(self.file.path), "error": self.problem})

    @property
    def num_detections(self) -> int:
        """How many objects were detected."""
        return len(self.answer.scores) if self.answer else 0


def connect(target: Target) -> Transport:
    """Makes the transport for the server's protocol.

    Raises:
      UsageError: if there is none.
    """
    scheme, separator, address = target.server.partition("://")
    if not separator or not address or scheme not in ("grpc", "http", "https"):
        raise UsageError(
            f"--server={target.server}: write grpc://HOST:PORT, http://HOST:PORT or "
            "https://HOST:PORT"
        )
    # Imported here because TensorFlow takes seconds, and is not needed for REST.
    if scheme == "grpc":
        from libra_tf.serving.client import grpc_api

        return grpc_api.GrpcTransport(target)
    from libra_tf.serving.client import rest

    return rest.RestTransport(dataclasses.replace(target, server=target.server.rstrip("/")))


def wait_until_available(
    transport: Transport, target: Target, seconds: float, report: Callable[[str], None]
) -> None:
    """Returns once the server says that it serves the model.

    Args:
      transport: how to ask.
      target: what is asked for.
      seconds: how long to wait for it; 0 to ask once.
      report: is given a line if there is something to wait for.

    Raises:
      UsageError: if it does not in that time; the message says why.
    """
    end = time.monotonic() + seconds
    problem = _why_not_available(transport, target)
    if problem and seconds:
        report(f"waiting for {seconds:g} seconds at the most: {problem}")
    while problem and time.monotonic() < end:
        time.sleep(min(_SECONDS_BETWEEN_LOOKS, max(0.0, end - time.monotonic())))
        problem = _why_not_available(transport, target)
    if problem:
        raise UsageError(problem)


def _why_not_available(transport: Transport, target: Target) -> str:
    try:
        states = transport.states()
    except (ServerError, RequestError) as error:
        return str(error)
    if "AVAILABLE" in states.values():
        return ""
    listed = ", ".join(f"version {number} {state}" for number, state in states.items())
    return f"{target} on {target.server} is not available yet ({listed}); --wait waits for it"


def detect(
    detector: Detector,
    files: Sequence[ImageFile],
    pictures: Sequence[pathlib.Path] | None = None,
    batch_size: int = 1,
    concurrency: int = 4,
    is_normalized: bool = False,
    draw_threshold: float = 0.0,
) -> Iterator[Result]:
    """Sends images and gives what became of each, in their order.

    A file that cannot be read or that the server refuses is one of the results. Where one image of
    a request is refused, the others are sent again alone.

    Args:
      detector: what detects.
      files: the images.
      pictures: where to draw the detections of each; None for no pictures.
      batch_size: images in one request.
      concurrency: requests at once.
      is_normalized: whether the model gives boxes as shares of height and width.
      draw_threshold: detections with a lower score are not drawn.

    Yields:
      Results.

    Raises:
      ServerError: if the server is gone or does not serve the model.
    """
    targets = pictures or [None] * len(files)
    jobs = list(zip(files, targets, strict=True))
    batches = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size)]
    work = functools.partial(_detect_batch, detector, is_normalized, draw_threshold)
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        for results in pool.map(work, batches):
            yield from results


def _detect_batch(detector, is_normalized, draw_threshold, jobs) -> list[Result]:
    results, readable = {}, []
    for file, picture in jobs:
        try:
            readable.append((file, picture, file.path.read_bytes()))
        except OSError as error:
            results[file] = Result(file, problem=f"cannot be read ({error.strerror})")
    asked = _ask(detector, is_normalized, [encoded for _, _, encoded in readable])
    for (file, picture, encoded), answer in zip(readable, asked, strict=True):
        if isinstance(answer, str):
            results[file] = Result(file, problem=answer)
            continue
        problem = _draw(answer, encoded, picture, draw_threshold) if picture else ""
        results[file] = Result(file, answer, problem)
    return [results[file] for file, _ in jobs]


def _ask(detector, is_normalized, images) -> list[answers.Answer | str]:
    """Returns for each image its answer, or what is wrong with it."""
    if not images:
        return []
    try:
        return answers.from_outputs(detector.predict(images), is_normalized)
    except RefusedError as error:
        if len(images) == 1:
            return [str(error)]
        return [
            error.problems[i] if i in error.problems else _ask(detector, is_normalized, [image])[0]
            for i, image in enumerate(images)
        ]
    except RequestError as error:
        return [str(error)] * len(images)


def _draw(answer, encoded, path, threshold) -> str:
    """Writes a picture; returns what prevented it."""
    try:
        picture = answer.draw(encoded, threshold)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    # Pillow's decoders raise all sorts of things.
    except Exception as error:
        return f"answered, but its picture {path} cannot be written ({error})"
    return ""
