"""Which backbones have published ImageNet weights."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from official.modeling import hyperparams

from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.initial_weights.imagenet import keras_applications, lite0
from libra_tf.initial_weights.imagenet.classifier import Classifier

# What `task.init_checkpoint` is for these weights.
IMAGENET = "imagenet"
_PLAIN_RESNET = {
    "depth_multiplier": (1.0,),
    "stem_type": ("v0",),
    "resnetd_shortcut": (False,),
    "replace_stem_max_pool": (False,),
    "se_ratio": (0.0, None),
}


@dataclasses.dataclass(frozen=True)
class _Published:
    """A backbone with published weights.

    Attributes:
      type: `task.model.backbone.type`.
      model_id: the backbone's `model_id`.
      values: the other keys of the backbone that change its weights, and the values that they may
        have.
      activation: what `task.model.norm_activation.activation` must be; None if it has no effect.
      read: returns the weights, given the config of the backbone.
    """

    type: str
    model_id: str | int
    values: Mapping[str, tuple[Any, ...]]
    activation: str | None
    read: Callable[[hyperparams.Config], Classifier]

    def __str__(self) -> str:
        return f"{self.type} {self.model_id}"


def _read_mobilenet(backbone: hyperparams.Config) -> Classifier:
    return keras_applications.read_mobilenet(backbone.model_id, backbone.filter_size_scale)


def _read_resnet(backbone: hyperparams.Config) -> Classifier:
    return keras_applications.read_resnet(backbone.model_id)


def _all_published() -> Iterator[_Published]:
    yield _Published(
        "efficientnet", "b0", {"se_ratio": (0.0, None)}, "relu6", lambda _: lite0.read()
    )
    for version, widths in (
        ("MobileNetV1", (0.25, 0.5, 0.75, 1.0)),
        ("MobileNetV2", (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
    ):
        values = {"filter_size_scale": widths}
        yield _Published("mobilenet", version, values, None, _read_mobilenet)
    for depth in (50, 101, 152):
        yield _Published("resnet_v1", depth, _PLAIN_RESNET, "relu", _read_resnet)


_PUBLISHED = tuple(_all_published())


def read(model: hyperparams.Config) -> Classifier:
    """Returns the ImageNet weights that fit the backbone of a config.

    Args:
      model: config of the detector.

    Raises:
      CheckpointError: if there are none for this backbone, or they are not on this machine and
        cannot be downloaded, or their file is damaged.
    """
    backbone = model.backbone.get()
    published = _find(model.backbone.type, getattr(backbone, "model_id", None))
    for key, values in published.values.items():
        value = getattr(backbone, key)
        if value not in values:
            raise CheckpointError(
                f"the weights of {published} are for {key} "
                f"{' or '.join(map(str, filter(_is_set, values)))}, and "
                f"task.model.backbone.{published.type}.{key} is {value}; change it, or set "
                "task.init_checkpoint to null to start without them"
            )
    activation = model.norm_activation.activation
    if published.activation not in (None, activation):
        raise CheckpointError(
            f"the weights of {published} were trained with the activation {published.activation}, "
            f"and task.model.norm_activation.activation is {activation}; set it to "
            f"{published.activation}"
        )
    return published.read(backbone)


def _is_set(value: Any) -> bool:
    return value is not None


def _find(backbone_type: str, model_id: str | int | None) -> _Published:
    for published in _PUBLISHED:
        if (published.type, published.model_id) == (backbone_type, model_id):
            return published
    name = f"{backbone_type} {model_id}" if model_id is not None else backbone_type
    raise CheckpointError(
        f"there are no ImageNet weights for the backbone {name}. There are for "
        f"{', '.join(map(str, _PUBLISHED))}; change task.model.backbone, or name a checkpoint"
    )
