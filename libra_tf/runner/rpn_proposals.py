"""Writes what the RPN of a trained detector proposes, for a Fast R-CNN to train on.

    python -m libra_tf.runner.rpn_proposals --model_dir=runs/libra_fasterrcnn_r50 FOLDER

creates FOLDER/train and FOLDER/val, for the images that the detector was trained and evaluated on.
"""

import argparse
import sys

from libra_tf.cli import program, quiet


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: of the command line; None for those of this process.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m libra_tf.runner.rpn_proposals",
        description="Writes what the RPN of a trained detector proposes for its images.",
    )
    parser.add_argument("folder", help="where to make the folders train and val")
    parser.add_argument("--model_dir", required=True, help="folder of the trained detector")
    parser.add_argument("--num_proposals", type=int, default=2000, help="the most for an image")
    parsed = parser.parse_args(arguments)
    return program.exit_status(lambda: _write(parsed))


def _write(parsed: argparse.Namespace) -> None:
    quiet.silence_libraries()
    # Imported here because it takes about 15 s: --help and bad flags are answered at once.
    from libra_tf.inference import rpn_proposals

    rpn_proposals.write_proposals(parsed.model_dir, parsed.folder, parsed.num_proposals)


if __name__ == "__main__":
    sys.exit(main())
