"""Checkpoint files: which one a path means, and whether it can be read."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_READING_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names it and says why and what to do."""


def find(path: str) -> str:
    """Returns the checkpoint that a path means.

    Args:
      path: a folder of checkpoints, such as the model folder of a run, of which the newest is
        meant; or the common start of a checkpoint's files, such as `runs/coco/ckpt-9000`.

    Raises:
      CheckpointError: if there is none.
    """
    try:
        is_folder = tf.io.gfile.isdir(path)
        checkpoint = tf.train.latest_checkpoint(path) if is_folder else path
        if checkpoint and tf.io.gfile.exists(f"{checkpoint}.index"):
            return checkpoint
        is_file = tf.io.gfile.exists(path)
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{path} cannot be reached ({_first_line(error)}); name a checkpoint on this machine, "
            "or null to start without one"
        ) from error
    if is_folder:
        what = "is a folder in which no checkpoint is listed"
    else:
        what = "is not a checkpoint" if is_file else "does not exist"
    raise CheckpointError(
        f"{path} {what}; name the folder of a run, or a checkpoint's path without .index or .data, "
        "such as FOLDER/ckpt-9000"
    )


def check(path: str) -> None:
    """Checks that a path means a checkpoint of which everything can be read.

    Args:
      path: see `find`.

    Raises:
      CheckpointError: if it does not.
    """
    checkpoint = find(path)
    with reading(checkpoint):
        _read_all(checkpoint)


def damage(checkpoint: str) -> str:
    """What is wrong with a checkpoint, nothing if all its tensors can be read.

    Args:
      checkpoint: the common start of its files.
    """
    try:
        _read_all(checkpoint)
    except _READING_ERRORS as error:
        return _first_line(error)
    return ""


@contextlib.contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Raises what goes wrong in reading a checkpoint as a `CheckpointError` that names it."""
    try:
        yield
    except _READING_ERRORS as error:
        raise CheckpointError(
            f"{checkpoint} is damaged ({_first_line(error)}); copy it again or name another one"
        ) from error


def _read_all(checkpoint: str) -> None:
    reader = tf.train.load_checkpoint(checkpoint)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
