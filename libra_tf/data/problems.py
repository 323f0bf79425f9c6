"""How mistakes in a data set are collected, so that the user can mend all of them at once."""

from libra_tf.cli.errors import UsageError

# Places of one kind that a user has to see to know what is meant.
SHOWN = 5


class DatasetError(UsageError):
    """A data set, or the cache made from it, cannot be used.

    The message names the file, image or annotation, says what is wrong with it and what to do.
    """


class FindingLog:
    """Findings about a data set, grouped by kind in the order in which the kinds first occur.

    Attributes:
      by_kind: `dict` of kind (`str`) to the list of places (`str`) where it was found.
    """

    def __init__(self, by_kind=None):
        """Starts a log.

        Args:
          by_kind: findings to start with, as in the attribute; `None` for none.
        """
        self.by_kind = dict(by_kind or {})

    def add(self, kind, place):
        """Notes one finding.

        Args:
          kind: `str`, what is wrong and what to do about it; the same for all findings like it.
          place: `str`, the file, image or annotation where it was found.
        """
        self.by_kind.setdefault(kind, []).append(place)

    def messages(self, shown=None):
        """Describes every kind of finding.

        Args:
          shown: `int`, how many places to name of each kind; `None` names all of them.

        Returns:
          A list of `str`, one for each kind: kind, count and places, one a line.
        """
        return [_message(kind, places, shown) for kind, places in self.by_kind.items()]

    def raise_if_any(self, subject):
        """Raises one error that describes everything found.

        Args:
          subject: `str`, what was checked; it opens the error's text.

        Raises:
          DatasetError: if there is any finding.
        """
        if self.by_kind:
            raise DatasetError("\n".join([f"{subject} cannot be used:", *self.messages(SHOWN)]))


def _message(kind, places, shown):
    named = places[:shown]
    left_out = len(places) - len(named)
    more = [f"... and {left_out} more"] if left_out else []
    return "\n".join([f"- {kind} ({len(places)}):", *(f"    {line}" for line in named + more)])
