"""A detector of MMDetection as a Keras model with its weights, and as an experiment."""

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

    detector: Detector
    config_source: str
    overrides: dict[str, Any]
    params: cfg.ExperimentConfig
    model: keras.Model
    category_ids: Sequence[int]
    class_names: dict[int, str]

    @property
    def num_proposals(self) -> int | None:
        """How many proposals are kept in tests; None for a detector of one stage."""
        model = self.params.task.model
        return model.roi_generator.test_num_proposals if "roi_generator" in model else None


def load(path: str, config: str | None = None) -> keras.Model:
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
    file = torch_file.read(path)
    if structure.is_backbone(file.weights):
        raise UsageError(
            f"{path} holds a backbone alone, not a detector; convert it with --model_dir=DIR and "
            "train with task.init_checkpoint=DIR"
        )
    return import_from(file, config)


def import_from(
    file: TorchFile, config_file: str | None, num_proposals: int | None = None
) -> Imported:
    """Imports the detector in a file that was read already.

    Args:
      file: its weights and what it says about itself.
      config_file: see `load`.
      num_proposals: how many proposals a two-stage detector keeps in tests, where no config says;
        None for the published 1000.

    Raises:
      UsageError: if it cannot be imported.
    """
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
