"""Converts a trained one-stage detector to TensorFlow Lite.

    python export/tflite.py --model_dir=runs/cells --output=cells.tflite
    python export/tflite.py --model_dir=runs/cells --output=cells_int8.tflite --precision=int8 \
        cells/images/train

The images in the second command are for calibration. docs/tflite.md explains how to use the file.
"""

import os
import sys

from absl import app, flags

from libra_tf.cli import image_files, program, quiet

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run to convert.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, NAME.tflite.", required=True)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "int8"],
    "float32; float16, half the size; or int8, a quarter of the size, which needs sample images.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint of the run, for example ckpt-9000. Default: the newest."
)
_SCORE_THRESHOLD = flags.DEFINE_float(
    "score_threshold",
    None,
    "Drop detections with a lower score. Default: the threshold of the run's evaluations.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def main(arguments: list[str]) -> None:
    """Runs the conversion, or prints one clear error."""
    sys.exit(program.exit_status(lambda: _export(arguments[1:])))


def _export(arguments: list[str]) -> None:
    images = image_files.find(arguments) if arguments else []
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it is slow: --help and wrong flags are answered at once.
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
    # TensorFlow reads this at import. Its errors are raised as Python exceptions as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
