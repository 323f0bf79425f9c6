"""Where the time before the first training step goes."""

import time


class StartUp:
    """Measures what a run does before its first step, one part after another.

    Create it as early as possible.

    Args:
      is_shown: whether the user wants to see the result.
      since_process_start: whether the process has done nothing else so far.

    Attributes:
      is_shown: the argument.
    """

    def __init__(self, is_shown: bool = False, since_process_start: bool = True):
        self.is_shown = is_shown
        self._last = time.monotonic()
        if since_process_start:
            # It has done nothing but compute: it started Python and imported.
            self._last -= time.process_time()
        self._seconds: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Ends a part, which has taken the time since the previous one ended.

        Args:
          part: name of the part; it may end several times.
        """
        now = time.monotonic()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now

    def describe(self, num_steps: int) -> str:
        """Describes the parts in a line, and the first steps, which have taken the time since.

        Args:
          num_steps: how many steps have been taken.
        """
        total = sum(self._seconds.values())
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self._seconds.items())
        steps = f"first {num_steps} steps: {time.monotonic() - self._last:.1f} s"
        return f"time to the first step: {total:.1f} s ({parts}); {steps}"
