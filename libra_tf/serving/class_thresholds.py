"""A score threshold for each class, as a user gives them. Imports no TensorFlow."""

import functools
import json
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

from libra_tf.cli.errors import UsageError, first_line, listed, suggestion

# A class by its name or its category id.
Thresholds = Mapping[str | int, float]

_FLAG = "--score_thresholds"
_JSON = ".json"
_HOW = 'give CLASS=NUMBER,CLASS=NUMBER or a .json file with {"CLASS": NUMBER}'
_MOST_NAMES = 10


def read(text: str) -> dict[str, float]:
    """Reads the value of the flag.

    Args:
      text: `person=0.42,dog=0.3`, where a class is a name or a category id; or the path of a
        `.json` file that holds the same as an object, for names with commas. Empty for none.

    Returns:
      Class, as the user wrote it -> threshold.

    Raises:
      UsageError: if it is neither, or a threshold is not in 0..1.
    """
    if not text:
        return {}
    thresholds = _of_file(text) if text.endswith(_JSON) else _of_pairs(text)
    check_numbers(thresholds)
    return thresholds


def check_numbers(thresholds: Thresholds) -> None:
    """Checks the numbers.

    Args:
      thresholds: class -> threshold.

    Raises:
      UsageError: if one is no number in 0..1, or a class is neither a name nor an id.
    """
    for name, threshold in thresholds.items():
        if not isinstance(name, (str, numbers.Integral)) or isinstance(name, bool):
            raise UsageError(f"{_FLAG}: {name!r} is no class; give its name or its category id")
        is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
        # False for NaN as well.
        if not (is_number and 0 <= threshold <= 1):
            raise UsageError(f"{_FLAG}: {name}={threshold} must be a number from 0 to 1")


def by_category(thresholds: Thresholds, class_names: Mapping[int, str]) -> dict[int, float]:
    """Finds the classes.

    Args:
      thresholds: class -> threshold. A class is a name, or an id where no class has that name.
      class_names: the names of all classes by category id.

    Returns:
      Category id -> threshold, of the classes that are given. A name that several ids share stands
      for all of them.

    Raises:
      UsageError: if there is no such class, or one is given twice.
    """
    found: dict[int, float] = {}
    for name, threshold in thresholds.items():
        for category in _categories(name, class_names):
            if category in found:
                raise UsageError(
                    f"{_FLAG} gives class {category} ({class_names[category]}) twice; give it once"
                )
            found[category] = float(threshold)
    return found


def _categories(name: str | int, class_names: Mapping[int, str]) -> list[int]:
    if isinstance(name, str):
        named = [category for category, other in class_names.items() if other == name]
        if named:
            return named
    is_id = isinstance(name, numbers.Integral) or name.isdecimal()
    if is_id and int(name) in class_names:
        return [int(name)]
    names = list(class_names.values())
    raise UsageError(
        f"{_FLAG}: the detector has no class {name}.{suggestion(str(name), names)} Its classes: "
        f"{listed(names, _MOST_NAMES)}"
    )


def _of_pairs(text: str) -> dict[str, float]:
    thresholds: dict[str, float] = {}
    for pair in text.split(","):
        # A name may hold an equals sign.
        name, equals, number = pair.rpartition("=")
        name = name.strip()
        if not (equals and name):
            raise UsageError(f"{_FLAG}={text}: {pair!r} is not CLASS=NUMBER; {_HOW}")
        if name in thresholds:
            raise UsageError(f"{_FLAG} gives {name} twice; give it once")
        try:
            thresholds[name] = float(number)
        except ValueError as error:
            raise UsageError(f"{_FLAG}: {name}={number} must be a number from 0 to 1") from error
    return thresholds


def _without_repeats(
    path: str | os.PathLike[str], pairs: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """Makes a dict of the pairs of a JSON object, in which the last would win otherwise."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise UsageError(f"{_FLAG}={path} gives {name} twice; give it once")
        content[name] = value
    return content


def _of_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=functools.partial(_without_repeats, path))
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"{_FLAG}={path} cannot be read as JSON ({reason}); {_HOW}") from error
    if not (isinstance(content, dict) and content):
        raise UsageError(f"{_FLAG}={path} holds no thresholds; {_HOW}")
    return content
