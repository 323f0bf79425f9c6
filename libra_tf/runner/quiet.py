"""Keeps the libraries' messages off the terminal and in a log file."""

import contextlib
import logging
import os
from collections.abc import Iterator

from absl import logging as absl_logging


@contextlib.contextmanager
def libraries_write_to(path: str) -> Iterator[None]:
    """Sends what libraries print, log and warn to a file while the block runs.

    Args:
      path: log file; it is appended to. Its folder is made.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", buffering=1) as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(absl_logging.PythonFormatter())
        root = logging.getLogger()
        terminal_handlers, root.handlers = root.handlers, [handler]
        absl_logging.set_verbosity(absl_logging.INFO)
        logging.captureWarnings(True)
        try:
            with contextlib.redirect_stdout(log):
                yield
        finally:
            logging.captureWarnings(False)
            root.handlers = terminal_handlers
