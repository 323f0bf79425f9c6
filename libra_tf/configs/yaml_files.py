"""The config files of the project, found by name. Imports nothing slow.

They are `configs/` at the top of a clone; an installed package holds a copy (`setup.py`).
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from libra_tf import atomic
from libra_tf.cli.errors import UsageError, suggestion

SUFFIX = ".yaml"

_INSTALLED = pathlib.Path(__file__).parent / "yaml"
_IN_CLONE = pathlib.Path(__file__).parents[2] / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _IN_CLONE


@dataclasses.dataclass(frozen=True)
class Header:
    """What the comment at the top of a config file says.

    Attributes:
      purpose: what the file trains.
      reaches: the average precision to expect.
      experiment: the name of the experiment that it changes.
    """

    purpose: str
    reaches: str
    experiment: str


def names() -> list[str]:
    """Returns the names of all files, such as `mmdetection/retinanet_r50`."""
    paths = FOLDER.rglob(f"*{SUFFIX}")
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths)


def find(name_or_path: str) -> str:
    """Returns the path of a config file.

    Args:
      name_or_path: the name of one of the project's files, or the path of any file. A remote file
        is looked up when it is read.

    Raises:
      UsageError: if there is no such file; the message suggests the most similar name.
    """
    if atomic.is_remote(name_or_path) or pathlib.Path(name_or_path).is_file():
        return name_or_path
    known = names()
    if name_or_path in known:
        return str(_path(name_or_path))
    wanted = name_or_path.removesuffix(SUFFIX).removeprefix("configs/")
    hint = suggestion(wanted, known, prefix="--config_file=", cutoff=0.6)
    raise UsageError(
        f"--config_file={name_or_path}: there is no such file, and no config of that name.{hint} "
        "Name a YAML file, or a config that `libra-tf configs` lists"
    )


def read_header(name: str) -> Header:
    """Reads what a file says about itself.

    Args:
      name: one of `names()`.
    """
    lines = list(_comment(_path(name)))
    (experiment,) = {match for line in lines for match in re.findall(r"--experiment=(\w+)", line)}
    is_reaching = [line.startswith("Reaches: ") for line in lines]
    return Header(_sentence(lines), _sentence(lines[is_reaching.index(True) :]), experiment)


def _path(name: str) -> pathlib.Path:
    return FOLDER / f"{name}{SUFFIX}"


def _comment(path: pathlib.Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _sentence(lines: list[str]) -> str:
    """Returns the lines up to the first that ends a sentence, as one."""
    end = next(number for number, line in enumerate(lines, 1) if line.endswith("."))
    return " ".join(lines[:end])
