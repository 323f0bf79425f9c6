"""Exports a trained detector as a SavedModel for TensorFlow Serving.

    libra-tf export --model_dir=runs/cells --export_dir=served/cells

It writes served/cells/1, and the next time served/cells/2. Everything about the detector is read
from the folder of its run. docs/serving.md explains how to serve it.
"""

import sys

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import inputs, program
from libra_tf.serving import class_thresholds

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run to export.", required=True)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of the model's versions; a new one is added.", required=True
)
_CHECKPOINT = run_flags.define_checkpoint()
_NORMALIZED_BOXES = flags.DEFINE_bool(
    "normalized_boxes",
    False,
    "Give boxes as fractions of the image's height and width, not pixels.",
)
_SCORE_THRESHOLD = run_flags.define_score_threshold()
_SCORE_THRESHOLDS = flags.DEFINE_string(
    "score_thresholds",
    "",
    "Thresholds of single classes, by name or id, such as person=0.42,dog=0.3; or a .json file "
    'that holds {"person": 0.42}. The other classes have --score_threshold.',
)
_TRIM_PADDING = flags.DEFINE_bool(
    "trim_padding",
    False,
    "Return only as many rows as the image of a request with the most detections has, and not as "
    "many as the detector can give: short answers over REST.",
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 25_000_000, "Refuse image files with more pixels.", lower_bound=1
)
_PRECISION = run_flags.define_precision(
    "float32",
    "What the network computes in; boxes, scores and the stored weights are float32 in any case.",
)


def main(_: list[str]) -> None:
    """Runs the export, or prints one clear error."""
    sys.exit(program.exit_status(_export))


def _export() -> None:
    inputs.require_run("--model_dir", _MODEL_DIR.value)
    thresholds = class_thresholds.read(_SCORE_THRESHOLDS.value)
    program.before_tensorflow()
    # Imported here because it is slow: --help and wrong flags are answered at once.
    from libra_tf.serving import saved_model

    folder = saved_model.export(
        _MODEL_DIR.value,
        _EXPORT_DIR.value,
        checkpoint=_CHECKPOINT.value,
        normalized_boxes=_NORMALIZED_BOXES.value,
        score_threshold=_SCORE_THRESHOLD.value,
        score_thresholds=thresholds,
        trim_padding=_TRIM_PADDING.value,
        max_pixels=_MAX_PIXELS.value,
        asked_precision=_PRECISION.value,
    )
    print(f"SavedModel: {folder}")
