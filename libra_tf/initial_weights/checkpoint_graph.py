"""The weights of a detector and of a checkpoint, each by its path in the object graph."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from libra_tf.compat import keras
from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# What Model Garden's trainer saves along with the parts of the model.
_TRAINING_STATE = ("optimizer", "global_step", "save_counter")


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight of the model or of the checkpoint.

    Attributes:
      name: Keras' name of the variable, such as `retina_net_head/scores/kernel`.
      shape: its shape.
      handle: the model's variable, or the key of the checkpoint's tensor.
    """

    name: str
    shape: tuple[int, ...]
    handle: Any

    @property
    def tail(self) -> str:
        """The last two parts of the name, layer and weight, such as `scores/kernel`."""
        return "/".join(self.name.split("/")[-2:])


# Path below a part of the detector, such as `("layer_with_weights-3", "kernel")` -> the weight.
Weights = dict[tuple[str, ...], Weight]


class Checkpoint:
    """The weights of a detector, or of a backbone alone, in a checkpoint.

    Args:
      path: its path prefix.

    Raises:
      CheckpointError: if the checkpoint cannot be read or has no object graph.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        with checkpoint_files.reading(path):
            self._reader = tf.train.load_checkpoint(path)
            self._shapes = self._reader.get_variable_to_shape_map()
            if _OBJECT_GRAPH in self._shapes:
                graph.ParseFromString(self._reader.get_tensor(_OBJECT_GRAPH))
        if not graph.nodes:
            raise CheckpointError(
                f"{path} does not record which layers its tensors belong to, as is usual for "
                "checkpoints of TensorFlow 1; name one that tf.train.Checkpoint wrote"
            )
        self._nodes = list(graph.nodes)
        self._root = self._nodes[0]
        children = self._children(self._root)
        if "backbone" not in children and "model" in children:
            self._root = children["model"]

    def weights(self, path: tuple[str, ...]) -> Weights:
        """Returns the weights of a part; none if the checkpoint does not have it.

        Args:
          path: names that lead to the part in the object graph, such as `("head",)`.
        """
        node = self._root
        for name in path:
            children = self._children(node)
            # Model Garden's models track some of their parts by a private name.
            node = children.get(name, children.get(f"_{name}"))
            if node is None:
                return {}
        return _collect(node, self._children, self._weight)

    def unused(self, used: set[str], modules: str | Iterable[str]) -> tuple[str, ...]:
        """Returns the readable names of the weights that were not used.

        Args:
          used: the keys of the used weights.
          modules: the parts to look in; see `is_wanted`.
        """
        names = {}
        # The parts first: the model as a whole contains them a second time.
        for name in sorted(self._children(self._root), key=lambda name: name == "model"):
            if name not in _TRAINING_STATE and is_wanted(name.lstrip("_"), modules):
                weights = self.weights((name,))
                for path, readable in readable_names(name.lstrip("_"), weights).items():
                    names.setdefault(weights[path].handle, readable)
        return tuple(name for key, name in names.items() if key not in used)

    def read(self, keys: Iterable[str]) -> list[Any]:
        """Returns the tensors that belong to the keys."""
        with checkpoint_files.reading(self.path):
            return [self._reader.get_tensor(key) for key in keys]

    def _children(self, node: Any) -> dict[str, Any]:
        return {child.local_name: self._nodes[child.node_id] for child in node.children}

    def _weight(self, node: Any) -> Weight | None:
        for attribute in node.attributes:
            if attribute.name == "VARIABLE_VALUE":
                key = attribute.checkpoint_key
                return Weight(attribute.full_name, tuple(self._shapes[key]), key)
        return None


def is_wanted(part: str, modules: str | Iterable[str]) -> bool:
    """Returns whether a part belongs to the modules, which may be or contain `all`."""
    names = [modules] if isinstance(modules, str) else modules
    return "all" in names or part in names


def model_weights(layer: keras.layers.Layer) -> Weights:
    """Returns the weights of a part of a detector."""
    return _collect(layer, tf.train.TrackableView.children, _model_weight)


def _model_weight(node: Any) -> Weight | None:
    if not isinstance(node, tf.Variable):
        return None
    return Weight(node.name.split(":")[0], tuple(node.shape), node)


def _collect(
    root: Any,
    children: Callable[[Any], Mapping[str, Any]],
    weight: Callable[[Any], Weight | None],
) -> Weights:
    """Returns the weights below a node of an object graph, each by its shortest path.

    Args:
      root: the node, of a model or of a checkpoint.
      children: returns the nodes that a node refers to, by name.
      weight: returns the weight at a node; None if there is none.
    """
    weights = {}
    # Keeps the nodes themselves, too: some are created on access, and ids can be reused.
    seen = {id(root): root}
    queue = collections.deque([((), root)])
    while queue:
        path, node = queue.popleft()
        found = weight(node)
        if found:
            weights[path] = found
            continue
        for name, child in children(node).items():
            # `layer-N` is a second name of a layer with weights, or the name of one without.
            if re.fullmatch(r"layer-\d+", name) or id(child) in seen:
                continue
            seen[id(child)] = child
            queue.append(((*path, name), child))
    return weights


def readable_names(part: str, weights: Weights) -> dict[tuple[str, ...], str]:
    """Returns names for display: the part, and Keras' names without their common outer layers.

    If these names are not unique, the paths are used instead.

    Args:
      part: the name of the part.
      weights: its weights.

    Returns:
      Path of a weight -> its name, such as `head/classnet-conv_0/kernel`.
    """
    names = {path: tuple(weight.name.split("/")) for path, weight in weights.items()}
    while len({name[0] for name in names.values()}) == 1 and min(map(len, names.values())) > 2:
        names = {path: name[1:] for path, name in names.items()}
    if len(set(names.values())) < len(names):
        names = {path: path for path in weights}
    return {path: "/".join((part, *name)) for path, name in names.items()}
