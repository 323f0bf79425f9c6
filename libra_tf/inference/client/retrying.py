"""How long to wait before a request is sent again, the same for both protocols.

What is sent again is what another try may mend and what has surely not been answered: a server that
cannot be reached or breaks the connection (UNAVAILABLE, 503) or is overloaded (RESOURCE_EXHAUSTED,
429). Detecting changes nothing on the server, so that sending twice does no harm.
"""

# gRPC allows no more than five attempts.
MOST_RETRIES = 4
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
FACTOR = 2.0


def waits(retries: int) -> list[float]:
    """Returns the seconds before each repetition, which gRPC counts by itself."""
    return [min(FIRST_WAIT_SECONDS * FACTOR**i, LONGEST_WAIT_SECONDS) for i in range(retries)]
