"""Flags that several commands have."""

from collections.abc import Sequence

from absl import flags

from libra_tf.cli.errors import UsageError, suggestion

METRICS = ("coco", "voc", "lvis")
# What an inference can be asked to compute in. `libra_tf.precision` names them too, but it imports
# TensorFlow.
PRECISIONS = ("auto", "float32", "bfloat16")
_FREQUENCY_LIMITS = (10, 100)

# Each flag is listed in the help of the command that defines it, not in that of this module.
flags.disclaim_key_flags()


def define_checkpoint() -> flags.FlagHolder[str]:
    """Defines `--checkpoint`, which chooses a checkpoint of a run."""
    return flags.DEFINE_string(
        "checkpoint",
        None,
        "Checkpoint of the run, for example ckpt-9000, or its path; best for the one with the best "
        "result, if the run keeps it in its folder best/. Default: the newest.",
    )


def define_report(help_: str) -> flags.FlagHolder[bool | None]:
    """Defines `--report`, whether to write the page of an evaluation.

    Args:
      help_: when it is written by default.
    """
    return flags.DEFINE_bool(
        "report",
        None,
        "Write evaluation.html, a page on what the detector gets right and wrong, and its numbers "
        f"to evaluation.json. {help_}",
    )


def define_report_threshold() -> flags.FlagHolder[float | None]:
    """Defines `--report_threshold`, the score from which the page counts errors."""
    return flags.DEFINE_float(
        "report_threshold",
        None,
        "Score from which the page of an evaluation counts detections, for the confusion matrix, "
        "the worst images and the numbers of objects. Default: the score with the greatest F1 over "
        "all classes.",
        lower_bound=0.0,
        upper_bound=1.0,
    )


def define_compare() -> flags.FlagHolder[str | None]:
    """Defines `--compare`, another evaluation to show on the page."""
    return flags.DEFINE_string(
        "compare",
        None,
        "Folder of another evaluation of the same images that has a page: of a run, or the "
        "--output_dir of libra-tf predict --annotations. The page shows both and says whether the "
        "difference means anything.",
    )


def define_score_threshold() -> flags.FlagHolder[float]:
    """Defines `--score_threshold`, below which an exported detector drops detections."""
    return flags.DEFINE_float(
        "score_threshold",
        None,
        "Drop detections with a lower score. Default: the threshold of the run's evaluations.",
        lower_bound=0.0,
        upper_bound=1.0,
    )


def define_precision(default: str | None, help_: str) -> flags.FlagHolder[str]:
    """Defines `--precision`, what the network computes in.

    Args:
      default: its default.
      help_: what the command does with it.
    """
    return flags.DEFINE_enum(
        "precision",
        default,
        PRECISIONS,
        f"{help_} auto: bfloat16 if this machine computes it natively, else float32.",
    )


def define_draw_threshold(drawn: str) -> flags.FlagHolder[float]:
    """Defines `--draw_threshold`.

    Args:
      drawn: what is done with detections of at least this score, for the help.
    """
    return flags.DEFINE_float(
        "draw_threshold", 0.4, f"{drawn} only detections with at least this score.", 0.0, 1.0
    )


def define_metrics() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines `--metrics` and `--frequency_limits`, what is measured beside COCO's metrics."""
    return (
        flags.DEFINE_list(
            "metrics",
            None,
            f"By whose rules to measure the average precision: {', '.join(METRICS)}. COCO's is "
            "always measured. Default: only that.",
        ),
        flags.DEFINE_list(
            "frequency_limits",
            None,
            "For --metrics=lvis: the most training images of a rare class and of a common one, "
            "unless the annotations say which classes are rare. Default: "
            f"{','.join(map(str, _FREQUENCY_LIMITS))}.",
        ),
    )


def check_metrics(names: Sequence[str] | None, limits: Sequence[str] | None) -> None:
    """Checks the values of `--metrics` and `--frequency_limits`.

    Args:
      names: value of the first; None if it is not given.
      limits: value of the second; None if it is not given.

    Raises:
      UsageError: if one of them cannot be used.
    """
    for name in names or ():
        if name not in METRICS:
            raise UsageError(
                f"--metrics={name}: there is no such metric.{suggestion(name, METRICS)} Choose "
                f"from {', '.join(METRICS)}"
            )
    frequency_limits(limits)
    if limits is not None and "lvis" not in (names or ()):
        raise UsageError("--frequency_limits is for --metrics=lvis: give that, too")


def more_metrics(names: Sequence[str] | None) -> list[str]:
    """Returns the metrics in `--metrics` that are not COCO's."""
    return [name for name in names or () if name != "coco"]


def frequency_limits(limits: Sequence[str] | None) -> tuple[int, int]:
    """Returns the numbers in `--frequency_limits`.

    Args:
      limits: its value; None if it is not given.

    Raises:
      UsageError: if these are not two whole numbers, the larger one last.
    """
    if limits is None:
        return _FREQUENCY_LIMITS
    texts = list(map(str, limits))
    if not (len(texts) == 2 and all(map(str.isdecimal, texts)) and int(texts[0]) < int(texts[1])):
        raise UsageError(
            f"--frequency_limits={','.join(texts)}: give two whole numbers, the larger one last, "
            "such as 10,100"
        )
    return int(texts[0]), int(texts[1])
