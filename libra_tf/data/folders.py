"""New folders at a path that the user chose, written completely or not at all."""

import contextlib
import pathlib
from collections.abc import Iterator

from libra_tf import atomic
from libra_tf.data.problems import DatasetError


@contextlib.contextmanager
def new_folder(folder: pathlib.Path, contents: str) -> Iterator[pathlib.Path]:
    """Makes a folder that appears under its name only when the block ends without an error.

    Args:
      folder: the folder to make; its parents are made too.
      contents: what is written, for the message.

    Yields:
      The empty folder to write to.

    Raises:
      DatasetError: if the folder cannot be written, or something else is already there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.unfinished_folder(folder.parent) as unfinished:
            yield unfinished
            atomic.publish_folder(unfinished, folder)
    except OSError as error:
        raise DatasetError(
            f"{contents} cannot be written to {folder} ({error.strerror}): choose another folder"
        ) from error
