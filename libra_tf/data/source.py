"""What every layout of a data set gives: its splits, its annotations, and where its images are."""

import pathlib
import string
from collections.abc import Iterable
from typing import Protocol

from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.problems import FindingLog

# The names that the splits of every layout get here.
TRAIN, VAL = SPLITS = ("train", "val")


class Source(Protocol):
    """A folder in one layout.

    Attributes:
      folder: the folder itself, which may lie below the one that the user has named.
      description: what the folder was taken for, and which part of it is which split.
      splits: the splits that it has: both, or only "train".
    """

    folder: pathlib.Path
    description: str
    splits: tuple[str, ...]

    def depends_on(self) -> list[str]:
        """Returns all files and folders that the annotations depend on, relative to the folder."""

    def read(self, problems: FindingLog) -> dict[str, AnnotationFile]:
        """Reads the annotations of every split and checks everything that needs no pixels.

        Args:
          problems: receives every mistake.

        Returns:
          By split, the annotations without mistakes. A split whose file cannot be read is left out.
        """

    def image_root(self, split: str, file: AnnotationFile) -> pathlib.Path:
        """Returns the folder that a split's image names are relative to.

        Args:
          split: the split.
          file: its annotations, as `read` has returned them.
        """


def name_in(folder: pathlib.Path, path: pathlib.Path) -> str:
    """Returns the name of a file relative to a folder, or its whole path if it lies outside.

    Args:
      folder: the folder.
      path: the file.
    """
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())


def choose_splits(names: Iterable[str]) -> dict[str, str]:
    """Chooses what to train and what to evaluate on by the names that people give to splits.

    A name may go on after the word: "train2017" is for training.

    Args:
      names: of the parts of a data set, such as "train", "valid" and "test".

    Returns:
      The chosen name of each split. Validation is on "val" or "valid", or else on "test". Without a
      training part, the only part there is is trained on. Empty if nothing fits.

    Raises:
      ValueError: if there are several for one split; the message lists them.
    """
    names = sorted(names)
    train = _only(names, "train")
    others = [name for name in names if name != train]
    if train is None:
        return {TRAIN: names[0]} if len(names) == 1 else {}
    # A training on both parts can be evaluated on neither of them.
    val = None if train.startswith("trainval") else _only(others, "val", "valid", "validation")
    val = val or _only(others, "test")
    return {TRAIN: train} if val is None else {TRAIN: train, VAL: val}


def _only(names: list[str], *words: str) -> str | None:
    """Returns the only name that is one of some words or, failing that, begins with one."""
    # With a year, as in "train2017", it is the same name.
    exact = [name for name in names if name.rstrip(string.digits) in words]
    found = exact or [name for name in names if name.startswith(words)]
    if len(found) > 1:
        raise ValueError(f"several could be meant by {words[0]}: {', '.join(found)}")
    return found[0] if found else None
