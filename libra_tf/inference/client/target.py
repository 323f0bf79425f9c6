"""Which model on which server to ask, and how long to wait."""

import dataclasses

from libra_tf.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Target:
    """The model that requests are sent to.

    Attributes:
      server: `grpc://host:port` or `http://host:port`.
      model: the name of the model.
      version: a version number; None for the newest, or if `label` is given.
      label: the label of a version in the server's config.
      timeout: seconds that one request may take.
      retries: how often a request is sent again if the server cannot be reached or is overloaded.
      concurrency: how many requests are sent at once.

    Raises:
      UsageError: if `server` names no supported protocol.
    """

    server: str
    model: str
    version: int | None = None
    label: str | None = None
    timeout: float = 30.0
    retries: int = 3
    concurrency: int = 4

    def __post_init__(self) -> None:
        scheme, separator, address = self.server.partition("://")
        if not separator or not address or scheme not in ("grpc", "http", "https"):
            raise UsageError(
                f"--server={self.server}: write grpc://HOST:PORT, http://HOST:PORT or "
                "https://HOST:PORT"
            )

    def __str__(self) -> str:
        which = "" if self.version is None else f" version {self.version}"
        which += f" label {self.label}" if self.label else ""
        return f"model {self.model}{which}"
