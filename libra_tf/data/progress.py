"""Signs of life during long work."""

_EVERY = 5000


def announced(items, total, verb, report):
    """Passes items on and says from time to time how many there were.

    Args:
      items: iterable.
      total: `int`, how many there will be; `None` where that is not known.
      verb: `str`, what is done with them, such as "checked".
      report: callable that is given lines (`str`).

    Yields:
      The items.
    """
    for count, item in enumerate(items, start=1):
        yield item
        if count % _EVERY == 0:
            report(f"{verb} {count}{f' of {total}' if total else ''} images")
