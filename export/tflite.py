"""Converts a trained one-stage detector to TensorFlow Lite.

    python export/tflite.py --model_dir=runs/cells --output=cells.tflite
    python export/tflite.py --model_dir=runs/cells --output=cells_int8.tflite --precision=int8 \
        cells/images/train

The images in the second command are for calibration. docs/tflite.md explains how to use the file.
"""

from absl import app, flags

from libra_tf.commands import tflite

if __name__ == "__main__":
    flags.adopt_module_key_flags(tflite)
    app.run(tflite.main)
