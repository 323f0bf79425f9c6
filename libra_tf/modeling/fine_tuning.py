"""Starts a detector from the weights of another one, as far as they fit.

Model Garden restores a checkpoint only into a model that is built like the one in it. Here each
part of a detector (`backbone`, `decoder`, `head`, ...) is matched by itself, so that a detector may
have other classes, another decoder or more heads.

Within a part, weights are matched by the names of their layers, such as `lateral_4` or
`classnet-conv-norm_3_0`, which say what a layer is. A part with layers that only have the numbers
that Keras gives them, as a backbone has, is matched by the order of its layers, and only if they
agree in all names and shapes: a layer more or less shifts all that follow, and a weight in the
wrong place often has the right shape. So is a pyramid that an older Model Garden has saved.

What is loaded are the weights themselves. The averages of them that Model Garden's `ema` and
`swa` and `moving_average` of TensorFlow Addons keep beside the weights are left alone.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg
from tensorflow.core.protobuf import trackable_object_graph_pb2

from libra_tf.compat import keras
from libra_tf.modeling import checkpoint_files
from libra_tf.modeling.checkpoint_files import CheckpointError

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NOT_IN_CHECKPOINT = "not in the checkpoint"
# What Model Garden's trainer saves beside the parts of the model.
_TRAINING_STATE = ("optimizer", "global_step", "save_counter")
_MAX_LISTED = 6


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of each weight, by names such as `head/classnet-conv_0/kernel`.

    Attributes:
      checkpoint: the checkpoint that was read.
      loaded: weights of the model that were loaded.
      kept: weights of the model that keep their initial values, each with the reason.
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
            line += f"; {len(self.kept)} keep their initial values: {_listed(self._kept_layers())}"
        if self.unused:
            line += f"; {len(self.unused)} in the checkpoint have no place in the model"
        return line

    def details(self) -> str:
        """Returns the summary and a line for every weight that was not loaded or not used."""
        lines = [self.summary()]
        lines += [f"  keeps its initial value: {name}: {why}" for name, why in self.kept.items()]
        lines += [f"  has no place in the model: {name}" for name in self.unused]
        return "\n".join(lines)

    def _kept_layers(self) -> list[str]:
        """The layers of the kept weights, or their part if nothing of it was loaded."""
        loaded_parts = {_part_of(name) for name in self.loaded}
        layers = (
            os.path.dirname(name) if _part_of(name) in loaded_parts else _part_of(name)
            for name in self.kept
        )
        return list(dict.fromkeys(layers))


def _part_of(name: str) -> str:
    return name.split("/")[0]


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more (see log.txt)" if more > 0 else "")


def initialize(model: keras.Model, task: cfg.TaskConfig) -> Report | None:
    """Loads a task's `init_checkpoint` and logs what became of each weight.

    Args:
      model: the detector, changed in place.
      task: config with `init_checkpoint` and `init_checkpoint_modules`.

    Returns:
      What became of each weight, or None if the task names no checkpoint.

    Raises:
      CheckpointError: if the checkpoint cannot be read or nothing in it fits.
    """
    if not task.init_checkpoint:
        return None
    report = load(model, task.init_checkpoint, task.init_checkpoint_modules)
    logging.info(report.details())
    return report


def load(model: keras.Model, path: str, modules: str | Iterable[str] = "all") -> Report:
    """Loads what fits of a checkpoint into a detector.

    The checkpoint is that of a Libra or Model Garden run, or has a backbone alone. A weight is
    loaded if the checkpoint has its counterpart in the same shape. With another number of classes
    all but the class layers are: the classifiers, and what predicts boxes or masks per class. With
    the same number they are loaded as well, whatever the classes.

    Args:
      model: a detector of Model Garden's, built, changed in place.
      path: a folder of checkpoints or one of them; see `checkpoint_files.find`.
      modules: `all`, or which of the parts `backbone` and `decoder` to load.

    Returns:
      What became of each weight.

    Raises:
      CheckpointError: if the checkpoint cannot be read or nothing in it fits. The model is left as
        it was.
    """
    checkpoint = _Checkpoint(checkpoint_files.find(path))
    matches = {}
    for part in _parts(model):
        if _is_wanted(part.name, modules):
            matches.update(_match_part(part, checkpoint.weights(part.path)))
    fitting = {name: match for name, match in matches.items() if match.reason is None}
    kept = {name: match.reason for name, match in matches.items() if match.reason is not None}
    if not fitting:
        raise CheckpointError(
            f"nothing in {checkpoint.path} fits {', '.join(dict.fromkeys(map(_part_of, kept)))} of "
            f"this model; for example, {' is '.join(next(iter(kept.items())))}. Name a checkpoint "
            "of a detector built alike, or null to start without one"
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


def _is_wanted(part: str, modules: str | Iterable[str]) -> bool:
    names = [modules] if isinstance(modules, str) else modules
    return "all" in names or part in names


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A weight of the model or of the checkpoint.

    Attributes:
      name: Keras' name of the variable, such as `retina_net_head/scores/kernel`.
      shape: its shape.
      handle: the variable, or the key of the tensor in the checkpoint.
    """

    name: str
    shape: tuple[int, ...]
    handle: Any

    @property
    def tail(self) -> str:
        """The name of its layer and its own, such as `scores/kernel`."""
        return "/".join(self.name.split("/")[-2:])


