"""The definition of a comparison."""

import dataclasses
from collections.abc import Callable, Mapping, Set


def _no_note(name: str, seconds: float) -> str:
    del name, seconds
    return ""


def _no_summary(seconds: Mapping[str, float]) -> str:
    del seconds
    return ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several ways to do the same thing. The first one is ours.

    Attributes:
      title: what is done, and the size of the input.
      contestants: by name, a function that prepares the call to be timed and returns it.
      other_processes: contestants that run in another process; their memory is not measured.
      note: returns a note on a contestant, given its name and median seconds.
      summary: returns what to print below the table, given the median seconds by name.
      slow: whether a call is so slow that it is made only once.
    """

    title: str
    contestants: Mapping[str, Callable[[], Callable[[], object]]]
    other_processes: Set[str] = frozenset()
    note: Callable[[str, float], str] = _no_note
    summary: Callable[[Mapping[str, float]], str] = _no_summary
    slow: bool = False
