"""Converts a trained one-stage detector to TensorFlow Lite.

    python export/tflite.py --model_dir=runs/cells --output=cells.tflite
    python export/tflite.py --model_dir=runs/cells --output=cells_int8.tflite --precision=int8 \
        cells/images/train

The images of the second command are for calibration. docs/tflite.md says how to use the file.
"""

import os
import sys

from absl import app, flags

from libra_tf.cli import image_files, program, quiet

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of a run of run.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to make, NAME.tflite.", required=True)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "int8"],
    "float32; float16, of half the size; or int8, of a quarter, which needs calibration images.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of the run, such as ckpt-9000. Default: the newest."
)
_SCORE_THRESHOLD = flags.DEFINE_float(
    "score_threshold",
    None,
    "Drop detections with a lower score. Default: the run's own, as in its evaluations.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def main(arguments: list[str]) -> None:
    """Runs what the flags say; prints one clear error where that cannot be done."""
    sys.exit(program.exit_status(lambda: _export(arguments[1:])))


def _export(arguments: list[str]) -> None:
    images = image_files.find(arguments) if arguments else []
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it takes that long: --help and bad flags are answered at once.
    from libra_tf.serving import tflite

    tflite.export(
        _MODEL_DIR.value,
        _OUTPUT.value,
        precision=_PRECISION.value,
        calibration_images=images,
        checkpoint=_CHECKPOINT.value,
        score_threshold=_SCORE_THRESHOLD.value,
    )
    print(f"TensorFlow Lite: {_OUTPUT.value}, {os.path.getsize(_OUTPUT.value) / 1e6:.1f} MB")


if __name__ == "__main__":
    # Read when TensorFlow is imported; what goes wrong is raised as a Python error as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
