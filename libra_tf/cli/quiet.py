"""Keeps the libraries' output off the terminal and in a log file."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator

from absl import logging as absl_logging

from libra_tf import atomic


def silence_libraries() -> None:
    """Keeps libraries' log lines and warnings off the terminal, except errors."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    warnings.simplefilter("ignore")


@contextlib.contextmanager
def libraries_silenced() -> Iterator[None]:
    """Silences libraries while the block runs, in a process that is not this project's own."""
    # TensorFlow reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    verbosity = absl_logging.get_verbosity()
    root, tensorflow = logging.getLogger(), logging.getLogger("tensorflow")
    silent, handlers = logging.NullHandler(), tensorflow.handlers
    # In a notebook, TensorFlow's logger shows even what is only for information. It gives itself a
    # handler for that when it is imported, unless the root has one.
    root.addHandler(silent)
    tensorflow.handlers = [silent]
    with warnings.catch_warnings():
        try:
            silence_libraries()
            yield
        finally:
            absl_logging.set_verbosity(verbosity)
            tensorflow.handlers = handlers
            root.removeHandler(silent)


@contextlib.contextmanager
def libraries_write_to(path: str) -> Iterator[None]:
    """Sends what libraries print and log to a file while the block runs.

    Whatever C++ code writes to standard error goes there too: some of TensorFlow's warnings heed no
    setting.

    Args:
      path: log file to append to; its folder is created. A remote file (`gs://...`) is written when
        the block ends, even if it fails.
    """
    if atomic.is_remote(path):
        with _copied_to(path) as local, _redirected_to(local):
            yield
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _redirected_to(path):
            yield


@contextlib.contextmanager
def _copied_to(path: str) -> Iterator[str]:
    """Gives a local file to write in place of a remote one, which cannot be appended to."""
    # Imported here since libraries are silenced before TensorFlow is imported.
    from tensorflow.io import gfile

    with tempfile.TemporaryDirectory(prefix="libra_tf-log-") as folder:
        local = os.path.join(folder, os.path.basename(path))
        if gfile.exists(path):
            gfile.copy(path, local)
        try:
            yield local
        finally:
            gfile.makedirs(os.path.dirname(path))
            gfile.copy(local, path, overwrite=True)


@contextlib.contextmanager
def _redirected_to(path: str) -> Iterator[None]:
    with open(path, "a", buffering=1) as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(absl_logging.PythonFormatter())
        root = logging.getLogger()
        terminal_handlers, root.handlers = root.handlers, [handler]
        verbosity = absl_logging.get_verbosity()
        absl_logging.set_verbosity(absl_logging.INFO)
        try:
            with contextlib.redirect_stdout(log), _stderr_of_process_to(log.fileno()):
                yield
        finally:
            absl_logging.set_verbosity(verbosity)
            root.handlers = terminal_handlers


@contextlib.contextmanager
def stderr_closed() -> Iterator[None]:
    """Hides what C++ code writes to the process's standard error."""
    with open(os.devnull, "w") as nowhere, _stderr_of_process_to(nowhere.fileno()):
        yield


@contextlib.contextmanager
def _stderr_of_process_to(descriptor: int) -> Iterator[None]:
    """Redirects the process's standard error, to which C++ code writes whatever Python's is."""
    saved = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
