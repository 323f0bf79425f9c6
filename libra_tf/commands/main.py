"""The program `libra-tf`: finds the command that its first argument names, and hands it the rest.

A command's module is imported when it is called, since importing it defines its flags.
"""

import importlib
import sys
from types import ModuleType
from typing import NamedTuple, NoReturn

from absl import app, flags

from libra_tf.cli import program
from libra_tf.cli.errors import UsageError, suggestion


class _Command(NamedTuple):
    """A command.

    Attributes:
      module: its name in this room.
      summary: what it does, in a line.
      has_absl_flags: whether absl parses its flags; otherwise it does so itself.
    """

    module: str
    summary: str
    has_absl_flags: bool = True


COMMANDS = {
    "train": _Command("train", "train and evaluate a detector on the demo or on your own images"),
    "eval": _Command("evaluate", "evaluate a trained detector, on its own images or on others"),
    "predict": _Command("predict", "detect objects in images, and draw them"),
    "export": _Command("export", "export a trained detector for TensorFlow Serving"),
    "tflite": _Command("tflite", "convert a trained one-stage detector to TensorFlow Lite"),
    "client": _Command("client", "send images to TensorFlow Serving and write the detections"),
    "report": _Command("report", "report what is unbalanced in a training"),
    "proposals": _Command("proposals", "write the RPN proposals of a trained detector", False),
    "import": _Command("importing", "import weights of MMDetection or torchvision", False),
    "configs": _Command("configs", "list the experiments and the config files", False),
}


def main() -> NoReturn:
    """Runs the command that the first argument names; without one, lists the commands."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        sys.exit()
    sys.exit(program.exit_status(lambda: _run(name, arguments)))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return "\n".join(
        [
            "Libra R-CNN: balanced object detection for the TensorFlow Model Garden.",
            "",
            "usage: libra-tf COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "libra-tf COMMAND --help describes a command and lists its flags.",
        ]
    )


def _run(name: str, arguments: list[str]) -> int | None:
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS)
        raise UsageError(
            f"libra-tf {name}: there is no such command.{hint} The commands are "
            f"{', '.join(COMMANDS)}"
        )
    command = COMMANDS[name]
    # What messages call the program.
    sys.argv = [f"libra-tf {name}", *arguments]
    module = importlib.import_module(f"libra_tf.commands.{command.module}")
    return _run_with_absl(module) if command.has_absl_flags else module.main(arguments)


def _run_with_absl(module: ModuleType) -> NoReturn:
    # This is where absl takes the description of the program from.
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(module.main, sys.argv)
    except SystemExit:
        # absl ends --help with status 1.
        if "--help" in sys.argv:
            sys.exit()
        raise
