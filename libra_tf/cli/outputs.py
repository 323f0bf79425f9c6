"""Checks that a command can write to its output paths.

Each check names the flag, says what is wrong with the path and what to do about it. A command runs
them before its long work.
"""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator

from libra_tf import atomic
from libra_tf.cli.errors import UsageError, first_line


def require_local(flag: str, path: str) -> None:
    """Refuses a remote path (`gs://...`) where only this machine's files will do.

    Args:
      flag: the flag that names the path, such as `--output_dir`.
      path: of a file or folder.

    Raises:
      UsageError: if the path is remote.
    """
    if atomic.is_remote(path):
        raise UsageError(
            f"{flag}={path} is not on this machine; name a local path, and copy from there"
        )


def make_folder(flag: str, folder: str) -> None:
    """Creates a local or remote folder, with its parents, unless it exists.

    Args:
      flag: the flag that names the folder, such as `--output_dir`.
      folder: its path.

    Raises:
      UsageError: if the folder cannot be created or written.
    """
    if atomic.is_remote(folder):
        _make_remote_folder(flag, folder)
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{flag}={folder} cannot be created ({error.strerror}); name a folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag}={folder} cannot be written; name another folder")


def require_writable(flag: str, folder: str) -> None:
    """Checks that a local folder can be written, or created; creates nothing.

    Args:
      flag: the flag that names the folder, such as `--model_dir`.
      folder: its path. A remote one is not looked up.

    Raises:
      UsageError: if it, or the nearest folder above it that exists, is no folder or is read-only.
    """
    if atomic.is_remote(folder):
        return
    path = pathlib.Path(folder).absolute()
    nearest = next(there for there in (path, *path.parents) if os.path.exists(there))
    if not nearest.is_dir():
        raise UsageError(f"{flag}={folder}: {nearest} is not a folder; name another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"{flag}={folder}: {nearest} cannot be written; get permission, or name another folder"
        )


def require_new_folder(flag: str, folder: str) -> None:
    """Checks that a local folder can be created, and creates its parents.

    Args:
      flag: the flag that names the folder, such as `--model_dir`.
      folder: its path. An empty folder counts as new.

    Raises:
      UsageError: if something else has that name, or the parent cannot be written.
    """
    require_local(flag, folder)
    if atomic.is_occupied(pathlib.Path(folder)):
        raise UsageError(f"{flag}={folder} already exists; name a new or empty folder")
    make_folder(flag, os.path.dirname(os.path.abspath(folder)))


def require_new_file(flag: str, path: str, suffix: str) -> None:
    """Checks that a local file can be created.

    Args:
      flag: the flag that names the file, such as `--output`.
      path: its path.
      suffix: what the name must end in, such as `.tflite`.

    Raises:
      UsageError: if it already exists, has another suffix, or its folder cannot be written.
    """
    require_local(flag, path)
    folder = os.path.dirname(path) or "."
    if not path.endswith(suffix):
        raise UsageError(f"{flag}={path} must end in {suffix}")
    if os.path.exists(path):
        raise UsageError(f"{flag}={path} already exists; remove it or choose another name")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"{flag}={path}: the folder {folder} does not exist or cannot be written")


def open_text(flag: str, path: str) -> io.TextIOBase:
    """Opens a local text file for writing, in UTF-8; it is written line by line as results come.

    Args:
      flag: the flag that names the file, such as `--output`.
      path: its path.

    Raises:
      UsageError: if the file cannot be written.
    """
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{flag}={path} cannot be written ({error.strerror}); name another file"
        ) from error


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turns what keeps the block from writing, such as a full disk, into one clear error.

    Args:
      path: of the file or folder that the block writes, for the message.

    Raises:
      UsageError: if it cannot be written.
    """
    try:
        yield
    except Exception as error:
        if not _is_about_files(error):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(
            f"{path} cannot be written ({reason}); make room or get permission there, or name "
            "another place"
        ) from error


def _is_about_files(error: Exception) -> bool:
    """Returns whether an error is of the system, or one of TensorFlow's for files."""
    if isinstance(error, OSError):
        # A closed pipe is about the output; see `program.exit_status`.
        return not isinstance(error, BrokenPipeError)
    # A program that has not imported TensorFlow need not wait for it here.
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return False
    errors = tensorflow.errors
    return isinstance(
        error,
        (
            errors.FailedPreconditionError,
            errors.NotFoundError,
            errors.PermissionDeniedError,
            errors.ResourceExhaustedError,
            errors.UnavailableError,
            # What the system calls EIO.
            errors.UnknownError,
        ),
    )


def _make_remote_folder(flag: str, folder: str) -> None:
    # Imported here because most commands check local paths before TensorFlow is imported.
    import tensorflow as tf

    try:
        tf.io.gfile.makedirs(folder)
    except tf.errors.OpError as error:
        reason = first_line(error.message)
        raise UsageError(f"{flag}={folder} cannot be created ({reason}); name a folder") from error
