"""Files and folders written completely or not at all, by any number of processes at once.

Files may be remote (`gs://...`); folders are local. Locks on folders need POSIX: Windows has no
`fcntl`.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

_PREFIX = ".libra_tf-unfinished-"
_SYNCED_TOGETHER = 8


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in a remote store, such as `gs://bucket/file`."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def unfinished_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Gives a file its name when it is complete, even where it replaces another one.

    Args:
      path: local or remote path of the file, in an existing folder.

    Yields:
      The path to write to. If the block fails, nothing is left there and `path` is as before.

    Raises:
      OSError: if a local file cannot be written.
      tf.errors.OpError: likewise, for a remote file.
    """
    path = os.fspath(path)
    unfinished = f"{path}.unfinished-{uuid.uuid4().hex}"
    if is_remote(path):
        # Imported here because data sets are checked without waiting for TensorFlow.
        from tensorflow.io import gfile

        try:
            yield unfinished
            gfile.rename(unfinished, path, overwrite=True)
        finally:
            if gfile.exists(unfinished):
                gfile.remove(unfinished)
        return
    try:
        yield unfinished
        _sync(pathlib.Path(unfinished))
        os.replace(unfinished, path)
    finally:
        pathlib.Path(unfinished).unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file completely or not at all; see `unfinished_file`.

    Args:
      path: local or remote path of the file, in an existing folder.
      content: the content; text is written in UTF-8.
    """
    encoded = content.encode() if isinstance(content, str) else content
    with unfinished_file(path) as unfinished:
        if is_remote(path):
            from tensorflow.io import gfile

            with gfile.GFile(unfinished, "wb") as file:
                file.write(encoded)
        else:
            pathlib.Path(unfinished).write_bytes(encoded)


@contextlib.contextmanager
def unfinished_folder(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates a folder to write in before it is renamed to its final name.

    The folder is locked while this process lives, which distinguishes it from folders left by
    killed processes; those are removed first. A folder that is not renamed is removed at the end.

    Args:
      parent: an existing folder, where the final name will be.

    Yields:
      The empty folder.

    Raises:
      OSError: if the folder cannot be created or locked.
    """
    _remove_left_overs(parent)
    folder, lock = _make_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def is_occupied(folder: pathlib.Path) -> bool:
    """Returns whether the name is taken by anything but an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def publish_folder(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a finished folder its final name, and forces all of it to disk.

    Args:
      folder: what `unfinished_folder` gave.
      target: the final name, in the same parent.

    Raises:
      OSError: if `target` is a file or a folder that is not empty, or cannot be written.
    """
    make_durable(folder)
    rename_durably(folder, target)


def make_durable(folder: pathlib.Path) -> None:
    """Forces a folder and all files in it to disk, so that a crash cannot leave half of them."""
    # Together, since the disk takes much longer to force out a thousand small files one by one.
    with concurrent.futures.ThreadPoolExecutor(_SYNCED_TOGETHER) as pool:
        list(pool.map(_sync, folder.rglob("*")))
    _sync(folder)


def rename_durably(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder, and forces the new name to disk.

    Args:
      source: the folder, itself durable.
      target: its new name on the same file system.

    Raises:
      OSError: if `target` is a file or a folder that is not empty, or cannot be written.
    """
    os.rename(source, target)
    _sync(target.parent)


def _make_locked(parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    while True:
        folder = pathlib.Path(parent, _PREFIX + uuid.uuid4().hex)
        folder.mkdir()
        lock = _lock(folder)
        # Another process may take the folder for a left-over before it is locked.
        if lock is not None:
            return folder, lock


def _remove_left_overs(parent: pathlib.Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # In a shared folder, another user's left-over may be private.
        with contextlib.suppress(PermissionError):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: pathlib.Path) -> int | None:
    """Locks a folder; returns the descriptor that holds it, None if it is taken or gone.

    Raises:
      OSError: if the file system has no locks, or has run out of them.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, descriptor)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                closing.pop_all()
                return descriptor
    return None


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