# By path below the part, such as `("layer_with_weights-3", "kernel")`.
_Weights = dict[tuple[str, ...], _Weight]


@dataclasses.dataclass(frozen=True)
class _Match:
    """A weight of the model, its counterpart, and why that cannot be loaded, if it cannot."""

    weight: _Weight
    saved: _Weight | None
    reason: str | None


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a detector: its name for people, its path in a checkpoint, and the layer."""

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


class _Checkpoint:
    """The weights of the detector, or of the backbone, that a checkpoint holds.

    Args:
      path: the common start of its files.

    Raises:
      CheckpointError: if it cannot be read or does not say what its tensors are.
    """

    def __init__(self, path: str):
        self.path = path
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        with checkpoint_files.reading(path):
            self._reader = tf.train.load_checkpoint(path)
            self._shapes = self._reader.get_variable_to_shape_map()
            if _OBJECT_GRAPH in self._shapes:
                graph.ParseFromString(self._reader.get_tensor(_OBJECT_GRAPH))
        if not graph.nodes:
            raise CheckpointError(
                f"{path} does not say which layers its tensors belong to, as checkpoints of "
                "TensorFlow 1 do not; name one that tf.train.Checkpoint has written"
            )
        self._nodes = list(graph.nodes)
        self._root = self._nodes[0]
        children = self._children(self._root)
        if "backbone" not in children and "model" in children:
            self._root = children["model"]

    def weights(self, path: tuple[str, ...]) -> _Weights:
        """Returns the weights of a part, none if the checkpoint does not have it."""
        node = self._root
        for name in path:
            children = self._children(node)
            # Model Garden's models track some of their parts by a private name.
            node = children.get(name, children.get(f"_{name}"))
            if node is None:
                return {}
        return _collect(node, self._children, self._weight)

    def unused(self, used: set[str], modules: str | Iterable[str]) -> tuple[str, ...]:
        """Returns the names of the weights whose keys are not in `used`."""
        names = {}
        # The parts come before the model as a whole, of which they are parts again.
        for name in sorted(self._children(self._root), key=lambda name: name == "model"):
            if name not in _TRAINING_STATE and _is_wanted(name.lstrip("_"), modules):
                weights = self.weights((name,))
                for path, readable in _readable_names(name.lstrip("_"), weights).items():
                    names.setdefault(weights[path].handle, readable)
        return tuple(name for key, name in names.items() if key not in used)

    def read(self, keys: Iterable[str]) -> list[Any]:
        """Returns the tensors of the keys."""
        with checkpoint_files.reading(self.path):
            return [self._reader.get_tensor(key) for key in keys]

    def _children(self, node: Any) -> dict[str, Any]:
        return {child.local_name: self._nodes[child.node_id] for child in node.children}

    def _weight(self, node: Any) -> _Weight | None:
        for attribute in node.attributes:
            if attribute.name == "VARIABLE_VALUE":
                key = attribute.checkpoint_key
                return _Weight(attribute.full_name, tuple(self._shapes[key]), key)
        return None


def _model_weights(layer: keras.layers.Layer) -> _Weights:
    return _collect(layer, tf.train.TrackableView.children, _model_weight)


def _model_weight(node: Any) -> _Weight | None:
    if not isinstance(node, tf.Variable):
        return None
    return _Weight(node.name.split(":")[0], tuple(node.shape), node)


def _collect(
    root: Any,
    children: Callable[[Any], Mapping[str, Any]],
    weight: Callable[[Any], _Weight | None],
) -> _Weights:
    """Returns the weights below a node of an object graph, each by its shortest path.

    Args:
      root: the node, of a model or of a checkpoint.
      children: returns the nodes that a node refers to, by name.
      weight: returns the weight that a node is, if it is one.
    """
    weights = {}
    # Keeps the nodes as well: some are made when asked for, and an id is used again.
    seen = {id(root): root}
    queue = collections.deque([((), root)])
    while queue:
        path, node = queue.popleft()
        found = weight(node)
        if found:
            weights[path] = found
            continue
        for name, child in children(node).items():
            # Another name of a layer that has weights, or of one that has none.
            if re.fullmatch(r"layer-\d+", name) or id(child) in seen:
                continue
            seen[id(child)] = child
            queue.append(((*path, name), child))
    return weights


def _match_part(part: _Part, saved: _Weights) -> dict[str, _Match]:
    """Returns the match of each weight of a part by its readable name."""
    weights = _model_weights(part.layer)
    difference = None
    if _are_named(part.layer, weights, saved):
        counterparts = _match_by_name(weights, saved)
    else:
        difference = _first_difference(weights, saved)
        counterparts = {} if difference else _match_by_order(weights, saved)
    return {
        name: _match(weights[path], counterparts.get(path), difference)
        for path, name in _readable_names(part.name, weights).items()
    }


def _match(weight: _Weight, saved: _Weight | None, difference: str | None) -> _Match:
    if saved is None:
        reason = f"built differently: {difference}" if difference else _NOT_IN_CHECKPOINT
    elif saved.shape != weight.shape:
        reason = _compare(weight, saved)
    else:
        reason = None
    return _Match(weight, saved, reason)


def _compare(weight: _Weight | None, saved: _Weight | None) -> str:
    ours, theirs = (list(item.shape) if item else "missing" for item in (weight, saved))
    return f"{theirs} in the checkpoint, {ours} in the model"


def _are_named(layer: keras.layers.Layer, weights: _Weights, saved: _Weights) -> bool:
    """Whether all layers have names of their own, and the checkpoint has some of these names."""
    tails = [weight.tail for weight in weights.values()]
    classes = {type(sublayer).__name__.lower() for sublayer in (layer, *layer.submodules)}
    is_numbered = any(_class_name(os.path.dirname(tail)) in classes for tail in tails)
    is_unique = len(set(tails)) == len(tails)
    return is_unique and not is_numbered and any(w.tail in tails for w in saved.values())


def _class_name(layer_name: str) -> str:
    """The class, in lower case, of a layer that Keras has named: `conv2d_12`, `re_lu`."""
    return re.sub(r"_\d+$", "", layer_name).replace("_", "")


def _match_by_name(weights: _Weights, saved: _Weights) -> _Weights:
    count = collections.Counter(weight.tail for weight in saved.values())
    by_tail = {weight.tail: weight for weight in saved.values() if count[weight.tail] == 1}
    return {
        path: by_tail[weight.tail] for path, weight in weights.items() if weight.tail in by_tail
    }


def _match_by_order(weights: _Weights, saved: _Weights) -> _Weights:
    theirs = _places(saved)
    return {
        path: saved[theirs[place]] for place, path in _places(weights).items() if place in theirs
    }


def _first_difference(weights: _Weights, saved: _Weights) -> str | None:
    """Describes the first weight that differs in the layers that both have, if there is one."""
    ours, theirs = _places(weights), _places(saved)
    num_layers = min(len({layer for layer, _ in places}) for places in (ours, theirs))
    for place in sorted({*ours, *theirs}):
        weight, counterpart = weights.get(ours.get(place)), saved.get(theirs.get(place))
        is_same = weight and counterpart and weight.shape == counterpart.shape
        if place[0] < num_layers and not is_same:
            return f"{(weight or counterpart).name} is {_compare(weight, counterpart)}"
    return None


def _places(weights: _Weights) -> dict[tuple[int, tuple[str, ...]], tuple[str, ...]]:
    """Returns the paths by number of the layer and path below it; nested models are unrolled."""
    split = {path: _split(path) for path in weights}
    numbers = {index: number for number, index in enumerate(sorted({i for i, _ in split.values()}))}
    return {(numbers[index], below): path for path, (index, below) in split.items()}


def _split(path: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Splits a path into the indices of the layer in its nested models and the path below it."""
    index = []
    for name in path:
        if not name.startswith("layer_with_weights-"):
            break
        index.append(int(name.rsplit("-", 1)[1]))
    return tuple(index), path[len(index) :]


def _readable_names(part: str, weights: _Weights) -> dict[tuple[str, ...], str]:
    """Returns the part and Keras' names without the layers that hold all others, or the paths."""
    names = {path: tuple(weight.name.split("/")) for path, weight in weights.items()}
    while len({name[0] for name in names.values()}) == 1 and min(map(len, names.values())) > 2:
        names = {path: name[1:] for path, name in names.items()}
    if len(set(names.values())) < len(names):
        names = {path: path for path in weights}
    return {path: "/".join((part, *name)) for path, name in names.items()}
