"""Writes the RPN proposals of a trained detector, to train a Fast R-CNN on.

Proposals of another program, in COCO's results format, become such a folder with
`python -m libra_tf.data.proposals`.
"""

from collections.abc import Sequence

from libra_tf.runner import rpn_proposals


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Args:
      arguments: the command line without the program's name.
    """
    return rpn_proposals.main(arguments, program_name="libra-tf proposals")
