"""Keeps the libraries' messages off the terminal and in a log file."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from absl import logging as absl_logging


def silence_libraries() -> None:
    """Keeps what libraries log and warn off the terminal, errors excepted."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    warnings.simplefilter("ignore")


@contextlib.contextmanager
def libraries_write_to(path: str) -> Iterator[None]:
    """Sends what libraries print and log to a file while the block runs.

    Args:
      path: log file; it is appended to. Its folder is made.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", buffering=1) as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(absl_logging.PythonFormatter())
        root = logging.getLogger()
        terminal_handlers, root.handlers = root.handlers, [handler]
        verbosity = absl_logging.get_verbosity()
        absl_logging.set_verbosity(absl_logging.INFO)
        try:
            with contextlib.redirect_stdout(log):
                yield
        finally:
            absl_logging.set_verbosity(verbosity)
            root.handlers = terminal_handlers


@contextlib.contextmanager
def stderr_closed() -> Iterator[None]:
    """Keeps off the terminal what C++ code writes to the process's standard error."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
