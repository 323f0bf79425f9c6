"""The resident memory of this process, as Linux counts it."""

import pathlib


def reset_peak() -> None:
    """Lets the peak begin anew at what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """Returns the largest resident memory since the start or the last reset."""
    return _megabytes("VmHWM")


def resident_megabytes() -> float:
    """Returns the resident memory."""
    return _megabytes("VmRSS")


def _megabytes(key: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
