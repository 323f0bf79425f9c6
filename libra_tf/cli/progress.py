"""Progress of long work: a live bar on a terminal or in a notebook, plain lines in a log."""

import importlib.util
import time

import rich.console
import rich.progress

# A log gets about this many lines per phase at most, some seconds apart.
_LINES_PER_PHASE = 20
_SECONDS_BETWEEN_LINES = 2.0
# A rate measured for a shorter time may be that of results which were already waiting.
_SECONDS_BEFORE_RATE = 1.0


class Progress:
    """Shows step, loss, images per second and the time left, one phase after another.

    Args:
      console: where to print. It must still be the terminal when libraries' output is redirected.
    """

    def __init__(self, console: rich.console.Console):
        self._console = console
        self._bar = None
        self._unit = ""

    def start(self, phase: str, total: int | None, done: int = 0, unit: str = "step") -> None:
        """Begins a phase.

        Args:
          phase: what is being done, such as `training`.
          total: number of units to do; None if it is unknown.
          done: number of units that earlier runs have done.
          unit: what is counted.
        """
        self.stop()
        self._phase, self._total, self._first, self._unit = phase, total, done, unit
        self._warm = None
        self._printed = (time.monotonic(), done)
        if self._console.is_terminal or _shows_widgets(self._console):
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
                # What libraries print has a place already, and a notebook would print it for ever.
                redirect_stdout=False,
                redirect_stderr=self._console.is_terminal,
            )
            self._bar.start()
            self._task = self._bar.add_task(phase, total=total, completed=done, text="starting")

    def advance(self, done: int, images: int | None = None, loss: float | None = None) -> None:
        """Reports that `done` units of the phase are finished.

        Args:
          done: number of units finished, including those of earlier runs.
          images: images in one unit, to show images per second.
          loss: the training loss.
        """
        now = time.monotonic()
        if self._warm is None:
            # The first units include building the graph; the rate is measured after them.
            self._warm = (now, done)
        text = self._describe(done, images, loss, now)
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
        elif self._is_line_due(now, done):
            self._printed = (now, done)
            self._console.print(f"{self._phase}: {text}", highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Prints a line that stays, beside the phases."""
        self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    def stop(self) -> None:
        """Ends the phase and removes its bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _is_line_due(self, now: float, done: int) -> bool:
        printed_time, printed_done = self._printed
        enough = done - printed_done >= (self._total or 0) / _LINES_PER_PHASE
        return done == self._total or (enough and now - printed_time >= _SECONDS_BETWEEN_LINES)

    def _describe(self, done: int, images: int | None, loss: float | None, now: float) -> str:
        parts = [f"{self._unit} {done}" + (f"/{self._total}" if self._total else "")]
        if loss is not None:
            parts.append(f"loss {loss:.3f}")
        warm_time, warm_done = self._warm
        seconds = now - warm_time
        if done > warm_done and seconds >= _SECONDS_BEFORE_RATE:
            rate = (done - warm_done) / seconds
            if images:
                parts.append(f"{rate * images:.1f} images/s")
            if self._total:
                parts.append(f"{_duration((self._total - done) / rate)} left")
        return ", ".join(parts)


def _shows_widgets(console: rich.console.Console) -> bool:
    """Returns whether this is a notebook with what rich's live displays need there."""
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
