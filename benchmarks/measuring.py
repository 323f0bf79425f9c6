"""Times the contestants of comparisons in turn, and measures their peak memory.

Every contestant of a comparison is called in turn, in one process, so that whatever else the
machine does hits all of them; the tables give medians, and ratios to ours from the same run. Peak
memory is that of a fresh process that builds and calls one contestant twice, above what it held
before that.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from absl import app, flags

from comparison import Comparison

_REPEATS = flags.DEFINE_integer("repeats", 30, "Calls of each contestant.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer(
    "warm_up", 3, "Calls of each contestant before these, not counted.", lower_bound=1
)
_MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure peak memory, too.")
_CONTESTANT = flags.DEFINE_string(
    "contestant", None, "Used by the program itself: print the peak memory of GROUP|TITLE|NAME."
)


def run(groups: Mapping[str, Callable[[], Iterable[Comparison]]], default: list[str]) -> None:
    """Measures the groups that the flags ask for and prints a table per comparison.

    Args:
      groups: by name, a function that makes the comparisons.
      default: names of the groups that are measured when none is asked for.
    """
    chosen = flags.DEFINE_multi_enum("groups", default, list(groups), "What to measure.")

    def main(_):
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


def _measure(group, comparison):
    table = rich.table.Table(title=f"{group}: {comparison.title}", title_justify="left")
    table.add_column("contestant")
    for column in ("median ms", "p99 ms", "x ours", "peak MB"):
        table.add_column(column, justify="right")
    table.add_column("note")
    for row in _rows(group, comparison):
        table.add_row(*row)
    return table


def _rows(group, comparison):
    """Rows of the table: contestant, median, 99th percentile, ratio, memory, note."""
    seconds = _time_in_turn(comparison)
    ours = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        measured = _MEMORY.value and name not in comparison.other_processes
        memory = _memory_in_fresh_process(group, comparison, name) if measured else ""
        note = comparison.note(name, median)
        p99 = f"{1e3 * np.percentile(times, 99):.2f}"
        yield name, f"{1e3 * median:.2f}", p99, f"{median / ours:.2f}", memory, note
    for name, milliseconds in comparison.elsewhere.items():
        ratio = f"{milliseconds / (1e3 * ours):.2f}"
        yield name, f"{milliseconds:.2f}", "", ratio, "", "another machine"


def _time_in_turn(comparison: Comparison):
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


def _memory_in_fresh_process(group, comparison, name):
    contestant = f"{group}|{comparison.title}|{name}"
    command = [sys.executable, *sys.argv, f"--contestant={contestant}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _peak_memory(make_comparisons, title, name):
    """Peak resident memory in MB of building and calling a contestant, above that before."""
    (comparison,) = (c for c in make_comparisons() if c.title == title)
    tf.zeros([1])  # What TensorFlow takes to start belongs to nobody.
    _reset_peak()
    before = _resident_kilobytes("VmRSS")
    call = comparison.contestants[name]()
    for _ in range(1 if comparison.slow else 2):
        call()
    return round((_resident_kilobytes("VmHWM") - before) / 1024)


def _reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _resident_kilobytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))
