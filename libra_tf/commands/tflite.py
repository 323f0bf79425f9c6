r"""Converts a trained one-stage detector to TensorFlow Lite.

    libra-tf tflite --model_dir=runs/cells --output=cells.tflite
    libra-tf tflite --model_dir=runs/cells --output=cells_int8.tflite --precision=int8 \
        cells/images/train

The images in the second command are for calibration. docs/tflite.md explains how to use the file.
"""

import os
import sys

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import image_files, inputs, program

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run to convert.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, NAME.tflite.", required=True)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "int8"],
    "float32; float16, half the size; or int8, a quarter of the size, which needs sample images.",
)
_CHECKPOINT = run_flags.define_checkpoint()
_SCORE_THRESHOLD = run_flags.define_score_threshold()


def main(arguments: list[str]) -> None:
    """Runs the conversion, or prints one clear error."""
    sys.exit(program.exit_status(lambda: _export(arguments[1:])))


def _export(arguments: list[str]) -> None:
    images = image_files.find(arguments) if arguments else []
    inputs.require_run("--model_dir", _MODEL_DIR.value)
    program.before_tensorflow()
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
