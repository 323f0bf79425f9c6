"""A contestant that runs in a process of its own."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence


def start(
    command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str] | None = None
) -> Callable[[], str]:
    """Starts a program and waits until it is ready.

    Args:
      command: the program. It prints a line when it is ready, and then makes a call and prints a
        line for every line on its standard input.
      environment: variables to set for it.

    Returns:
      A function that has a call made and returns the line.

    Raises:
      RuntimeError: if the program ends; it has what the program wrote to standard error.
    """
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115, open as long as the program runs
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )

    def answer() -> str:
        line = process.stdout.readline()
        if not line:
            log.seek(0)
            raise RuntimeError(f"{command[1]} has ended:\n{log.read()}")
        return line

    answer()

    def call() -> str:
        print(file=process.stdin, flush=True)
        return answer()

    return call
