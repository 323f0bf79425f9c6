r"""Detects objects in images with a trained detector, without a server.

    libra-tf predict --model=runs/cells --output_dir=found images/ more/*.png
    libra-tf predict --model=served/cells --output_dir=found \
        --annotations=cells/annotations/instances_val.json cells/images

It draws the detections into found/pictures and writes all of them to found/detections.json in
COCO's results format. With annotations it also measures the average precision.
"""

import sys

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import image_files, program

_MODEL = flags.DEFINE_string(
    "model", None, "Folder of a run or of a SavedModel, or a TensorFlow Lite file.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the results.", required=True)
_CHECKPOINT = run_flags.define_checkpoint()
_ANNOTATIONS = flags.DEFINE_string(
    "annotations",
    None,
    "COCO annotation file. Only the images it lists are used, with their ids, and the average "
    "precision is measured. Default: all images are used and numbered from 1.",
)
_PICTURES = flags.DEFINE_bool("pictures", True, "Draw the detections.")
_DRAW_THRESHOLD = run_flags.define_draw_threshold("Draw and count")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Images per batch.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    None,
    "Refuse image files with more pixels. Default: 25000000. A SavedModel has its own limit, which "
    "cannot be changed.",
    lower_bound=1,
)
_PRECISION = run_flags.define_precision(
    None,
    "What the network of a run computes in. Default: as in the run's evaluations. An export "
    "computes as it was exported.",
)


def main(arguments: list[str]) -> None:
    """Runs the detection, or prints one clear error."""
    sys.exit(program.exit_status(lambda: _predict(arguments[1:])))


def _predict(arguments: list[str]) -> int:
    images = image_files.find(arguments)
    program.before_tensorflow()
    # Imported here because it is slow: --help and wrong flags are answered at once.
    from libra_tf.inference import prediction

    problems = prediction.predict(
        _MODEL.value,
        images,
        _OUTPUT_DIR.value,
        checkpoint=_CHECKPOINT.value,
        annotations=_ANNOTATIONS.value,
        draw=_PICTURES.value,
        draw_threshold=_DRAW_THRESHOLD.value,
        batch_size=_BATCH_SIZE.value,
        max_pixels=_MAX_PIXELS.value,
        asked_precision=_PRECISION.value,
    )
    return 1 if problems else 0
