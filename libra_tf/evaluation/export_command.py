"""The command that exports a run with the best score of each class."""

import collections
import decimal
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

# What follows the path of a checkpoint says how it was run.
_CHECKPOINT = re.compile(r"(?P<path>.*ckpt-\d+)(?: in .*|, .*)?")
# The folder of a run that has its best checkpoint.
_BEST = "best"


def is_of_run(model: str) -> bool:
    """Returns whether a detector is a checkpoint of a run, and not an export.

    Args:
      model: see `report.Evaluation`.
    """
    return _CHECKPOINT.fullmatch(model) is not None


def names_in_flag(class_names: Mapping[int, str]) -> dict[int, str]:
    """Returns what the flag for the scores calls the classes of a detector.

    Args:
      class_names: of the detector, by its category ids.

    Returns:
      The name of each; the id of one whose name has commas, or that classes share.
    """
    number = collections.Counter(class_names.values())
    return {
        id_: name if number[name] == 1 and "," not in name and name == name.strip() else str(id_)
        for id_, name in class_names.items()
    }


def of(numbers: Mapping[str, Any], names: Mapping[int, str], model: str) -> str | None:
    """Returns the command that exports a run with the best score of each class.

    Args:
      numbers: see `measures.Measured`.
      names: what `names_in_flag` calls the classes that the detector has, by the category ids of
        `numbers`.
      model: see `report.Evaluation`.

    Returns:
      A line for a shell, with `RUN` for the folder of a run that is not known; None if no class has
      a best score.
    """
    of_classes = numbers["curves"]["scores"]["classes"]
    chosen = [
        f"{name}={_rounded_down(of_classes[id_]['best']['threshold'])}"
        for id_, name in names.items()
        if of_classes[id_]["best"]
    ]
    if not chosen:
        return None
    flags = [*_run_flags(model), f"--score_thresholds={','.join(chosen)}"]
    return shlex.join(["libra-tf", "export", *flags])


def _run_flags(model: str) -> list[str]:
    """Returns the flags that say what to export, and where to."""
    found = _CHECKPOINT.fullmatch(model)
    if not found:
        return ["--model_dir=RUN", "--export_dir=served/RUN"]
    checkpoint = found["path"]
    run, name = os.path.split(checkpoint)
    if os.path.basename(run) == _BEST:
        run, name = os.path.dirname(run), checkpoint
    run = run or "."
    export = os.path.join("served", os.path.basename(os.path.abspath(run)))
    return [f"--model_dir={run}", f"--checkpoint={name}", f"--export_dir={export}"]


def _rounded_down(threshold: float) -> str:
    """Writes a score with three digits, so that the detection that has it is kept."""
    digits = decimal.Context(prec=3, rounding=decimal.ROUND_DOWN)
    return f"{digits.create_decimal(str(threshold)).normalize():f}"
