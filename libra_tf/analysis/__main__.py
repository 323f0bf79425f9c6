"""Shows what is unbalanced in the training of a detector.

    python -m libra_tf.analysis --model_dir=runs/cells

runs the detector on some of its training images and writes runs/cells/analysis/report.html and
report.json. docs/analysis.md says what is measured.
"""

import os

from absl import app, flags

from libra_tf.cli import program, quiet
from libra_tf.cli.errors import UsageError

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of a run of run.py, trained or still training.", required=True
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "A folder of images, as for run.py, to measure on. Default: the run's training images.",
)
_COMPARE = flags.DEFINE_multi_string(
    "compare", [], "Folder of a run to show beside it; may be given several times."
)
_BATCHES = flags.DEFINE_integer(
    "batches", 8, "How many batches of at most 8 images to look at.", lower_bound=1
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where to write the report. Default: MODEL_DIR/analysis."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of the run, such as ckpt-9000. Default: the newest."
)
_POINT = flags.DEFINE_list(
    "point",
    None,
    "Whose attention to show: Y,X in shares of the first image's height and width. Default: the "
    "middle of its largest object.",
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where converted data sets are kept; as for run.py."
)


def main(_) -> None:
    """Runs what the flags say; prints one clear error where that cannot be done."""
    program.leave(program.exit_status(_report))


def _report() -> None:
    point = _read_point()
    runs = {"model_dir": [_MODEL_DIR.value], "compare": _COMPARE.value}
    for name, folders in runs.items():
        for folder in folders:
            if "://" not in folder and not os.path.isdir(folder):
                raise UsageError(f"--{name}={folder}: there is no such folder; name that of a run")
    if _DATASET.value is not None and not os.path.isdir(_DATASET.value):
        raise UsageError(f"--dataset={_DATASET.value}: there is no such folder")
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it takes that long: --help and bad flags are answered at once.
    from libra_tf.analysis import report

    paths = report.write(
        [_MODEL_DIR.value, *_COMPARE.value],
        _OUTPUT_DIR.value or os.path.join(_MODEL_DIR.value, "analysis"),
        dataset=_DATASET.value,
        cache_dir=_CACHE_DIR.value,
        checkpoint=_CHECKPOINT.value,
        num_batches=_BATCHES.value,
        point=point,
        report=lambda line: print(line, flush=True),
    )
    for path in paths:
        print(path)


def _read_point() -> tuple[float, float] | None:
    if _POINT.value is None:
        return None
    try:
        y, x = (float(part) for part in _POINT.value)
    except ValueError:
        y = x = -1.0
    if not (0 <= y <= 1 and 0 <= x <= 1):
        raise UsageError(
            f"--point={','.join(_POINT.value)}: give two shares from 0 to 1, such as "
            "--point=0.5,0.5"
        )
    return y, x


if __name__ == "__main__":
    # Read when TensorFlow is imported; what goes wrong is raised as a Python error as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
