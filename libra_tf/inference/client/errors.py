"""What can go wrong between client and server, as one-line errors, the same for both protocols."""

import re

from libra_tf.inference.client.target import Target
from libra_tf.inference.errors import DetectorError, RequestError, find_refusal
from libra_tf.inference.signature import INPUT, SIGNATURE

# A server with batching reports a full queue as UNAVAILABLE, although it can be reached.
_FULL_QUEUE = re.compile(r"batch scheduling queue .*full", re.DOTALL)


class ServerError(DetectorError):
    """No request will be answered: the server is gone, or does not serve the model."""


def from_status(code: str, message: str, target: Target) -> ServerError | RequestError:
    """Returns the exception for an error status of the server.

    Args:
      code: name of a gRPC status, such as `NOT_FOUND`.
      message: the server's message.
      target: the model that was asked.

    Returns:
      `ServerError`, `RequestError` or `RefusedError`.
    """
    refusal = find_refusal(message)
    if refusal:
        return refusal
    said = _first_line(message)
    if code in ("NOT_FOUND", "UNIMPLEMENTED") or "version label" in message:
        return ServerError(
            f"{target.server} does not serve {target} ({said}); check --model, --model_version and "
            "--model_label"
        )
    if "Serving signature" in message or "named input" in message or "input tensor" in message:
        return ServerError(
            f"{target} on {target.server} has no signature {SIGNATURE} with an input {INPUT} "
            f"({said}); serve a folder that libra-tf export wrote"
        )
    if code == "UNAVAILABLE" and _FULL_QUEUE.search(message):
        code = "RESOURCE_EXHAUSTED"
    if code == "UNAVAILABLE":
        return ServerError(
            f"{target.server} cannot be reached ({said}); check that it runs, and the port: 8500 "
            "is usual for grpc://, 8501 for http://"
        )
    if code == "DEADLINE_EXCEEDED":
        return RequestError(f"no answer within --timeout={target.timeout:g} seconds")
    if code == "RESOURCE_EXHAUSTED":
        return RequestError(f"the server is overloaded ({said}); lower --concurrency")
    return RequestError(f"the server answered {code}: {said}")


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "without a message"
