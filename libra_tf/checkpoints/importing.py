"""Imports a detector of MMDetection as a Keras model with its weights, and as an experiment."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from official.core import config_definitions as cfg
from official.core import task_factory

from libra_tf.checkpoints import (
    categories,
    experiment,
    mmdet_config,
    structure,
    torch_file,
    weights,
)
from libra_tf.checkpoints.structure import Detector
from libra_tf.checkpoints.torch_file import TorchFile
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras


@dataclasses.dataclass(frozen=True)
class Imported:
    """A detector of MMDetection, imported into TensorFlow.

    Attributes:
      detector: its structure.
      config_source: where its MMDetection config was found, for display.
      overrides: the settings that it overrides in the config of its experiment.
      params: config of an experiment with this detector.
      model: the Keras model with the weights.
      category_ids: the category ids of MMDetection's labels, in the order of the labels.
      class_names: category id -> class name; a class without a name is called by its id.
    """

    detector: Detector
    config_source: str
    overrides: dict[str, Any]
    params: cfg.ExperimentConfig
    model: keras.Model
    category_ids: Sequence[int]
    class_names: dict[int, str]

    @property
    def num_proposals(self) -> int | None:
        """The number of proposals that inference keeps; None for a one-stage detector."""
        model = self.params.task.model
        return model.roi_generator.test_num_proposals if "roi_generator" in model else None


def load(path: str, config: str | None = None) -> keras.Model:
    """Returns the detector of a checkpoint as a Keras model with its weights.

    Args:
      path: a checkpoint of MMDetection 2 or 3.
      config: path of its complete config; None for the one in the checkpoint or in
        `NAME_config.txt` beside it. If there is none, the published models' test settings are used.

    Returns:
      A model to call like Model Garden's: `model(images, image_shape=..., training=False)`, with
      normalised RGB images `[B, height, width, 3]` of any size.

    Raises:
      UsageError: if the checkpoint cannot be imported.
    """
    return import_detector(path, config).model


def import_detector(path: str, config: str | None = None) -> Imported:
    """Imports a detector with its structure and config.

    Args:
      path: see `load`.
      config: see `load`.

    Raises:
      UsageError: if the checkpoint cannot be imported.
    """
    file = torch_file.read(path)
    if structure.is_backbone(file.weights):
        raise UsageError(
            f"{path} holds only a backbone, not a detector; convert it with --model_dir=DIR and "
            "train with task.init_checkpoint=DIR"
        )
    return import_from(file, config)


def import_from(
    file: TorchFile, config_file: str | None, num_proposals: int | None = None
) -> Imported:
    """Imports the detector in a file that has already been read.

    Args:
      file: its weights and metadata.
      config_file: see `load`.
      num_proposals: how many proposals a two-stage detector keeps in inference, unless a config
        says so; None for the published 1000.

    Raises:
      UsageError: if the detector cannot be imported.
    """
    detector = structure.infer_detector(file.path, file.weights)
    names = categories.read_names(file.meta)
    if names and len(names) != detector.num_labels:
        raise UsageError(
            f"{file.path} has weights for {detector.num_labels} classes, but names for "
            f"{len(names)}; save it with the names of all its classes, or without any"
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
