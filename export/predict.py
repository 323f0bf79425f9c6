"""Detects objects in images with a trained detector, without a server.

    python export/predict.py --model=runs/cells --output_dir=found images/ more/*.png
    python export/predict.py --model=served/cells --output_dir=found \
        --annotations=cells/annotations/instances_val.json cells/images

draws the detections into found/pictures, and writes them all to found/detections.json in COCO's
results format. With annotations it measures the average precision, too.
"""

import os
import sys

from absl import app, flags

from libra_tf.cli import image_files, program, quiet

_MODEL = flags.DEFINE_string(
    "model", None, "Folder of a run of run.py or of a SavedModel.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the results.", required=True)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of the run, such as ckpt-9000. Default: the newest."
)
_ANNOTATIONS = flags.DEFINE_string(
    "annotations",
    None,
    "COCO annotation file: the images that it lists are taken, their ids are used, and the average "
    "precision is measured. Default: all images are taken and numbered from 1.",
)
_PICTURES = flags.DEFINE_bool("pictures", True, "Draw the detections.")
_DRAW_THRESHOLD = flags.DEFINE_float(
    "draw_threshold", 0.4, "Draw and count detections with at least this score.", 0.0, 1.0
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Images at once.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    None,
    "Refuse image files with more pixels. Default: 25000000; a SavedModel has a limit of its own, "
    "and takes no other.",
    lower_bound=1,
)


def main(arguments: list[str]) -> None:
    """Runs what the flags say; prints one clear error where that cannot be done."""
    sys.exit(program.exit_status(lambda: _predict(arguments[1:])))


def _predict(arguments: list[str]) -> int:
    images = image_files.find(arguments)
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it takes that long: --help and bad flags are answered at once.
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
    )
    return 1 if problems else 0


if __name__ == "__main__":
    # Read when TensorFlow is imported; what goes wrong is raised as a Python error as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
