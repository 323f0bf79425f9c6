"""Puts an exported detector under load in TensorFlow's C runtime, and sends it damaged images.

    python benchmarks/soak.py --detector=retinanet
    python benchmarks/soak.py --detector=fasterrcnn

exports a detector of the demo's size with random weights, compiles soak.c against the installed
TensorFlow, and runs it: 8 threads share one session and send 10,000 requests, then 1,000 damaged
ones, each followed by a good one. The answers and refusals that they must get come from the
detector as Keras runs it in Python. The program prints its counts, requests per second and its
resident memory. The exit status is 1 if an answer is wrong, if an error does not name the damaged
image, if memory grows by more than --max_growth, or if the program crashes.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import rich.console
import rich.progress
from absl import app, flags

import c_runtime
import damage
from exporting import export_run
from libra_tf.inference import local

# Large enough for the good images, and small beside what the damaged ones declare.
MAX_PIXELS = 100_000

_DETECTOR = flags.DEFINE_enum(
    "detector", "retinanet", ["retinanet", "fasterrcnn"], "Which demo detector is exported."
)
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model",
    None,
    "Folder of a SavedModel to take instead; its own answers in Python are then the known ones. "
    "Export it with --max_pixels=100000.",
)
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Good requests.", lower_bound=1)
_DAMAGED = flags.DEFINE_integer("damaged", 1_000, "Damaged requests.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Decides the damage.")
_THREADS = flags.DEFINE_integer("threads", 8, "Threads that share a session.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer("warm_up", 500, "Requests before all these.", lower_bound=1)
_MAX_GROWTH = flags.DEFINE_float(
    "max_growth", 50, "Megabytes by which resident memory may grow after the warm-up."
)


def main(_: list[str]) -> None:
    """Exports, writes the requests, and leaves the rest to the C program."""
    console = rich.console.Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        saved_model, source = _SAVED_MODEL.value, _SAVED_MODEL.value
        if not saved_model:
            with console.status("exporting the detector"):
                name = f"libra_{_DETECTOR.value}_demo"
                saved_model = export_run(folder, name, {}, True, MAX_PIXELS)
            source = os.path.join(folder, "run")
        max_pixels = None if _SAVED_MODEL.value else MAX_PIXELS
        detector = local.open_detector(source, max_pixels=max_pixels)
        requests_file = pathlib.Path(folder, "requests")
        c_runtime.write_requests(requests_file, saved_model, *_requests(detector, console))
        load = c_runtime.Load(_THREADS.value, _REQUESTS.value, _WARM_UP.value, _MAX_GROWTH.value)
        command = load.command(c_runtime.build(folder), saved_model, requests_file)
        log = pathlib.Path(folder, "log")
        # Of every damaged JPEG, the library that decodes it prints a line.
        with log.open("wb") as file:
            status = subprocess.run(command, stderr=file, check=False).returncode
        if status:
            print("".join(log.read_text(errors="replace").splitlines(True)[-20:]), file=sys.stderr)
    if status < 0:
        print(f"the program died of {signal.Signals(-status).name}", file=sys.stderr)
    sys.exit(1 if status else 0)


def _requests(
    detector: c_runtime.Detector, console: rich.console.Console
) -> tuple[list[c_runtime.Request], list[c_runtime.Request]]:
    """Returns the good and the damaged requests."""
    damaged = rich.progress.track(
        damage.damaged_requests(_DAMAGED.value, _SEED.value),
        "asking for the known answers",
        total=_DAMAGED.value,
        console=console,
    )
    return (
        [c_runtime.ask(detector, *request) for request in damage.good_requests()],
        [c_runtime.ask(detector, *request) for request in damaged],
    )


if __name__ == "__main__":
    app.run(main)
