"""Folders and files written completely or not at all, by any number of processes at once."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid

_PREFIX = ".libra_tf-unfinished-"


@contextlib.contextmanager
def unfinished_folder(parent):
    """Makes a folder to write in before it is renamed to its final name.

    It is locked as long as this process lives, which tells it from the left-overs of killed
    processes; those are removed on the way. If it is not renamed, it is removed in the end.

    Args:
      parent: `pathlib.Path` of an existing folder, where the final name will be.

    Yields:
      `pathlib.Path` of the empty folder.

    Raises:
      OSError: if the folder cannot be made or locked.
    """
    _remove_left_overs(parent)
    folder, lock = _make_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def write_file(path, content):
    """Writes a file that is never seen half-written, not even where it replaces another one.

    Args:
      path: path of the file, in an existing folder.
      content: `str`, written in UTF-8, or `bytes`.

    Raises:
      OSError: if it cannot be written; what was at `path` is still there then.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished-{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def is_occupied(folder):
    """Says whether a folder cannot be renamed to this name.

    Args:
      folder: `pathlib.Path`.

    Returns:
      `bool`, whether there is anything but an empty folder.
    """
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def make_durable(folder):
    """Forces a folder and all files in it to disk, so that a crash cannot leave half of them.

    Args:
      folder: `pathlib.Path`.
    """
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def rename_durably(source, target):
    """Renames a folder, and forces the new name to disk.

    Args:
      source: `pathlib.Path` of the folder, itself durable.
      target: `pathlib.Path` on the same file system.

    Raises:
      OSError: if `target` is a file or a folder that is not empty, or cannot be written.
    """
    os.rename(source, target)
    _sync(target.parent)


def _make_locked(parent):
    while True:
        folder = pathlib.Path(parent, _PREFIX + uuid.uuid4().hex)
        folder.mkdir()
        lock = _lock(folder)
        # Another process may take the folder for a left-over before it is locked.
        if lock is not None:
            return folder, lock


def _remove_left_overs(parent):
    for folder in parent.glob(f"{_PREFIX}*"):
        # In a shared folder, another user's left-over may be private.
        with contextlib.suppress(PermissionError):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder):
    """Locks a folder; returns the descriptor that holds it, or `None` if it is taken or gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    os.close(descriptor)
    return None


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
