"""Times the contestants of a comparison in turn, and measures their peak memory.

The contestants take turns in one process, so that other work on the machine affects all of them
equally. The tables give medians, and ratios to ours from the same run. Peak memory is measured in a
fresh process that builds one contestant and calls it twice, as the increase over what the process
held before.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from absl import app, flags

import memory
from comparison import Comparison

_REPEATS = flags.DEFINE_integer("repeats", 30, "Calls per contestant.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer(
    "warm_up", 3, "Calls per contestant before these, which are not timed.", lower_bound=1
)
_MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure peak memory as well.")
_CONTESTANT = flags.DEFINE_string(
    "contestant", None, "For internal use: print the peak memory of GROUP|TITLE|NAME."
)


def run(groups: Mapping[str, Callable[[], Iterable[Comparison]]], default: list[str]) -> None:
    """Measures the groups selected by the flags and prints a table per comparison.

    Args:
      groups: by name, a function that yields the comparisons.
      default: names of the groups to measure if none is selected.
    """
    chosen = flags.DEFINE_multi_enum("groups", default, list(groups), "What to measure.")

    def main(_: list[str]) -> None:
        if _CONTESTANT.value:
            group, title, name = _CONTESTANT.value.split("|")
            print(_peak_memory(groups[group], title, name))
            return
        console = rich.console.Console()
        for group in chosen.value:
            for comparison in groups[group]():
                with console.status(f"{group}: {comparison.title}"):
                    table = _measure(group, comparison)
                console.print(table)

    app.run(main)


def _measure(group: str, comparison: Comparison) -> rich.table.Table:
    table = rich.table.Table(title=f"{group}: {comparison.title}", title_justify="left")
    table.add_column("contestant")
    for column in ("median ms", "p99 ms", "x ours", "peak MB"):
        table.add_column(column, justify="right")
    table.add_column("note")
    seconds = _time_in_turn(comparison)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for row in _rows(group, comparison, seconds, medians):
        table.add_row(*row)
    table.caption, table.caption_justify = comparison.summary(medians), "left"
    return table


def _rows(
    group: str,
    comparison: Comparison,
    seconds: Mapping[str, list[float]],
    medians: Mapping[str, float],
) -> Iterator[tuple[str, ...]]:
    """Yields rows of the table: contestant, median, 99th percentile, ratio, memory, note."""
    ours = next(iter(medians.values()))
    for name, times in seconds.items():
        median = medians[name]
        measured = _MEMORY.value and name not in comparison.other_processes
        memory = _memory_in_fresh_process(group, comparison, name) if measured else ""
        note = comparison.note(name, median)
        p99 = f"{1e3 * np.percentile(times, 99):.2f}"
        yield name, f"{1e3 * median:.2f}", p99, f"{median / ours:.2f}", memory, note


def _time_in_turn(comparison: Comparison) -> dict[str, list[float]]:
    calls = {name: build() for name, build in comparison.contestants.items()}
    seconds = {name: [] for name in calls}
    warm_up = 0 if comparison.slow else _WARM_UP.value
    repeats = 1 if comparison.slow else _REPEATS.value
    for call in calls.values():
        for _ in range(warm_up):
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _memory_in_fresh_process(group: str, comparison: Comparison, name: str) -> str:
    contestant = f"{group}|{comparison.title}|{name}"
    command = [sys.executable, *sys.argv, f"--contestant={contestant}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _peak_memory(
    make_comparisons: Callable[[], Iterable[Comparison]], title: str, name: str
) -> int:
    """Returns by how many MB building and calling a contestant raises peak resident memory."""
    (comparison,) = (c for c in make_comparisons() if c.title == title)
    tf.zeros([1])  # So that the memory TensorFlow takes at its start is not counted.
    memory.reset_peak()
    before = memory.resident_megabytes()
    call = comparison.contestants[name]()
    for _ in range(1 if comparison.slow else 2):
        call()
    return round(memory.peak_megabytes() - before)
