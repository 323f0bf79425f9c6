"""Reading a user's JSON file, and checking the entries of a list in it."""

import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

from libra_tf.data.problems import DatasetError, FindingLog

# What opens a file as `open` does; `tf.io.gfile.GFile` reaches remote files as well.
Opener = Callable[[str | os.PathLike[str], str], IO[bytes]]


def read_json(path: str | os.PathLike[str], open_file: Opener = open) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      open_file: opens it for reading.

    Returns:
      The value in the file.

    Raises:
      DatasetError: if it cannot be read or is not JSON.
    """
    return parse(read_bytes(path, open_file), path)


def read_bytes(path: str | os.PathLike[str], open_file: Opener = open) -> bytes:
    """Reads a file.

    Args:
      path: the file.
      open_file: opens it for reading.

    Raises:
      DatasetError: if it cannot be read.
    """
    try:
        with open_file(path, "rb") as file:
            return file.read()
    # TensorFlow's errors are not `OSError`s.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path} cannot be read: {reason}") from error


def parse(
    encoded: bytes,
    path: str | os.PathLike[str],
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Decodes the content of a JSON file.

    Args:
      encoded: the content.
      path: the file, for the message.
      object_hook: as for `json.loads`: what it returns stands for an object.

    Returns:
      The value in the file.

    Raises:
      DatasetError: if it is not JSON.
    """
    try:
        return json.loads(encoded, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error}): export it again") from error


def checked_entries(
    entries: list[Any],
    keys: tuple[str, ...],
    complaint_about: Callable[[dict[str, Any]], str | None],
    name: str,
    problems: FindingLog,
) -> list[dict[str, Any]]:
    """Picks the entries of a list that are objects, have all keys and hold valid values.

    Args:
      entries: the list.
      keys: the keys that every entry needs.
      complaint_about: returns what is wrong with an entry that has all keys, `None` if nothing.
      name: the list's name in messages.
      problems: receives every mistake.

    Returns:
      The valid entries, in the order of the list.
    """
    valid = []
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]"
        if not isinstance(entry, dict):
            problems.add("entry is not a JSON object", f"{place} is {shown(entry)}")
        elif missing := [key for key in keys if key not in entry]:
            problems.add(f"entry is missing {', '.join(missing)}", f"{place}: {shown(entry)}")
        elif complaint := complaint_about(entry):
            problems.add(complaint, f"{place}: {shown({key: entry[key] for key in keys})}")
        else:
            valid.append(entry)
    return valid


def is_finite(value: Any) -> bool:
    """Returns whether a JSON value is a number that a float can hold, neither infinite nor NaN."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # False for NaN as well, and integers may be too large for a float.
    return is_number and abs(value) <= sys.float_info.max


def shown(value: Any, limit: int = 120) -> str:
    """Formats a JSON value for a message.

    Args:
      value: the value.
      limit: maximum number of characters; longer text is cut off.
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
