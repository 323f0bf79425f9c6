"""Reports what is unbalanced in the training of a detector.

    libra-tf report --model_dir=runs/cells

runs the detector on some of its training images and writes runs/cells/analysis/report.html and
report.json. docs/analysis.md defines what is measured.
"""

import os

from absl import flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import inputs, program
from libra_tf.cli.errors import UsageError

_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Folder of a run, trained or still training; local or remote (gs://...).",
    required=True,
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "A local folder of images to measure on, as in training. Default: the run's training images.",
)
_COMPARE = flags.DEFINE_multi_string(
    "compare", [], "Folder of another run to show beside it; may be repeated."
)
_BATCHES = flags.DEFINE_integer(
    "batches", 8, "How many batches of at most 8 images to measure.", lower_bound=1
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder to write the report to, local or remote. Default: MODEL_DIR/analysis.",
)
_CHECKPOINT = run_flags.define_checkpoint()
_POINT = flags.DEFINE_list(
    "point",
    None,
    "The point whose attention to show: Y,X as fractions of the first image's height and width. "
    "Default: the middle of its largest object.",
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where converted data sets are kept, as in training."
)


def main(_: list[str]) -> None:
    """Writes the report that the flags ask for, or prints one clear error."""
    program.leave(program.exit_status(_report))


def _report() -> None:
    point = _read_point()
    runs = {"model_dir": [_MODEL_DIR.value], "compare": _COMPARE.value}
    for name, folders in runs.items():
        for folder in folders:
            inputs.require_run(f"--{name}", folder)
    if _DATASET.value is not None:
        inputs.require_folder("--dataset", _DATASET.value, "name a folder of images")
    program.before_tensorflow()
    # Imported here because it takes that long; --help and bad flags are answered at once.
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
            f"--point={','.join(_POINT.value)}: give two fractions from 0 to 1, such as "
            "--point=0.5,0.5"
        )
    return y, x
