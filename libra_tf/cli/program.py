"""How every program ends: errors as one line that says what is wrong, and an exit status."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from libra_tf.cli.errors import PreemptedError, TrainingError, UsageError
from libra_tf.data import DatasetError


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs the work of a program.

    Args:
      work: it returns the exit status, None for 0.

    Returns:
      Its status; 2 for what the user can mend, 1 for a training that cannot go on, 143 and 130 for
      a program that was asked to end.
    """
    try:
        return work() or 0
    except (UsageError, DatasetError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except TrainingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except PreemptedError as message:
        sys.stderr.write(f"{message}\n")
        return 143
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def leave(status: int) -> NoReturn:
    """Ends the process now, when everything is written.

    The interpreter's own end frees every protobuf message of TensorFlow's graphs one by one: 2 s
    after the demo, and up to a minute has been seen.

    Args:
      status: the exit status.
    """
    # AutoGraph, for one, removes the temporary files then in which it keeps what it has translated.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
