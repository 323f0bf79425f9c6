r"""Detects objects in images with a trained detector, without a server.

    libra-tf predict --model=runs/cells --output_dir=found images/ more/*.png
    libra-tf predict --model=served/cells --output_dir=found \
        --annotations=cells/annotations/instances_val.json cells/images

    libra-tf predict --model=runs/cells --output_dir=found clip.mp4

It draws the detections into found/pictures and writes all of them to found/detections.json in
COCO's results format. With annotations it also measures the average precision, and writes
found/evaluation.html, a page on what the detector gets right and wrong.
"""

import os
import pathlib
import sys
from typing import Any

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import image_files, program
from libra_tf.cli.errors import UsageError
from libra_tf.evaluation import checks

_VIDEOS = image_files.VIDEO_SUFFIXES

_MODEL = flags.DEFINE_string(
    "model", None, "Folder of a run or of a SavedModel, or a TensorFlow Lite file.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the results.", required=True)
_CHECKPOINT = run_flags.define_checkpoint()
_ANNOTATIONS = flags.DEFINE_string(
    "annotations",
    None,
    "COCO annotation file, or the folder of a data set, as for training, for its validation split; "
    "of a folder with one split only, what a run that trained on it had set aside, else all of it. "
    "Only the images it lists are used, with their ids, and the average precision is measured. "
    "Default: all images are used and numbered from 1.",
)
_METRICS, _FREQUENCY_LIMITS = run_flags.define_metrics()
_REPORT = run_flags.define_report("Default: with --annotations.")
_REPORT_THRESHOLD = run_flags.define_report_threshold()
_COMPARE = run_flags.define_compare()
_PICTURES = flags.DEFINE_bool("pictures", True, "Draw the detections.")
_DRAW_THRESHOLD = run_flags.define_draw_threshold("Draw and count")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Images per batch.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    None,
    "Refuse image files with more pixels. Default: 25000000. A SavedModel has its own limit, which "
    "cannot be changed, but holds for tiles only with --tiles.",
    lower_bound=1,
)
_TILES = flags.DEFINE_integer(
    "tiles",
    None,
    "Look at larger images in overlapping tiles of this many pixels, such as 640, and merge what "
    "is found: for small objects in large images. Default: look at each image as a whole.",
    lower_bound=64,
    upper_bound=4096,
)
_FPS = flags.DEFINE_integer(
    "fps",
    None,
    "Make a video of the images, in their order, with so many frames a second. A video file keeps "
    "its own. Default: a picture for each image.",
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
    _check_metrics()
    _check_report()
    videos = [path for path in map(pathlib.Path, arguments) if path.suffix.lower() in _VIDEOS]
    if videos:
        _check_video(arguments)
        return _predict_video(videos[0])
    images = image_files.find(arguments)
    if _FPS.value is not None:
        _check_flags_of_videos()
        return _predict_video(images)
    program.before_tensorflow()
    # Imported here because it is slow: --help and wrong flags are answered at once.
    from libra_tf.inference import prediction

    problems = prediction.predict(
        _MODEL.value,
        images,
        _OUTPUT_DIR.value,
        annotations=_ANNOTATIONS.value,
        draw=_PICTURES.value,
        more_metrics=run_flags.more_metrics(_METRICS.value),
        frequency_limits=run_flags.frequency_limits(_FREQUENCY_LIMITS.value),
        writes_page=_REPORT.value is not False,
        report_threshold=_REPORT_THRESHOLD.value,
        compare=_COMPARE.value,
        **_how_to_detect(),
    )
    return 1 if problems else 0


def _predict_video(source: pathlib.Path | list[image_files.ImageFile]) -> int:
    program.before_tensorflow()
    from libra_tf.inference import prediction

    prediction.predict_video(
        _MODEL.value,
        source,
        _OUTPUT_DIR.value,
        frames_per_second=_FPS.value,
        **_how_to_detect(),
    )
    return 0


def _how_to_detect() -> dict[str, Any]:
    return {
        "checkpoint": _CHECKPOINT.value,
        "draw_threshold": _DRAW_THRESHOLD.value,
        "batch_size": _BATCH_SIZE.value,
        "max_pixels": _MAX_PIXELS.value,
        "asked_precision": _PRECISION.value,
        "tiles": _TILES.value,
    }


def _check_metrics() -> None:
    run_flags.check_metrics(_METRICS.value, _FREQUENCY_LIMITS.value)
    if _METRICS.value and not _ANNOTATIONS.value:
        raise UsageError(
            f"--metrics={','.join(_METRICS.value)} needs the objects in the images: give "
            "--annotations, too"
        )


def _check_video(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise UsageError(
            f"{', '.join(arguments)}: name one video, or images, but not both or several"
        )
    if not os.path.isfile(arguments[0]):
        raise UsageError(f"{arguments[0]} does not exist: name a video file")
    if _FPS.value is not None:
        raise UsageError(f"--fps={_FPS.value} is for images; {arguments[0]} has its own: leave it")
    _check_flags_of_videos()


def _check_report() -> None:
    asked = {
        "--report": _REPORT.value or None,
        "--report_threshold": _REPORT_THRESHOLD.value,
        "--compare": _COMPARE.value,
    }
    for name, value in asked.items():
        if value is not None and not _ANNOTATIONS.value:
            raise UsageError(f"{name} needs the ground truth: name it with --annotations")
    checks.check_report(_REPORT.value, _REPORT_THRESHOLD.value, _COMPARE.value)


def _check_flags_of_videos() -> None:
    if not _PICTURES.value:
        raise UsageError(
            "--nopictures is for images: a video is made of its frames' pictures; leave it out"
        )
    if _ANNOTATIONS.value:
        raise UsageError(
            f"--annotations={_ANNOTATIONS.value} is for images, not for the frames of a video; "
            "leave one of them out"
        )
