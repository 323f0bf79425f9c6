"""The flag that names a Python with MMDetection, which has an environment of its own."""

import shutil
import subprocess

from absl import flags

_FIND = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('mmdet'))"


def define(required: bool = False) -> flags.FlagHolder[str | None]:
    """Defines `--mmdet_python`, which is checked when the flags are parsed.

    Args:
      required: whether the program needs it.
    """
    flag = flags.DEFINE_string(
        "mmdet_python", None, "A Python that can import mmdet.", required=required
    )
    flags.register_validator(
        flag,
        _has_mmdet,
        "It must be a Python with mmdet; mmdetection.py explains how to install it.",
    )
    return flag


def _has_mmdet(python: str | None) -> bool:
    if python is None:
        return True
    return bool(shutil.which(python)) and not subprocess.run([python, "-c", _FIND]).returncode
