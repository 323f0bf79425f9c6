"""What one comparison is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Set


def _no_note(name: str, seconds: float) -> str:
    del name, seconds
    return ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several ways to do the same thing; the first one is ours.

    Attributes:
      title: what is done, and at what size.
      contestants: by name, a function that makes what is needed and returns the call to time.
      elsewhere: by name, milliseconds measured on another machine.
      other_processes: names of contestants that compute in another process, whose memory is not
        measured.
      note: what to say beside a contestant, from its name and its median seconds.
      slow: whether a call takes so long that it is made only once.
    """

    title: str
    contestants: Mapping[str, Callable[[], Callable[[], object]]]
    elsewhere: Mapping[str, float] = dataclasses.field(default_factory=dict)
    other_processes: Set[str] = frozenset()
    note: Callable[[str, float], str] = _no_note
    slow: bool = False
