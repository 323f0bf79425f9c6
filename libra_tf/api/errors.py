"""Errors that name the arguments of a call."""

import contextlib
import re
from collections.abc import Iterator

from libra_tf.cli.errors import TrainingError, UsageError

_FLAG = re.compile(r"--(?=[a-z])")


@contextlib.contextmanager
def of_arguments() -> Iterator[None]:
    """Makes the errors of the block name arguments, `model_dir=x`, not flags, `--model_dir=x`.

    The arguments of this package's functions have the names of the commands' flags.

    Raises:
      UsageError: raised by the block, with another message.
      TrainingError: likewise.
    """
    try:
        yield
    except (UsageError, TrainingError) as error:
        error.args = (_FLAG.sub("", str(error)),)
        raise
