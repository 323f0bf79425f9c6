"""Times the three components against what else there is, and measures their peak memory.

    python benchmarks/components.py                       every group: 15 min on two cores
    python benchmarks/components.py --groups=sampling     one of them
    python benchmarks/components.py --groups=huge_map     not in the default: it takes minutes

Every contestant of a comparison is called in turn, in one process, so that whatever else the
machine does hits all of them; the tables give medians, and ratios to ours from the same run. Peak
memory is that of a fresh process that builds and calls one contestant twice, above what it held
before that. MMDetection's own figures (PyTorch 2.13, 2 threads) are from another machine; with
`pip install torch`, its formulas are measured in the same run as well.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import statistics
import subprocess
import sys
import time

import rich.console
import rich.table
import tensorflow as tf
from absl import app, flags

import loss
import non_local
import pyramid
import sampling
from comparison import Comparison

GROUPS = {
    "sampling": sampling.comparisons,
    "pyramid": pyramid.comparisons,
    "non_local": non_local.comparisons,
    "loss": loss.comparisons,
    "huge_map": non_local.huge_map_comparisons,
}

_GROUPS = flags.DEFINE_multi_enum(
    "groups", ["sampling", "pyramid", "non_local", "loss"], list(GROUPS), "What to measure."
)
_REPEATS = flags.DEFINE_integer("repeats", 30, "Calls of each contestant.", lower_bound=1)
_MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure peak memory, too.")
_CONTESTANT = flags.DEFINE_string(
    "contestant", None, "Used by the program itself: print the peak memory of TITLE|NAME."
)


def main(_):
    """Measures what the flags say and prints one table per comparison."""
    if _CONTESTANT.value:
        print(_peak_memory(*_CONTESTANT.value.split("|")))
        return
    console = rich.console.Console()
    for group in _GROUPS.value:
        for comparison in GROUPS[group]():
            with console.status(f"{group}: {comparison.title}"):
                table = _measure(group, comparison)
            console.print(table)


def _measure(group, comparison):
    table = rich.table.Table(title=f"{group}: {comparison.title}", title_justify="left")
    table.add_column("contestant")
    for column in ("median ms", "x ours", "peak MB"):
        table.add_column(column, justify="right")
    table.add_column("note")
    for row in _rows(group, comparison):
        table.add_row(*row)
    return table


def _rows(group, comparison):
    """Rows of the table: contestant, median, ratio, memory, note."""
    seconds = _time_in_turn(comparison)
    ours = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        memory = _memory_in_fresh_process(group, comparison, name) if _MEMORY.value else ""
        note = comparison.note(name, median)
        yield name, f"{1e3 * median:.2f}", f"{median / ours:.2f}", memory, note
    for name, milliseconds in comparison.elsewhere.items():
        ratio = f"{milliseconds / (1e3 * ours):.2f}"
        yield name, f"{milliseconds:.2f}", ratio, "", "another machine"


def _time_in_turn(comparison: Comparison):
    calls = {name: build() for name, build in comparison.contestants.items()}
    seconds = {name: [] for name in calls}
    warm_up = 0 if comparison.slow else 3
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
    command = [sys.executable, __file__, f"--groups={group}"]
    command.append(f"--contestant={comparison.title}|{name}")
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _peak_memory(title, name):
    """Peak resident memory in MB of building and calling a contestant, above that before."""
    (group,) = _GROUPS.value
    (comparison,) = (c for c in GROUPS[group]() if c.title == title)
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


if __name__ == "__main__":
    app.run(main)
