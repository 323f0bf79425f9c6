"""Sends images to TensorFlow Serving and writes the detections.

    libra-tf client --model=cells images/ > detections.jsonl
    libra-tf client --model=cells --server=http://localhost:8501 --pictures=drawn a.jpg

It writes one line of JSON per image. docs/serving.md has examples.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import image_files, outputs, program, quiet
from libra_tf.cli.errors import UsageError
from libra_tf.inference.client import retrying
from libra_tf.inference.client.target import Target
from libra_tf.inference.errors import DetectorError

if TYPE_CHECKING:
    from libra_tf.inference.detecting import Result

_SERVER = flags.DEFINE_string(
    "server", "grpc://localhost:8500", "grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT."
)
_MODEL = flags.DEFINE_string("model", None, "Name of the model on the server.", required=True)
_VERSION = flags.DEFINE_integer(
    "model_version", None, "Version of the model. Default: the newest.", lower_bound=0
)
_LABEL = flags.DEFINE_string("model_label", None, "Label of the version in the server's config.")
_OUTPUT = flags.DEFINE_string("output", "-", "File for the lines of JSON; - for standard output.")
_PICTURES = flags.DEFINE_string(
    "pictures", None, "Folder for images with the detections drawn in. Default: no pictures."
)
_DRAW_THRESHOLD = run_flags.define_draw_threshold("Draw")
_NORMALIZED_BOXES = flags.DEFINE_bool(
    "normalized_boxes", False, "Give pixels for a model exported with --normalized_boxes."
)
_PASTED_MASKS = flags.DEFINE_bool(
    "pasted_masks",
    False,
    "Give masks run-length encoded in the image, as COCO's results do, instead of the "
    "probabilities in the cells of the box. This imports TensorFlow.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Images per request.", lower_bound=1)
_CONCURRENCY = flags.DEFINE_integer("concurrency", 4, "Concurrent requests.", 1, 256)
_RETRIES = flags.DEFINE_integer(
    "retries",
    3,
    "How often to retry a request if the server cannot be reached or is overloaded, after 0.5, 1, "
    "2, ... seconds.",
    0,
    retrying.MOST_RETRIES,
)
_TIMEOUT = flags.DEFINE_float("timeout", 30.0, "Seconds a request may take.", 0.001)
_WAIT = flags.DEFINE_float(
    "wait", 0.0, "Wait up to this many seconds for the model to become available.", 0.0
)


def main(arguments: list[str]) -> None:
    """Runs the client, or prints one clear error."""
    # TensorFlow and gRPC read these at import. Their errors become Python exceptions as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    quiet.silence_libraries()
    sys.exit(program.exit_status(lambda: _detect(arguments[1:])))


def _detect(arguments: list[str]) -> int:
    images = image_files.find(arguments)
    pictures = image_files.name_pictures(images, _PICTURES.value) if _PICTURES.value else None
    if _PICTURES.value:
        outputs.require_local("--pictures", _PICTURES.value)
    if _VERSION.value is not None and _LABEL.value:
        raise UsageError("--model_version and --model_label exclude each other: give one")
    target = Target(
        _SERVER.value,
        _MODEL.value,
        _VERSION.value,
        _LABEL.value,
        _TIMEOUT.value,
        _RETRIES.value,
        _CONCURRENCY.value,
    )
    # Only now, so that wrong flags leave no folder behind.
    if _PICTURES.value:
        outputs.make_folder("--pictures", _PICTURES.value)
    # Imported here so that --help and wrong flags are answered at once.
    from libra_tf.inference import detecting
    from libra_tf.inference.client import connection

    if target.server.startswith("grpc://"):
        _say("importing TensorFlow for gRPC (about 5 s; http:// needs none) ...")
    with contextlib.closing(connection.connect(target)) as transport:
        connection.wait_until_available(transport, target, _WAIT.value, _say)
        results = detecting.detect(
            transport,
            images,
            pictures,
            _BATCH_SIZE.value,
            _CONCURRENCY.value,
            _NORMALIZED_BOXES.value,
            _DRAW_THRESHOLD.value,
        )
        return _write(results, len(images))


def _write(results: Iterable["Result"], total: int) -> int:
    """Writes lines as they arrive and lists the failures at the end. Returns the exit status."""
    import rich.console

    from libra_tf.cli.progress import Progress

    progress = Progress(rich.console.Console(stderr=True))
    start, done, detections, failures, lost = time.monotonic(), 0, 0, [], None
    path = "standard output" if _OUTPUT.value == "-" else _OUTPUT.value
    # Closing the file writes what is left, so it can fail as well.
    with outputs.writing(path), _open_output() as output:
        progress.start("detecting", total, unit="image")
        progress.advance(0, images=1)
        try:
            for result in results:
                print(result.to_line(_PASTED_MASKS.value), file=output, flush=True)
                done += 1
                detections += result.num_detections
                if result.problem:
                    failures.append(result)
                progress.advance(done, images=1)
        except DetectorError as error:
            lost = error
        finally:
            progress.stop()
    seconds = time.monotonic() - start
    _say(
        f"{done - len(failures)} of {total} images without a problem, {detections} detections, "
        f"{seconds:.1f} s"
    )
    for result in failures:
        _say(f"  {result.file.path}: {result.problem}")
    if lost:
        _say(f"error: {lost}")
    return 1 if failures or lost else 0


def _open_output() -> contextlib.AbstractContextManager[IO[str]]:
    if _OUTPUT.value == "-":
        return contextlib.nullcontext(sys.stdout)
    return outputs.open_text("--output", _OUTPUT.value)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
