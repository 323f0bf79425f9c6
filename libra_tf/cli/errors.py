"""The errors that a command shows as one clear message instead of a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what was saved."""


class PreemptedError(BaseException):
    """The process was told to stop, and the state of its training, if any, is saved.

    Like `KeyboardInterrupt` it is not an `Exception`, so libraries do not catch it by accident.

    Args:
      message: what was saved and how to go on.
      status: the exit status of the process: by convention 128 and the number of the signal.

    Attributes:
      status: as above.
    """

    TERMINATED = 143
    INTERRUPTED = 130

    def __init__(self, message: str = "", status: int = TERMINATED):
        super().__init__(message)
        self.status = status


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error, to quote in a message of one line.

    Args:
      error: the error, or its text. An error without a message is shown by its type.
    """
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    return "" if isinstance(error, str) else type(error).__name__


def suggestion(wrong: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.5) -> str:
    """Returns a question after the most similar name, for the middle of a message.

    Args:
      wrong: the name that does not exist.
      known: the names that do.
      prefix: what the name is written with, such as `--config_file=`.
      cutoff: how similar it must be, in 0..1.

    Returns:
      ` Did you mean NAME?`; empty if no name is similar.
    """
    nearest = difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff)
    return f" Did you mean {prefix}{nearest[0]}?" if nearest else ""


def listed(names: Sequence[str], most: int) -> str:
    """Returns names with commas between them.

    Args:
      names: what to list.
      most: the largest number to name; `and N more` stands for the others.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
