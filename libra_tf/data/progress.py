"""Progress reports during long work."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_EVERY = 5000

_Item = TypeVar("_Item")


def announced(
    items: Iterable[_Item], total: int | None, verb: str, report: Callable[[str], None]
) -> Iterator[_Item]:
    """Passes items on and reports from time to time how many there have been.

    Args:
      items: the items.
      total: how many there will be; `None` if that is not known.
      verb: what is done with them, in the past tense, such as "checked".
      report: receives each line.

    Yields:
      The items.
    """
    for count, item in enumerate(items, start=1):
        yield item
        if count % _EVERY == 0:
            report(f"{verb} {count}{f' of {total}' if total else ''} images")
