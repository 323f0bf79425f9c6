"""Exports a trained detector as a SavedModel for TensorFlow Serving.

    python export/saved_model.py --model_dir=runs/cells --export_dir=served/cells

It writes served/cells/1, and the next time served/cells/2. Everything about the detector is read
from the folder of its run. docs/serving.md explains how to serve it.
"""

import os
import sys

from absl import app, flags

from libra_tf.cli import program, quiet

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run to export.", required=True)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of the model's versions; a new one is added.", required=True
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint of the run, for example ckpt-9000. Default: the newest."
)
_NORMALIZED_BOXES = flags.DEFINE_bool(
    "normalized_boxes",
    False,
    "Give boxes as fractions of the image's height and width, not pixels.",
)
_SCORE_THRESHOLD = flags.DEFINE_float(
    "score_threshold",
    None,
    "Drop detections with a lower score. Default: the threshold of the run's evaluations.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 25_000_000, "Refuse image files with more pixels.", lower_bound=1
)


def main(_) -> None:
    """Runs the export, or prints one clear error."""
    sys.exit(program.exit_status(_export))


def _export() -> None:
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it is slow: --help and wrong flags are answered at once.
    from libra_tf.serving import saved_model

    folder = saved_model.export(
        _MODEL_DIR.value,
        _EXPORT_DIR.value,
        checkpoint=_CHECKPOINT.value,
        normalized_boxes=_NORMALIZED_BOXES.value,
        score_threshold=_SCORE_THRESHOLD.value,
        max_pixels=_MAX_PIXELS.value,
    )
    print(f"SavedModel: {folder}")


if __name__ == "__main__":
    # TensorFlow reads this at import. Its errors are raised as Python exceptions as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
