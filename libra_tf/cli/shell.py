"""Commands as they can be typed where this process was started."""

import os
import shlex
import shutil
import sys


def program(name: str, module: str) -> str:
    """Returns what calls a program of this process's Python environment.

    Its name is enough where the environment is active. Otherwise that name means nothing, or the
    program of another environment.

    Args:
      name: of the program, such as `tensorboard`.
      module: what `python -m` calls it, such as `tensorboard.main`.
    """
    return name if _is_on_path(name) else python_module(module)


def python_module(module: str) -> str:
    """Returns what runs a module with this process's Python.

    Args:
      module: its name.
    """
    name = os.path.basename(sys.executable)
    if _is_on_path(name):
        return f"{name} -m {module}"
    relative = os.path.relpath(sys.executable)
    is_below = not relative.startswith(os.pardir)
    return f"{shlex.quote(relative if is_below else sys.executable)} -m {module}"


def _is_on_path(name: str) -> bool:
    found = shutil.which(name)
    return found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)
