"""Imports a checkpoint of MMDetection as a run, or one of torchvision as a backbone."""

from collections.abc import Sequence

from libra_tf.checkpoints import mmdet


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Args:
      arguments: the command line without the program's name.
    """
    return mmdet.main(arguments, program_name="libra-tf import")
