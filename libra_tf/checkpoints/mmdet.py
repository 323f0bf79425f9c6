"""Imports checkpoints of MMDetection: RetinaNet and Faster R-CNN, Libra or not.

    python -m libra_tf.checkpoints.mmdet CHECKPOINT.pth --model_dir=runs/imported

writes the folder of a run, which run.py (evaluation, fine-tuning) and export/ take like any other.
Given a ResNet or ResNeXt of torchvision, it writes a checkpoint of the backbone for
`task.init_checkpoint`. docs/mmdet.md describes the next steps, and how the detectors differ from
Model Garden's.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from libra_tf.cli import outputs, program
from libra_tf.cli.errors import UsageError

_PROGRAM = "python -m libra_tf.checkpoints.mmdet"


def main(arguments: Sequence[str] | None = None, program_name: str = _PROGRAM) -> int:
    """Runs the command; returns its exit status.

    Args:
      arguments: the command line without the program's name; None for that of this process.
      program_name: what the help calls the program.
    """
    parser = argparse.ArgumentParser(
        prog=program_name,
        description=__doc__.split("\n\n")[0],
        epilog="For details see docs/mmdet.md.",
    )
    parser.add_argument(
        "checkpoint", help="a .pth file of MMDetection 2 or 3, or of a torchvision backbone"
    )
    parser.add_argument("--model_dir", help="folder of the run to write; must be new or empty")
    parser.add_argument(
        "--config",
        help="complete config of MMDetection. Default: the one in the checkpoint or in "
        "NAME_config.txt beside it; if there is none, the published test settings",
    )
    parser.add_argument(
        "--verify",
        nargs="+",
        default=[],
        metavar="FILE.npz",
        help="compare every stage with MMDetection's numbers in these files, and exit with status "
        "1 if one is out of tolerance",
    )
    flags = parser.parse_args(arguments)
    if not flags.model_dir and not flags.verify:
        parser.error("nothing to do: give --model_dir=DIR, --verify FILE.npz, or both")
    return program.exit_status(lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    if not os.path.exists(flags.checkpoint):
        raise UsageError(
            f"{flags.checkpoint}: there is no such file; name a PyTorch checkpoint (.pth)"
        )
    if flags.model_dir:
        outputs.require_new_folder("--model_dir", flags.model_dir)
    if flags.verify:
        # Without it, TensorFlow's convolutions round differently from PyTorch's on many a CPU.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    program.before_tensorflow()
    # Imported here, so that --help and flag errors do not take that long.
    from libra_tf.checkpoints import (
        importing,
        run_folder,
        structure,
        torch_file,
        verify,
        verify_training,
    )

    numbers = {path: verify.read(path) for path in flags.verify}
    file = torch_file.read(flags.checkpoint)
    if structure.is_backbone(file.weights):
        unused = [f"--{name}" for name in ("verify", "config") if getattr(flags, name)]
        if unused:
            raise UsageError(
                f"{file.path} holds only a backbone, but {unused[0]} is for a detector; leave it "
                "out, and give --model_dir=DIR to convert the backbone"
            )
        print(run_folder.write_backbone(flags.model_dir, file))
        return 0
    imported = importing.import_from(file, flags.config)
    print(f"{file.path}: {imported.detector}; {len(file.weights)} tensors, all used")
    print(f"its config:   {imported.config_source}")
    for path, values in numbers.items():
        if verify_training.is_training(values):
            verify_training.check(path, values, imported)
        else:
            verify.check(path, values, imported.model)
    if flags.model_dir:
        print(run_folder.write(flags.model_dir, imported))
    is_right = True
    for path, values in numbers.items():
        # If no config gives the number of proposals, use the number in the file.
        count = len(values.get("proposals", ()))
        if count and count != imported.num_proposals:
            imported = importing.import_from(file, flags.config, num_proposals=count)
        if verify_training.is_training(values):
            comparisons = list(verify_training.compare(imported, values))
        else:
            comparisons = list(verify.compare(imported.model, values, imported.category_ids))
        print(verify.table(path, comparisons))
        is_right &= all(comparison.is_within for comparison in comparisons)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
