"""How long to wait before a request is sent again, the same for both protocols.

A request is retried if another attempt may succeed and the first was certainly not answered: the
server cannot be reached or breaks the connection (UNAVAILABLE, 503), or it is overloaded
(RESOURCE_EXHAUSTED, 429). Detection changes nothing on the server, so sending twice does no harm.
"""

# gRPC allows at most five attempts.
MOST_RETRIES = 4
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
FACTOR = 2.0


def waits(retries: int) -> list[float]:
    """Returns the seconds to wait before each retry; gRPC computes the same by itself."""
    return [min(FIRST_WAIT_SECONDS * FACTOR**i, LONGEST_WAIT_SECONDS) for i in range(retries)]
