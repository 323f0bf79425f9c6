"""What a run does before it is under way, and one message for what fails until then."""

import contextlib
import enum
import re
from collections.abc import Iterator

from absl import logging

from libra_tf.cli.errors import TrainingError, UsageError

# Of a traceback inside a message: a place, and the line of code there.
_PLACE = re.compile(r'^ *File ".*", line \d+.*\n.*\n', re.MULTILINE)
# Lines that say where it happened, not what.
_WHERE = re.compile(
    r"in user code:|(\w+: )?Exception encountered when calling layer|Call arguments received by"
    r"|In call to configurable|• |Arguments received by|[~^ ]+$"
)
_NODE = re.compile(r"^\{\{function_node .*?\}\} ")
_TYPE = re.compile(r"^\w*(Error|Exception): ")


class Stage(enum.StrEnum):
    """A part of a run in which a wrong value of the config shows."""

    MODEL = "building the model"
    INPUTS = "building the input pipeline"
    WEIGHTS = "loading the weights"
    STEP = "tracing the first step"
    EVALUATION = "taking the first step of an evaluation"


class Stages:
    """Keeps the stage that a run is in.

    Attributes:
      current: the stage; None before the first and while the run is under way.
    """

    def __init__(self) -> None:
        self.current: Stage | None = None

    @contextlib.contextmanager
    def explained(self, experiment: str, log: str) -> Iterator[None]:
        """Turns an error in a stage into one message, and logs the traceback.

        Args:
          experiment: name of the experiment, for the message.
          log: path of the log, for the message.

        Raises:
          UsageError: if the block fails in a stage; the message names the stage and the cause.
        """
        try:
            yield
        except (UsageError, TrainingError):
            raise
        except Exception as error:
            if self.current is None:
                raise
            logging.exception("%s failed while %s", experiment, self.current)
            raise UsageError(
                f"{experiment} failed while {self.current}: {cause(error)}. Look for a value in "
                f"--params_override or --config_file that explains it; the traceback is in {log}"
            ) from error


def cause(error: Exception) -> str:
    """Returns the line of an error that says what went wrong, with the type of the error.

    TensorFlow and Keras put it among the places where it happened.

    Args:
      error: the error.
    """
    lines = (line.strip() for line in _PLACE.sub("", str(error)).splitlines())
    useful = (line for line in lines if line and not _WHERE.match(line))
    line = _NODE.sub("", next(useful, "")).rstrip(".")
    return line if _TYPE.match(line) else f"{type(error).__name__}: {line}".removesuffix(": ")
