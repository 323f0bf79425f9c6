"""Imports checkpoints of MMDetection: RetinaNet and Faster R-CNN, Libra or not.

    python -m libra_tf.checkpoints.mmdet CHECKPOINT.pth --model_dir=runs/imported

writes the folder of a run, on which run.py (evaluation, fine-tuning) and export/ work as on any
other. With a ResNet or ResNeXt of torchvision it writes a checkpoint of the backbone for
`task.init_checkpoint`. docs/mmdet.md says how to go on, and how the detectors differ from Model
Garden's.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from libra_tf.cli import program, quiet
from libra_tf.cli.errors import UsageError

if TYPE_CHECKING:
    from official.core import config_definitions as cfg

    from libra_tf.checkpoints.structure import Detector
    from libra_tf.checkpoints.torch_file import TorchFile
    from libra_tf.compat import keras


@dataclasses.dataclass(frozen=True)
class Imported:
    """A detector of MMDetection in TensorFlow.

    Attributes:
      detector: its structure.
      config_source: where MMDetection's config of it is from, for people.
      overrides: what it changes in the config of its kind of experiment.
      params: config of an experiment with this detector.
      model: the Keras model with the weights.
      category_ids: the category ids of MMDetection's labels, in their order.
      class_names: by category id; a class without a name is called by its number.
    """

    detector: "Detector"
    config_source: str
    overrides: dict[str, Any]
    params: "cfg.ExperimentConfig"
    model: "keras.Model"
    category_ids: Sequence[int]
    class_names: dict[int, str]


def load(path: str, config: str | None = None) -> "keras.Model":
    """Returns the detector of a checkpoint as a Keras model with its weights.

    Args:
      path: checkpoint of MMDetection 2 or 3.
      config: path of its complete config; None for the one in the checkpoint or in
        `NAME_config.txt` beside it. Without one, the test settings are the published models'.

    Returns:
      A model that is called as Model Garden's: `model(images, image_shape=..., training=False)`,
      with normalised RGB images `[B, height, width, 3]` of any size.

    Raises:
      UsageError: if it cannot be imported.
    """
    return import_detector(path, config).model


def import_detector(path: str, config: str | None = None) -> Imported:
    """Imports a detector; see `load`.

    Raises:
      UsageError: if it cannot be imported.
    """
    from libra_tf.checkpoints import structure, torch_file

    file = torch_file.read(path)
    if structure.is_backbone(file.weights):
        raise UsageError(
            f"{path} holds a backbone alone, not a detector; convert it with --model_dir=DIR and "
            "train with task.init_checkpoint=DIR"
        )
    return _import_detector(file, config)


def _import_detector(
    file: "TorchFile", config_file: str | None, num_proposals: int | None = None
) -> Imported:
    """Imports a detector, with another number of test proposals than the published 1000."""
    from official.core import task_factory

    from libra_tf.checkpoints import categories, experiment, mmdet_config, structure, weights

    detector = structure.infer_detector(file.path, file.weights)
    names = categories.read_names(file.meta)
    if names and len(names) != detector.num_labels:
        raise UsageError(
            f"{file.path} has weights of {detector.num_labels} classes, but the names of "
            f"{len(names)}"
        )
    category_ids = categories.assign_ids(names, detector.num_labels)
    config, source = mmdet_config.find(file.path, file.meta, config_file)
    mmdet_config.check_version(file.path, file.meta, config, detector)
    model_changes = mmdet_config.overrides(file.path, config, detector)
    if num_proposals and detector.kind == "fasterrcnn":
        counts = {"test_pre_nms_top_k": num_proposals, "test_num_proposals": num_proposals}
        model_changes["roi_generator"] = {**counts, **model_changes.get("roi_generator", {})}
    changes = experiment.overrides(file.path, detector, model_changes)
    params = experiment.build(detector, changes, num_classes=max(category_ids) + 1)
    model = task_factory.get_task(params.task).build_model()
    weights.load_detector(file.path, file.weights, detector, model, category_ids)
    names = names or list(map(str, category_ids))
    class_names = dict(zip(category_ids, names, strict=True))
    return Imported(detector, source, changes, params, model, category_ids, class_names)


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
    print("importing TensorFlow and Model Garden (about 15 s) ...", flush=True)
    quiet.silence_libraries()
    # Imported here because it takes that long: --help and bad flags are answered at once.
    from libra_tf.checkpoints import run_folder, structure, torch_file, verify

    if flags.model_dir:
        run_folder.check_free(flags.model_dir)
    numbers = {path: verify.read(path) for path in flags.verify}
    file = torch_file.read(flags.checkpoint)
    if structure.is_backbone(file.weights):
        if not flags.model_dir:
            raise UsageError(f"{file.path} holds a backbone alone, of which there is no --verify")
        print(run_folder.write_backbone(flags.model_dir, file))
        return 0
    imported = _import_detector(file, flags.config)
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
        if count and count != _num_proposals(imported):
            imported = _import_detector(file, flags.config, num_proposals=count)
        comparisons = list(verify.compare(imported.model, values, imported.category_ids))
        print(verify.table(path, comparisons))
        is_right &= all(comparison.is_within for comparison in comparisons)
    return 0 if is_right else 1


def _num_proposals(imported: Imported) -> int | None:
    model = imported.params.task.model
    return model.roi_generator.test_num_proposals if "roi_generator" in model else None


if __name__ == "__main__":
    # Read when TensorFlow is imported; what goes wrong is raised as a Python error as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
