"""Loads the weights of a PyTorch checkpoint into a Keras model.

PyTorch's convolution kernels are `[out, in, height, width]` and Keras' `[height, width, in, out]`.
MMDetection's boxes are x, y, width, height and Model Garden's y, x, height, width. The background
is the last class of MMDetection's softmax and the first of Model Garden's.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from official.vision.modeling.layers import nn_blocks

from libra_tf.checkpoints.structure import Detector, Weights, normalize_names
from libra_tf.cli.errors import UsageError, listed
from libra_tf.compat import keras
from libra_tf.modeling.fast_rcnn import IMPOSSIBLE_LOGIT
from libra_tf.modeling.mmdetection import boxes

_CLASSIFIER = ("fc.weight", "fc.bias")
_MAX_LISTED = 5

Convert = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A weight of the checkpoint and the variable that it goes to.

    Attributes:
      name: name of the weight in the checkpoint.
      variable: variable of the model.
      convert: converts the weight to the layout of the variable.
    """

    name: str
    variable: tf.Variable
    convert: Convert

    def fitted(self, weight: np.ndarray) -> np.ndarray | None:
        """Returns a weight in the layout of the variable, None if it has not the shape for it.

        Args:
          weight: as it is in the checkpoint.
        """
        try:
            value = self.convert(weight)
        # The shape is so different that the weight cannot even be rearranged.
        except (ValueError, IndexError):
            return None
        return value if value.shape == tuple(self.variable.shape) else None


def load_detector(
    path: str,
    weights: Weights,
    detector: Detector,
    model: keras.Model,
    category_ids: Sequence[int],
) -> None:
    """Loads all weights of a detector into its model.

    Args:
      path: path of the file, for messages.
      weights: weights by name.
      detector: the structure of the detector.
      model: Model Garden's detector of the same structure, changed in place.
      category_ids: the category ids of the checkpoint's classes, in the checkpoint's order.

    Raises:
      UsageError: if a weight on either side is left over, or shapes differ.
    """
    assignments = detector_assignments(detector, model, category_ids)
    parts = model.checkpoint_items.values()
    variables = [variable for part in tf.nest.flatten(list(parts)) for variable in part.variables]
    _assign(path, normalize_names(weights), assignments, variables)


def detector_assignments(
    detector: Detector, model: keras.Model, category_ids: Sequence[int]
) -> list[Assignment]:
    """Returns which weight of a checkpoint belongs to which variable of a detector.

    Args:
      detector: as in `load_detector`.
      model: as in `load_detector`.
      category_ids: as in `load_detector`.
    """
    head = _retinanet_head if detector.kind == "retinanet" else _fasterrcnn_heads
    return [
        *_backbone(model.backbone, "backbone."),
        *_decoder(model.decoder, detector),
        *head(model, detector, category_ids),
    ]


def load_backbone(path: str, weights: Weights, backbone: keras.Model) -> None:
    """Loads all weights of a backbone, except its classifier's, into its model.

    Args:
      path: path of the file, for messages.
      weights: weights by name, as in torchvision.
      backbone: a ResNet or ResNeXt of the same structure, changed in place.

    Raises:
      UsageError: if a weight on either side is left over, or shapes differ.
    """
    weights = {name: value for name, value in weights.items() if name not in _CLASSIFIER}
    _assign(path, normalize_names(weights), list(_backbone(backbone, "")), backbone.variables)


def _assign(
    path: str,
    weights: Weights,
    assignments: Sequence[Assignment],
    variables: Sequence[tf.Variable],
) -> None:
    """Assigns all weights, or none."""
    by_name = {assignment.name: assignment for assignment in assignments}
    assigned = {id(assignment.variable) for assignment in assignments}
    missing = [name for name in by_name if name not in weights]
    unused = [name for name in weights if name not in by_name]
    unset = [variable.name for variable in variables if id(variable) not in assigned]
    problems = {
        "the checkpoint lacks": missing,
        "the model has no place for": unused,
        "the checkpoint does not set": unset,
    }
    lines = [f"{what} {listed(names, _MAX_LISTED)}" for what, names in problems.items() if names]
    if lines:
        raise UsageError(
            f"{path} does not fit the detector that its weights suggest: {'; '.join(lines)}; name "
            "another checkpoint"
        )
    values = {
        name: _converted(path, weights[name], assignment) for name, assignment in by_name.items()
    }
    for name, assignment in by_name.items():
        assignment.variable.assign(values[name])


