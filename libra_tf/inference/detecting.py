"""Asks a detector about image files, several requests at once, and yields the results."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from libra_tf.cli.image_files import ImageFile
from libra_tf.data import ahead
from libra_tf.data import images as data_images
from libra_tf.inference import answers
from libra_tf.inference.errors import RefusedError, RequestError

# It is unlikely that other clients' bad images fail the same request more often than this.
_MOST_TRIES_ALONE = 5
# Enough to keep every thread busy; with masks, an answer is megabytes.
_AHEAD_PER_THREAD = 2


class Detector(Protocol):
    """A detector: in this process (`local`), or on a server (`client`)."""

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of the model for image files.

        Args:
          images: the content of each file.

        Raises:
          RefusedError: if the model does not take one of the images.
        """


@dataclasses.dataclass(frozen=True)
class Result:
    """The result for one image.

    Attributes:
      file: the image.
      answer: the detections; None if detection failed.
      problem: why there is no answer or no picture; empty if all went well.
    """

    file: ImageFile
    answer: answers.Answer | None = None
    problem: str = ""

    def to_line(self, pastes_masks: bool = False) -> str:
        """Returns a line of JSON with the detections or the error.

        Args:
          pastes_masks: see `answers.Answer.to_json`.
        """
        if self.answer:
            return self.answer.to_json(str(self.file.path), pastes_masks)
        return json.dumps({"file": str(self.file.path), "error": self.problem})

    @property
    def num_detections(self) -> int:
        """The number of detected objects."""
        return len(self.answer.scores) if self.answer else 0


def detect(
    detector: Detector,
    files: Sequence[ImageFile],
    pictures: Sequence[pathlib.Path] | None = None,
    batch_size: int = 1,
    concurrency: int = 4,
    is_normalized: bool = False,
    draw_threshold: float = 0.0,
    turn_upright: bool = True,
) -> Iterator[Result]:
    """Sends images and yields a result for each, in their order.

    A file that cannot be read or that the detector refuses also yields a result. If a request is
    refused because of one image, each of its images is sent again alone; see `_Asker`.

    Args:
      detector: the detector.
      files: the images.
      pictures: where to draw the detections of each; None for no pictures.
      batch_size: images in one request.
      concurrency: requests at once.
      is_normalized: whether the model returns boxes as fractions of the image's height and width.
      draw_threshold: detections with a lower score are not drawn.
      turn_upright: whether images are sent and drawn as viewers that follow EXIF show them;
        otherwise as they are stored, which is what training sees.

    Yields:
      A result for each image.

    Raises:
      DetectorError: if no request will be answered.
    """
    targets = pictures or [None] * len(files)
    jobs = list(zip(files, targets, strict=True))
    batches = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size)]
    asker = _Asker(detector, is_normalized, concurrency)
    work = functools.partial(_detect_batch, asker, draw_threshold, turn_upright)
    for results in ahead.in_threads(work, batches, concurrency, concurrency * _AHEAD_PER_THREAD):
        yield from results


def _detect_batch(
    asker: "_Asker",
    draw_threshold: float,
    turn_upright: bool,
    jobs: Sequence[tuple[ImageFile, pathlib.Path | None]],
) -> list[Result]:
    """Reads the images of a batch, detects in them and draws; returns a result for each."""
    results, readable = {}, []
    for file, picture in jobs:
        try:
            encoded = data_images.as_jpeg_or_png(file.path.read_bytes(), turn_upright)
        except OSError as error:
            results[file] = Result(file, problem=f"cannot be read ({error.strerror})")
        except data_images.ImageError as error:
            results[file] = Result(file, problem=str(error))
        else:
            readable.append((file, picture, encoded))
    asked = asker.ask([encoded for _, _, encoded in readable])
    for (file, picture, encoded), answer in zip(readable, asked, strict=True):
        if isinstance(answer, str):
            results[file] = Result(file, problem=answer)
            continue
        problem = _draw(answer, encoded, picture, draw_threshold) if picture else ""
        results[file] = Result(file, answer, problem)
    return [results[file] for file, _ in jobs]


class _Asker:
    """Asks for detections, and finds out which images of a refused request are to blame.

    A server that combines requests into batches fails all of them for one bad image, and the
    positions that it reports count through all of them. So after a refusal each image is sent again
    while no other request is in flight, and a problem is attributed to it only if the server
    reports position 0 alone.

    Args:
      detector: the detector.
      is_normalized: whether the model returns boxes as fractions of the image's height and width.
      concurrency: requests at once.
    """

    def __init__(self, detector: Detector, is_normalized: bool, concurrency: int) -> None:
        self._detector = detector
        self._is_normalized = is_normalized
        self._concurrency = concurrency
        self._slots = threading.Semaphore(concurrency)
        self._taking_all_slots = threading.Lock()

    def ask(self, images: Sequence[bytes]) -> list[answers.Answer | str]:
        """Returns for each image its answer, or what is wrong with it."""
        if not images:
            return []
        try:
            with self._slots:
                return self._predict(images)
        except RefusedError:
            return [self._ask_alone(image) for image in images]
        except RequestError as error:
            return [str(error)] * len(images)

    def _ask_alone(self, image: bytes) -> answers.Answer | str:
        for _ in range(_MOST_TRIES_ALONE):
            try:
                with self._all_slots():
                    return self._predict([image])[0]
            except RefusedError as error:
                if set(error.problems) == {0}:
                    return error.problems[0]
            except RequestError as error:
                return str(error)
        return (
            f"not answered: {_MOST_TRIES_ALONE} times, the server put it into a batch with images "
            "of other clients and refused one of those; send it again"
        )

    def _predict(self, images: Sequence[bytes]) -> list[answers.Answer]:
        return answers.from_outputs(self._detector.predict(images), self._is_normalized)

    @contextlib.contextmanager
    def _all_slots(self) -> Iterator[None]:
        # Only one thread at a time: two that held some of the slots each would wait forever.
        with self._taking_all_slots:
            for _ in range(self._concurrency):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(self._concurrency)


def _draw(answer: answers.Answer, encoded: bytes, path: pathlib.Path, threshold: float) -> str:
    """Writes a picture; returns what went wrong, empty if nothing did."""
    try:
        picture = answer.draw(encoded, threshold)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    # What a damaged file makes Pillow raise varies.
    except Exception as error:
        return f"detection succeeded, but the picture {path} cannot be written ({error})"
    return ""
