"""Finds and checks checkpoint files."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from libra_tf.cli.errors import first_line

_STEP = "global_step/.ATTRIBUTES/VARIABLE_VALUE"
# Of storage, which may work again later.
_TEMPORARY_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
)
_READING_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names it and says why and what to do."""


def find(path: str) -> str:
    """Returns the checkpoint that a path stands for.

    Args:
      path: a folder of checkpoints, such as the model folder of a run, for the newest of them; or
        the path prefix of a checkpoint, such as `runs/coco/ckpt-9000`.

    Returns:
      The path prefix of the checkpoint.

    Raises:
      CheckpointError: if there is no such checkpoint.
    """
    try:
        is_folder = tf.io.gfile.isdir(path)
        checkpoint = tf.train.latest_checkpoint(path) if is_folder else path
        if checkpoint and tf.io.gfile.exists(f"{checkpoint}.index"):
            return checkpoint
        is_file = tf.io.gfile.exists(path)
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{path} cannot be reached ({first_line(error)}); name a checkpoint on this machine, "
            "or null to start without one"
        ) from error
    if is_folder:
        what = "is a folder that lists no checkpoint"
    else:
        what = "is not a checkpoint" if is_file else "does not exist"
    raise CheckpointError(
        f"{path} {what}; name the folder of a run, or a checkpoint's path without .index or .data, "
        "such as FOLDER/ckpt-9000"
    )


def check(path: str) -> None:
    """Checks that a path stands for a checkpoint that can be read completely.

    Args:
      path: see `find`.

    Raises:
      CheckpointError: if there is no such checkpoint, or a tensor cannot be read.
    """
    checkpoint = find(path)
    with reading(checkpoint):
        _read_all(checkpoint)


def damage(checkpoint: str) -> str:
    """Returns what is wrong with a checkpoint, empty if all its tensors can be read.

    Args:
      checkpoint: its path prefix.

    Raises:
      CheckpointError: if it cannot be read, but may well be whole.
    """
    try:
        _read_all(checkpoint)
    except _TEMPORARY_ERRORS as error:
        raise _refused(checkpoint, error) from error
    except _READING_ERRORS as error:
        return first_line(error)
    return ""


def step(checkpoint: str) -> int:
    """Returns the training step of a checkpoint; 0 for weights alone, such as imported ones.

    Args:
      checkpoint: its path prefix.

    Raises:
      CheckpointError: if it cannot be read.
    """
    with reading(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        return int(reader.get_tensor(_STEP)) if reader.has_tensor(_STEP) else 0


@contextlib.contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Turns errors of reading a checkpoint into a `CheckpointError` that names it."""
    try:
        yield
    except _TEMPORARY_ERRORS as error:
        raise _refused(checkpoint, error) from error
    except _READING_ERRORS as error:
        raise CheckpointError(
            f"{checkpoint} is damaged ({first_line(error)}); copy it again or name another one"
        ) from error


def _refused(checkpoint: str, error: tf.errors.OpError) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {checkpoint} cannot be read ({first_line(error)}); see that this process may "
        "read it, and try again"
    )


def _read_all(checkpoint: str) -> None:
    reader = tf.train.load_checkpoint(checkpoint)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