def _converted(path: str, weight: np.ndarray, assignment: Assignment) -> np.ndarray:
    """Returns a weight in the layout of its variable; refuses one with another shape."""
    value = assignment.fitted(weight)
    if value is None:
        raise UsageError(
            f"{path}: {assignment.name} has the shape {list(weight.shape)}, which does not fit the "
            "rest of the detector; name another checkpoint"
        )
    return value


def _backbone(model: keras.Model, prefix: str) -> Iterator[Assignment]:
    blocks = [
        layer
        for layer in model.layers
        if isinstance(layer, (nn_blocks.ResidualBlock, nn_blocks.BottleneckBlock))
    ]
    stem = [layer for layer in model.layers if layer.weights and layer not in blocks]
    yield from _convolution(stem[0], f"{prefix}conv1")
    yield from _norm(stem[1], f"{prefix}bn1")
    stage, index = 0, 0
    for block in blocks:
        starts_stage = block.get_config()["strides"] > 1 or not stage
        stage, index = (stage + 1, 0) if starts_stage else (stage, index + 1)
        yield from _block(block, f"{prefix}layer{stage}.{index}.")


def _block(block: keras.layers.Layer, prefix: str) -> Iterator[Assignment]:
    for number in (1, 2, 3):
        if hasattr(block, f"_conv{number}"):
            yield from _convolution(getattr(block, f"_conv{number}"), f"{prefix}conv{number}")
            yield from _norm(getattr(block, f"_norm{number}"), f"{prefix}bn{number}")
    if hasattr(block, "_shortcut"):
        yield from _convolution(block._shortcut, f"{prefix}downsample.0")
        yield from _norm(block._norm0, f"{prefix}downsample.1")


def _decoder(decoder: keras.Model, detector: Detector) -> Iterator[Assignment]:
    layers = {layer.name: layer for layer in decoder.submodules if hasattr(layer, "name")}
    top = min(detector.max_level, 5)
    for index, level in enumerate(range(detector.min_level, top + 1)):
        prefix = f"neck.0.lateral_convs.{index}.conv"
        yield from _convolution(layers[f"lateral_{level}"], prefix)
    for index, level in enumerate(range(detector.min_level, detector.max_level + 1)):
        layer = layers.get(f"post_hoc_{level}", layers.get(f"coarser_{level}"))
        # Faster R-CNN's levels beyond the backbone's have no weights.
        if layer:
            yield from _convolution(layer, f"neck.0.fpn_convs.{index}.conv")
    if detector.refine_type == "conv":
        refine = layers["balanced_feature_pyramid"].refine
        yield from _convolution(refine, "neck.1.refine.conv")
    elif detector.refine_type == "non_local":
        block = layers["balanced_feature_pyramid"].refine
        for name, theirs in (("g", "g"), ("theta", "theta"), ("phi", "phi"), ("out", "conv_out")):
            projection = getattr(block, name)
            prefix = f"neck.1.refine.{theirs}.conv"
            yield Assignment(f"{prefix}.weight", projection.kernel, _to_matrix)
            yield Assignment(f"{prefix}.bias", projection.bias, _as_is)


def _retinanet_head(
    model: keras.Model, detector: Detector, category_ids: Sequence[int]
) -> Iterator[Assignment]:
    head = model.head
    for branch, convolutions in (("cls", head._cls_convs), ("reg", head._box_convs)):
        for index, layer in enumerate(convolutions):
            yield from _convolution(layer, f"bbox_head.{branch}_convs.{index}.conv")
    num_classes = max(category_ids) + 1
    yield from _predictor(
        head._classifier,
        "bbox_head.retina_cls",
        _to_kernel,
        lambda outputs, fill: _spread(
            outputs, category_ids, num_classes, detector.num_anchors, fill
        ),
    )
    yield from _predictor(head._box_regressor, "bbox_head.retina_reg", _to_kernel, _yx_from_xy)


