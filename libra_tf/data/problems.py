"""Collecting the mistakes in a data set, so that the user can fix all of them at once."""

from collections.abc import Mapping

from libra_tf.cli.errors import UsageError

# Enough places of one kind for a user to see what is meant.
SHOWN = 5


class DatasetError(UsageError):
    """A data set, or the cache made from it, cannot be used.

    The message names the file, image or annotation, says what is wrong with it and what to do.
    """


class FindingLog:
    """Findings about a data set, grouped by kind in the order in which the kinds first occur.

    Attributes:
      by_kind: the places where each kind was found.
    """

    by_kind: dict[str, list[str]]

    def __init__(self, by_kind: Mapping[str, list[str]] | None = None):
        """Starts a log.

        Args:
          by_kind: findings to start with, as in the attribute; `None` for none.
        """
        self.by_kind = dict(by_kind or {})

    def add(self, kind: str, place: str) -> None:
        """Records one finding.

        Args:
          kind: what is wrong and what to do about it; the same text for all findings of this kind.
          place: the file, image or annotation where it was found.
        """
        self.by_kind.setdefault(kind, []).append(place)

    def messages(self, shown: int | None = None) -> list[str]:
        """Describes every kind of finding.

        Args:
          shown: how many places to name for each kind; `None` names all of them.

        Returns:
          One text per kind: the kind and its count, then one place per line.
        """
        return [_message(kind, places, shown) for kind, places in self.by_kind.items()]

    def raise_if_any(self, subject: object) -> None:
        """Raises one error that describes everything found.

        Args:
          subject: what was checked; the message starts with it.

        Raises:
          DatasetError: if there are any findings.
        """
        if self.by_kind:
            raise DatasetError("\n".join([f"{subject} cannot be used:", *self.messages(SHOWN)]))


def _message(kind: str, places: list[str], shown: int | None) -> str:
    named = places[:shown]
    left_out = len(places) - len(named)
    more = [f"... and {left_out} more"] if left_out else []
    return "\n".join([f"- {kind} ({len(places)}):", *(f"    {line}" for line in named + more)])
