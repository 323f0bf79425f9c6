"""Matches the weights of a checkpoint with those of a detector.

Weights are matched by the names of their layers if these say what a layer is, such as `lateral_4`
or `classnet-conv-norm_3_0`. The layers of some parts, such as backbones, only have the numbers that
Keras gives them. Such a part is matched by the order of its layers, and only if all names and
shapes agree: one layer more or less shifts all that follow, and a weight in the wrong place often
has the right shape. Pyramids saved by older Model Gardens are matched by order, too.
"""

import collections
import dataclasses
import os
import re

from libra_tf.compat import keras
from libra_tf.initial_weights.checkpoint_graph import Weight, Weights, model_weights, readable_names

_NOT_IN_CHECKPOINT = "not in the checkpoint"


@dataclasses.dataclass(frozen=True)
class Match:
    """A weight of the model and its counterpart in the checkpoint.

    Attributes:
      weight: the weight of the model.
      saved: its counterpart; None if there is none.
      reason: why it cannot be loaded; None if it can.
    """

    weight: Weight
    saved: Weight | None
    reason: str | None


def match_part(name: str, layer: keras.layers.Layer, saved: Weights) -> dict[str, Match]:
    """Matches the weights of a part of a detector.

    Args:
      name: name of the part, for display.
      layer: the part.
      saved: the checkpoint's weights of the part.

    Returns:
      Readable name of each weight, such as `head/classnet-conv_0/kernel` -> its match.
    """
    weights = model_weights(layer)
    difference = None
    if _are_named(layer, weights, saved):
        counterparts = _match_by_name(weights, saved)
    else:
        difference = _first_difference(weights, saved)
        counterparts = {} if difference else _match_by_order(weights, saved)
    return {
        readable: _match(weights[path], counterparts.get(path), difference)
        for path, readable in readable_names(name, weights).items()
    }


def _match(weight: Weight, saved: Weight | None, difference: str | None) -> Match:
    if saved is None:
        reason = f"built differently: {difference}" if difference else _NOT_IN_CHECKPOINT
    elif saved.shape != weight.shape:
        reason = _compare(weight, saved)
    else:
        reason = None
    return Match(weight, saved, reason)


def _compare(weight: Weight | None, saved: Weight | None) -> str:
    """Describes how the shapes differ."""
    ours, theirs = (list(item.shape) if item else "missing" for item in (weight, saved))
    return f"{theirs} in the checkpoint, {ours} in the model"


def _are_named(layer: keras.layers.Layer, weights: Weights, saved: Weights) -> bool:
    """Returns whether all layers have descriptive names, and the checkpoint has some of these."""
    tails = [weight.tail for weight in weights.values()]
    classes = {type(sublayer).__name__.lower() for sublayer in (layer, *layer.submodules)}
    is_numbered = any(_class_name(os.path.dirname(tail)) in classes for tail in tails)
    is_unique = len(set(tails)) == len(tails)
    return is_unique and not is_numbered and any(w.tail in tails for w in saved.values())


def _class_name(layer_name: str) -> str:
    """Returns the lower-case class in a name that Keras chose: `conv2d_12`, `re_lu`."""
    return re.sub(r"_\d+$", "", layer_name).replace("_", "")


def _match_by_name(weights: Weights, saved: Weights) -> Weights:
    count = collections.Counter(weight.tail for weight in saved.values())
    by_tail = {weight.tail: weight for weight in saved.values() if count[weight.tail] == 1}
    return {
        path: by_tail[weight.tail] for path, weight in weights.items() if weight.tail in by_tail
    }


def _match_by_order(weights: Weights, saved: Weights) -> Weights:
    theirs = _places(saved)
    return {
        path: saved[theirs[place]] for place, path in _places(weights).items() if place in theirs
    }


def _first_difference(weights: Weights, saved: Weights) -> str | None:
    """Describes the first difference within the layers that both have; None without one."""
    ours, theirs = _places(weights), _places(saved)
    num_layers = min(len({layer for layer, _ in places}) for places in (ours, theirs))
    for place in sorted({*ours, *theirs}):
        weight, counterpart = weights.get(ours.get(place)), saved.get(theirs.get(place))
        is_same = weight and counterpart and weight.shape == counterpart.shape
        if place[0] < num_layers and not is_same:
            return f"{(weight or counterpart).name} is {_compare(weight, counterpart)}"
    return None


def _places(weights: Weights) -> dict[tuple[int, tuple[str, ...]], tuple[str, ...]]:
    """Returns the paths by layer number and path below the layer; nested models are flattened."""
    split = {path: _split(path) for path in weights}
    numbers = {index: number for number, index in enumerate(sorted({i for i, _ in split.values()}))}
    return {(numbers[index], below): path for path, (index, below) in split.items()}


def _split(path: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Splits a path into the layer's indices in its nested models and the path below it."""
    index = []
    for name in path:
        if not name.startswith("layer_with_weights-"):
            break
        index.append(int(name.rsplit("-", 1)[1]))
    return tuple(index), path[len(index) :]
