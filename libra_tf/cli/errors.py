"""The errors that `run.py` shows as one clear message instead of a traceback."""


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what was saved."""


class PreemptedError(BaseException):
    """The process was asked to end, and the state of its training, if any, is saved.

    Like KeyboardInterrupt it is no Exception, so that no library takes it for an error of its own.
    """
