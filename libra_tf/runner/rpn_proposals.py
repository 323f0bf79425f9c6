"""Writes the RPN proposals of a trained detector, to train a Fast R-CNN on.

    python -m libra_tf.runner.rpn_proposals --model_dir=runs/libra_fasterrcnn_r50 FOLDER

This creates FOLDER/train and FOLDER/val, for the images on which the detector was trained and
evaluated.
"""

import argparse
import sys
from collections.abc import Sequence

from libra_tf.cli import inputs, program

_PROGRAM = "python -m libra_tf.runner.rpn_proposals"


def main(arguments: Sequence[str] | None = None, program_name: str = _PROGRAM) -> int:
    """Runs the command.

    Args:
      arguments: command-line arguments; None for those of this process.
      program_name: what the help calls the program.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(
        prog=program_name,
        description="Writes the RPN proposals of a trained detector for its images.",
        epilog="Proposals of another program, in COCO's results format, become such a folder with "
        "python -m libra_tf.data.proposals.",
    )
    parser.add_argument("folder", help="where to create the folders train and val")
    parser.add_argument("--model_dir", required=True, help="run folder of the trained detector")
    parser.add_argument(
        "--num_proposals", type=int, default=2000, help="maximum number of proposals per image"
    )
    parsed = parser.parse_args(arguments)
    return program.exit_status(lambda: _write(parsed))


def _write(parsed: argparse.Namespace) -> None:
    inputs.require_run("--model_dir", parsed.model_dir)
    program.before_tensorflow()
    # Imported here because it takes about 15 s, and --help and wrong flags should be quick.
    from libra_tf.inference import rpn_proposals

    rpn_proposals.write_proposals(parsed.model_dir, parsed.folder, parsed.num_proposals)


if __name__ == "__main__":
    sys.exit(main())
