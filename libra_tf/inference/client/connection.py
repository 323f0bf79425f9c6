"""The connection to a server: which protocol it speaks, and whether it serves the model yet."""

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

from libra_tf.cli.errors import UsageError
from libra_tf.inference.client.errors import ServerError
from libra_tf.inference.client.target import Target
from libra_tf.inference.detecting import Detector
from libra_tf.inference.errors import RequestError

_SECONDS_BETWEEN_LOOKS = 1.0


class Transport(Detector, Protocol):
    """A detector on a server; see `rest` and `grpc_api`."""

    def states(self) -> dict[int, str]:
        """Returns the state of each version that the target selects."""

    def close(self) -> None:
        """Closes the connections."""


def connect(target: Target) -> Transport:
    """Returns the transport for the server's protocol."""
    # Imported here because importing TensorFlow takes seconds, and REST does not need it.
    if target.server.startswith("grpc://"):
        from libra_tf.inference.client import grpc_api

        return grpc_api.GrpcTransport(target)
    from libra_tf.inference.client import rest

    return rest.RestTransport(dataclasses.replace(target, server=target.server.rstrip("/")))


def wait_until_available(
    transport: Transport, target: Target, seconds: float, report: Callable[[str], None]
) -> None:
    """Waits until the server reports that it serves the model.

    Args:
      transport: connection to the server.
      target: the model to ask.
      seconds: how long to wait; 0 to ask only once.
      report: receives a line if it is necessary to wait.

    Raises:
      UsageError: if the model does not become available in that time; the message says why.
    """
    end = time.monotonic() + seconds
    problem = _why_not_available(transport, target)
    if problem and seconds:
        report(f"waiting up to {seconds:g} seconds: {problem}")
    while problem and time.monotonic() < end:
        time.sleep(min(_SECONDS_BETWEEN_LOOKS, max(0.0, end - time.monotonic())))
        problem = _why_not_available(transport, target)
    if problem:
        raise UsageError(problem)


def _why_not_available(transport: Transport, target: Target) -> str:
    """Returns why the model is not available, empty if it is."""
    try:
        states = transport.states()
    except (ServerError, RequestError) as error:
        return str(error)
    if "AVAILABLE" in states.values():
        return ""
    listed = ", ".join(f"version {number} {state}" for number, state in states.items())
    return f"{target} on {target.server} is not available yet ({listed}); use --wait to wait for it"
