"""The folders that a program's flags name for its results."""

import os

from libra_tf.cli.errors import UsageError


def make_writable(flag: str, folder: str) -> None:
    """Makes a folder, with its parents, if it is not there.

    Args:
      flag: the flag that names it, such as `--output_dir`.
      folder: its path.

    Raises:
      UsageError: if it cannot be made or may not be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{flag}={folder} cannot be made ({error.strerror}); name a folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag}={folder} may not be written; name another folder")