def _fasterrcnn_heads(
    model: keras.Model, detector: Detector, category_ids: Sequence[int]
) -> Iterator[Assignment]:
    rpn = model.rpn_head
    for index, layer in enumerate(rpn._convs):
        yield from _convolution(layer, f"rpn_head.rpn_conv.{index}")
    yield from _convolution(rpn._classifier, "rpn_head.rpn_cls")
    yield from _predictor(rpn._box_regressor, "rpn_head.rpn_reg", _to_kernel, _yx_from_xy)

    head, prefix = model.detection_head[0], "roi_head.bbox_head."
    for index, layer in enumerate(head._fcs):
        name = f"{prefix}shared_fcs.{index}"
        convert = _to_flattened_last(detector) if index == 0 else np.transpose
        yield Assignment(f"{name}.weight", layer.kernel, convert)
        yield Assignment(f"{name}.bias", layer.bias, _as_is)
    num_classes = max(category_ids) + 1
    # MMDetection's background is the last class.
    class_ids = [*category_ids, 0]
    yield from _predictor(
        head._classifier,
        f"{prefix}fc_cls",
        np.transpose,
        lambda outputs, fill: _spread(outputs, class_ids, num_classes, 1, fill),
    )

    def spread_boxes(outputs: np.ndarray, fill: float) -> np.ndarray:
        outputs = _yx_from_xy(outputs, fill)
        if detector.is_class_agnostic:
            return outputs
        per_class = outputs.reshape(len(category_ids), 4, *outputs.shape[1:])
        spread = np.zeros([num_classes, *per_class.shape[1:]], outputs.dtype)
        spread[category_ids] = per_class
        return spread.reshape(-1, *outputs.shape[1:])

    yield from _predictor(head._box_regressor, f"{prefix}fc_reg", np.transpose, spread_boxes)


def _convolution(layer: keras.layers.Layer, name: str) -> Iterator[Assignment]:
    yield Assignment(f"{name}.weight", layer.kernel, _to_kernel)
    if layer.use_bias:
        yield Assignment(f"{name}.bias", layer.bias, _as_is)


def _norm(layer: keras.layers.Layer, name: str) -> Iterator[Assignment]:
    yield Assignment(f"{name}.weight", layer.gamma, _as_is)
    yield Assignment(f"{name}.bias", layer.beta, _as_is)
    yield Assignment(f"{name}.running_mean", layer.moving_mean, _as_is)
    yield Assignment(f"{name}.running_var", layer.moving_variance, _as_is)


def _predictor(
    layer: keras.layers.Layer,
    name: str,
    layout: Convert,
    arrange: Callable[..., np.ndarray],
) -> Iterator[Assignment]:
    """Yields the weights of a layer whose outputs have to be rearranged.

    Args:
      layer: the layer.
      name: its name in the checkpoint.
      layout: converts its kernel to Keras' layout.
      arrange: `arrange(outputs, fill)` rearranges the outputs, on the first axis, and sets to
        `fill` those that the checkpoint lacks.
    """
    yield Assignment(f"{name}.weight", layer.kernel, lambda w: layout(arrange(w, 0.0)))
    # A class that the checkpoint does not have is never detected.
    yield Assignment(f"{name}.bias", layer.bias, lambda b: arrange(b, IMPOSSIBLE_LOGIT))


def _as_is(value: np.ndarray) -> np.ndarray:
    return value


def _to_kernel(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


def _to_matrix(weight: np.ndarray) -> np.ndarray:
    """Converts the kernel of a 1x1 convolution to a matrix `[in, out]`."""
    return weight[:, :, 0, 0].T


def _to_flattened_last(detector: Detector) -> Convert:
    """Returns the conversion for a layer on flattened crops: from channels first to last."""
    size, channels = detector.crop_size, detector.channels

    def convert(weight: np.ndarray) -> np.ndarray:
        crops = weight.reshape(-1, channels, size, size)
        return crops.transpose(2, 3, 1, 0).reshape(size * size * channels, -1)

    return convert


def _yx_from_xy(outputs: np.ndarray, fill: float) -> np.ndarray:
    """Reorders outputs that are boxes; the checkpoint has all of them, so nothing is filled."""
    del fill
    return boxes.swap_xy(outputs, axis=0)


def _spread(
    outputs: np.ndarray, class_ids: Sequence[int], num_classes: int, num_groups: int, fill: float
) -> np.ndarray:
    """Moves classes to their places in Model Garden's model; fills those that are not there.

    Args:
      outputs: `[num_groups * len(class_ids), ...]`.
      class_ids: the new place of each class.
      num_classes: the number of classes of the model.
      num_groups: how many times the classes are repeated, such as once per anchor.
      fill: the value for classes that the checkpoint does not have.

    Returns:
      `[num_groups * num_classes, ...]`.
    """
    rest = outputs.shape[1:]
    spread = np.full([num_groups, num_classes, *rest], fill, outputs.dtype)
    spread[:, class_ids] = outputs.reshape(num_groups, len(class_ids), *rest)
    return spread.reshape(-1, *rest)
