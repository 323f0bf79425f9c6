"""Networks of Keras Applications, whose weights Keras downloads when they are first needed."""

import os
import re
from collections.abc import Callable

import numpy as np

from libra_tf.cli.errors import first_line
from libra_tf.compat import keras
from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.initial_weights.imagenet.classifier import Classifier, ConvNorm

_applications = keras.applications
_RESNETS = {
    50: _applications.ResNet50,
    101: _applications.ResNet101,
    152: _applications.ResNet152,
}
_MOBILENETS = {
    "MobileNetV1": _applications.MobileNet,
    "MobileNetV2": _applications.MobileNetV2,
}
_INPUT_SHAPE = (224, 224, 3)
# Keras' ResNets take blue, green, red, less these means.
_RESNET_MEAN_RGB = np.array([123.68, 116.779, 103.939])


def read_resnet(depth: int, weights: str | None = "imagenet") -> Classifier:
    """Returns a ResNet v1, which has the stride of a stage in its first 1x1 convolution.

    Args:
      depth: 50, 101 or 152.
      weights: None for random ones.

    Raises:
      CheckpointError: if the weights cannot be downloaded or read.
    """
    network = _build(_RESNETS[depth], weights)
    layers = [_conv_norm(*pair) for pair in _pairs(network, order=_numbers_in_name)]
    layers[0].kernel[:] = layers[0].kernel[:, :, ::-1].copy()
    return Classifier(network.name, layers, _epsilon(network), 1.0, -_RESNET_MEAN_RGB)


def read_mobilenet(
    version: str, width: float = 1.0, weights: str | None = "imagenet"
) -> Classifier:
    """Returns a MobileNet.

    Args:
      version: `MobileNetV1` or `MobileNetV2`.
      width: factor of the number of channels; 1.0, or one of the others that Keras has.
      weights: None for random ones.

    Raises:
      CheckpointError: if the weights cannot be downloaded or read.
    """
    network = _build(_MOBILENETS[version], weights, alpha=width)
    layers = [_conv_norm(*pair) for pair in _pairs(network)]
    return Classifier(network.name, layers, _epsilon(network), 1 / 127.5, -1.0)


def _build(
    application: Callable[..., keras.Model], weights: str | None, **kwargs: float
) -> keras.Model:
    try:
        return application(weights=weights, include_top=False, input_shape=_INPUT_SHAPE, **kwargs)
    # `get_file` raises it where the download fails.
    except Exception as error:
        url = re.search(r"https?://\S+\.h5", str(error))
        if not url:
            raise CheckpointError(
                f"Keras cannot read the weights of {application.__name__} "
                f"({first_line(error)}); remove their file from {_folder()} and try again"
            ) from error
        raise CheckpointError(
            f"the weights of {application.__name__} cannot be downloaded ({first_line(error)}); "
            f"where there is a network, fetch {url.group()} and put it into {_folder()}"
        ) from error


def _folder() -> str:
    """Returns where Keras keeps downloaded weights."""
    folder = os.path.join(os.path.expanduser("~"), ".keras")
    if not os.access(folder, os.W_OK):
        folder = os.path.join("/tmp", ".keras")
    return os.path.join(folder, "models")


def _pairs(
    network: keras.Model, order: Callable[[keras.layers.Layer], list[int]] | None = None
) -> list[tuple[keras.layers.Layer, keras.layers.BatchNormalization]]:
    """Returns the convolutions, each with its batch norm, in the network's order or another."""
    layers = sorted(network.layers, key=order) if order else network.layers
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    convolutions = [layer for layer in layers if hasattr(layer, "kernel_size")]
    return list(zip(convolutions, norms, strict=True))


def _numbers_in_name(layer: keras.layers.Layer) -> list[int]:
    """Returns stage, block and layer of a ResNet: 2, 3, 1 for `conv2_block3_1_bn`."""
    return [int(number) for number in re.findall(r"\d+", layer.name)]


def _conv_norm(convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> ConvNorm:
    kernel, *bias = convolution.get_weights()
    return ConvNorm(kernel, *norm.get_weights(), *bias)


def _epsilon(network: keras.Model) -> float:
    is_norm = [isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers]
    return network.layers[is_norm.index(True)].epsilon
