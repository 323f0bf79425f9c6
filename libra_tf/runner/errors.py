"""The error that `run.py` shows as one clear message instead of a traceback."""


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do."""
