"""Lists the experiments and the config files: what each trains, and what it reaches."""

import argparse
import ast
import pathlib
import shutil
import textwrap
from collections.abc import Sequence

from libra_tf import configs
from libra_tf.configs import names, yaml_files

_NARROWEST = 60


def main(arguments: Sequence[str]) -> int:
    """Prints the list; returns the exit status.

    Args:
      arguments: the command line without the program's name.
    """
    parser = argparse.ArgumentParser(prog="libra-tf configs", description=__doc__)
    parser.parse_args(arguments)
    print("Experiments, for --experiment=NAME:")
    docstrings = _docstrings()
    for name in names.EXPERIMENTS:
        _print_entry(name, docstrings[name])
    print("\nConfig files, for --config_file=NAME with the experiment that they change:")
    for name in yaml_files.names():
        header = yaml_files.read_header(name)
        _print_entry(
            name,
            header.purpose,
            header.reaches,
            f"--experiment={header.experiment} --config_file={name}",
        )
    print(f"\nThe config files are in {yaml_files.FOLDER}")
    return 0


def _docstrings() -> dict[str, str]:
    """Returns what the experiments' functions say about themselves, by the experiment's name.

    It is read from the source, because importing that takes as long as TensorFlow.
    """
    (folder,) = configs.__path__
    source = pathlib.Path(folder, "experiments.py").read_text(encoding="utf-8")
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return {node.name: " ".join((ast.get_docstring(node) or "").split()) for node in functions}


def _print_entry(name: str, *texts: str) -> None:
    width = max(shutil.get_terminal_size(fallback=(100, 24)).columns, _NARROWEST)
    print(f"\n  {name}")
    for text in texts:
        print(textwrap.fill(text, width, initial_indent=" " * 4, subsequent_indent=" " * 6))
