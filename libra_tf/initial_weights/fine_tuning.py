"""Initialises a detector with the weights of another one, as far as they fit.

Model Garden restores a checkpoint only into a model with the same structure. Here each part of a
detector (`backbone`, `decoder`, `head`, ...) is matched separately, so that a detector may have
other classes, another decoder or more heads; see `weight_matching`.

Only the weights themselves are loaded, not the averages of them that Model Garden's `ema` and `swa`
and TensorFlow Addons' `moving_average` store.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping

from absl import logging
from official.core import config_definitions as cfg

from libra_tf.cli.errors import listed
from libra_tf.compat import keras
from libra_tf.initial_weights import checkpoint_files, checkpoint_graph, weight_matching
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.initial_weights.imagenet import published
from libra_tf.initial_weights.imagenet.classifier import Classifier

_MAX_LISTED = 6


@dataclasses.dataclass(frozen=True)
class Report:
    """What happened to each weight, by names such as `head/classnet-conv_0/kernel`.

    Attributes:
      checkpoint: the checkpoint that was read.
      loaded: weights of the model that were loaded.
      kept: weights of the model that keep their initial values -> the reason.
      unused: weights of the checkpoint that have no place in the model.
    """

    checkpoint: str
    loaded: tuple[str, ...]
    kept: Mapping[str, str]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """Returns one line: how many weights were loaded, and which layers were not."""
        total = len(self.loaded) + len(self.kept)
        line = f"fine-tuning from {self.checkpoint}: {len(self.loaded)} of {total} weights loaded"
        if self.kept:
            layers = self._kept_layers()
            hint = " (see log.txt)" if len(layers) > _MAX_LISTED else ""
            named = listed(layers, _MAX_LISTED) + hint
            line += f"; {len(self.kept)} keep their initial values: {named}"
        if self.unused:
            line += f"; {len(self.unused)} in the checkpoint have no place in the model"
        return line

    def details(self) -> str:
        """Returns the summary and a line for every weight that was not loaded or used."""
        lines = [self.summary()]
        lines += [f"  keeps its initial value: {name}: {why}" for name, why in self.kept.items()]
        lines += [f"  has no place in the model: {name}" for name in self.unused]
        return "\n".join(lines)

    def _kept_layers(self) -> list[str]:
        """Returns the layers of the kept weights, or the whole part if none of it was loaded."""
        loaded_parts = {_part_of(name) for name in self.loaded}
        layers = (
            os.path.dirname(name) if _part_of(name) in loaded_parts else _part_of(name)
            for name in self.kept
        )
        return list(dict.fromkeys(layers))


def _part_of(name: str) -> str:
    return name.split("/")[0]


def check(task: cfg.TaskConfig) -> None:
    """Checks before any long work that a task's `init_checkpoint` can be read.

    Args:
      task: config with `model`, `init_checkpoint_modules` and `init_checkpoint`, which is a path or
        `imagenet`.

    Raises:
      CheckpointError: if the checkpoint cannot be read, or there are no ImageNet weights for the
        backbone.
    """
    if task.init_checkpoint == published.IMAGENET:
        _read_imagenet(task)
    else:
        checkpoint_files.check(task.init_checkpoint)


def initialize(model: keras.Model, task: cfg.TaskConfig) -> Report | None:
    """Loads a task's `init_checkpoint` and logs what happened to each weight.

    Args:
      model: the detector, changed in place.
      task: config with `init_checkpoint`, which is a path or `imagenet`, and
        `init_checkpoint_modules`.

    Returns:
      What happened to each weight; None if the task names no checkpoint.

    Raises:
      CheckpointError: if the checkpoint cannot be read or nothing in it fits.
    """
    if not task.init_checkpoint:
        return None
    if task.init_checkpoint == published.IMAGENET:
        report = _load_imagenet(model, task)
    else:
        report = load(model, task.init_checkpoint, task.init_checkpoint_modules)
    logging.info(report.details())
    return report


def load(model: keras.Model, path: str, modules: str | Iterable[str] = "all") -> Report:
    """Loads the weights of a checkpoint that fit into a detector.

    The checkpoint is one of a Libra or Model Garden run, or holds a backbone alone. A weight is
    loaded if the checkpoint has a counterpart of the same shape. If the number of classes differs,
    that is all but the class layers: the classifiers, and the layers that predict boxes or masks
    per class. If it is the same, these are loaded too, even if they are different classes.

    Args:
      model: a detector of Model Garden, already built, changed in place.
      path: a folder of checkpoints or one of them; see `checkpoint_files.find`.
      modules: `all`, or which of the parts `backbone` and `decoder` to load.

    Returns:
      What happened to each weight.

    Raises:
      CheckpointError: if the checkpoint cannot be read or nothing in it fits. The model is left
        unchanged.
    """
    checkpoint = checkpoint_graph.Checkpoint(checkpoint_files.find(path))
    matches = {}
    for part in _parts(model):
        if checkpoint_graph.is_wanted(part.name, modules):
            matches.update(
                weight_matching.match_part(part.name, part.layer, checkpoint.weights(part.path))
            )
    fitting = {name: match for name, match in matches.items() if match.reason is None}
    kept = {name: match.reason for name, match in matches.items() if match.reason is not None}
    if not fitting:
        raise CheckpointError(
            f"nothing in {checkpoint.path} fits {', '.join(dict.fromkeys(map(_part_of, kept)))} of "
            f"this model; for example, {' is '.join(next(iter(kept.items())))}. Name a checkpoint "
            "of a detector with a similar structure, or null to start without one"
        )
    values = checkpoint.read([match.saved.handle for match in fitting.values()])
    for match, value in zip(fitting.values(), values, strict=True):
        match.weight.handle.assign(value)
    used = {match.saved.handle for match in matches.values() if match.saved}
    return Report(
        checkpoint=checkpoint.path,
        loaded=tuple(fitting),
        kept=kept,
        unused=checkpoint.unused(used, modules),
    )


def _read_imagenet(task: cfg.TaskConfig) -> Classifier:
    """Returns the published weights for a task whose `init_checkpoint` is `imagenet`."""
    if not checkpoint_graph.is_wanted("backbone", task.init_checkpoint_modules):
        raise CheckpointError(
            "imagenet has weights for the backbone alone, and task.init_checkpoint_modules is "
            f"{task.init_checkpoint_modules}; set it to backbone"
        )
    return published.read(task.model)


def _load_imagenet(model: keras.Model, task: cfg.TaskConfig) -> Report:
    classifier = _read_imagenet(task)
    backbone = model.checkpoint_items["backbone"]
    classifier.put_into(backbone)
    names = checkpoint_graph.readable_names("backbone", checkpoint_graph.model_weights(backbone))
    return Report(f"{classifier.name} (ImageNet)", tuple(names.values()), kept={}, unused=())


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a detector: its name for display, its path in a checkpoint, and the layer."""

    name: str
    path: tuple[str, ...]
    layer: keras.layers.Layer


def _parts(model: keras.Model) -> list[_Part]:
    parts = []
    for name, item in model.checkpoint_items.items():
        if not isinstance(item, (list, tuple)):
            parts.append(_Part(name, (name,), item))
        elif len(item) == 1:
            parts.append(_Part(name, (name, "0"), item[0]))
        else:
            # The stages of a cascade.
            parts += [
                _Part(f"{name}[{index}]", (name, str(index)), stage)
                for index, stage in enumerate(item)
            ]
    return parts
