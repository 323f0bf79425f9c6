"""The errors that a command shows as one clear message instead of a traceback."""


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what was saved."""


class PreemptedError(BaseException):
    """The process was told to stop, and the state of its training, if any, is saved.

    Like `KeyboardInterrupt` it is no `Exception`, so no library mistakes it for one of its own.
    """
