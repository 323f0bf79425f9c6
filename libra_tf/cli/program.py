"""How every command ends: an error as one line that says what is wrong, and an exit status."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from libra_tf.cli import quiet
from libra_tf.cli.errors import PreemptedError, TrainingError, UsageError


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs the work of a command and prints what goes wrong.

    Args:
      work: returns the exit status, None for 0.

    Returns:
      The exit status: that of the work; 2 for an error that the user can fix; 1 for a training that
      cannot continue; 143 or 130 for a command that was terminated or interrupted; 1 if nobody
      reads its output.
    """
    try:
        status = work() or 0
        print(end="", flush=True)
        return status
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except TrainingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except PreemptedError as message:
        sys.stderr.write(f"{message}\n")
        return message.status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return PreemptedError.INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed the pipe. Stop Python from flushing the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def before_tensorflow(subject: str = "") -> None:
    """Says that a long import follows, and keeps the output of libraries off the terminal.

    Commands call it after they have checked their flags, so that `--help` and bad flags are
    answered at once.

    Args:
      subject: what the message begins with, such as `libra_retinanet_demo: `.
    """
    # TensorFlow reads this on import. Failures still arrive as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"{subject}importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()


def leave(status: int) -> NoReturn:
    """Ends the process at once, after everything is written.

    Python's own shutdown frees every protobuf message of TensorFlow's graphs one by one, which
    takes 2 s after the demo and has taken up to a minute.

    Args:
      status: the exit status.
    """
    # AutoGraph, for one, removes its temporary source files here.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
