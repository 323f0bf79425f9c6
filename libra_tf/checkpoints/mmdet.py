"""Imports checkpoints of MMDetection: RetinaNet and Faster R-CNN, Libra or not.

    python -m libra_tf.checkpoints.mmdet CHECKPOINT.pth --model_dir=runs/imported

writes the folder of a run, on which run.py (evaluation, fine-tuning) and export/ work as on any
other. With a ResNet or ResNeXt of torchvision it writes a checkpoint of the backbone for
`task.init_checkpoint`. docs/mmdet.md says how to go on, and how the detectors differ from Model
Garden's.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from libra_tf.cli import outputs, program, quiet
from libra_tf.cli.errors import UsageError


def __getattr__(name: str) -> Any:
    """Gives `load` and `import_detector` on first use, which takes importing TensorFlow."""
    if name in ("Imported", "import_detector", "load"):
        from libra_tf.checkpoints import importing

        return getattr(importing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m libra_tf.checkpoints.mmdet",
        description=__doc__.split("\n\n")[0],
        epilog="docs/mmdet.md says more.",
    )
    parser.add_argument("checkpoint", help="a .pth file of MMDetection 2 or 3, or of a backbone")
    parser.add_argument("--model_dir", help="folder of the run to write; it must be new or empty")
    parser.add_argument(
        "--config",
        help="complete config of MMDetection. Default: the one in the checkpoint, or in "
        "NAME_config.txt beside it; without one, the published test settings",
    )
    parser.add_argument(
        "--verify",
        nargs="+",
        default=[],
        metavar="FILE.npz",
        help="compare every stage with MMDetection's numbers in these files; the exit status is 1 "
        "if one is out of tolerance",
    )
    flags = parser.parse_args(arguments)
    if not flags.model_dir and not flags.verify:
        parser.error("say what to do: --model_dir=DIR or --verify FILE.npz, or both")
    return program.exit_status(lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    if not os.path.exists(flags.checkpoint):
        raise UsageError(
            f"{flags.checkpoint}: there is no such file; name a PyTorch checkpoint (.pth)"
        )
    if flags.model_dir:
        outputs.require_new_folder("--model_dir", flags.model_dir)
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it takes that long: --help and bad flags are answered at once.
    from libra_tf.checkpoints import importing, run_folder, structure, torch_file, verify

    numbers = {path: verify.read(path) for path in flags.verify}
    file = torch_file.read(flags.checkpoint)
    if structure.is_backbone(file.weights):
        if not flags.model_dir:
            raise UsageError(f"{file.path} holds a backbone alone, of which there is no --verify")
        print(run_folder.write_backbone(flags.model_dir, file))
        return 0
    imported = importing.import_from(file, flags.config)
    print(f"{file.path}: {imported.detector}; {len(file.weights)} tensors, all used")
    print(f"its config:   {imported.config_source}")
    for path, values in numbers.items():
        verify.check(path, values, imported.model)
    if flags.model_dir:
        print(run_folder.write(flags.model_dir, imported))
    is_right = True
    for path, values in numbers.items():
        # Where no config says how many proposals there were, those in the file do.
        count = len(values.get("proposals", ()))
        if count and count != imported.num_proposals:
            imported = importing.import_from(file, flags.config, num_proposals=count)
        comparisons = list(verify.compare(imported.model, values, imported.category_ids))
        print(verify.table(path, comparisons))
        is_right &= all(comparison.is_within for comparison in comparisons)
    return 0 if is_right else 1


if __name__ == "__main__":
    # Read when TensorFlow is imported; what goes wrong is raised as a Python error as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
