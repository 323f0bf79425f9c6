"""Puts the weights of an ImageNet classifier into a backbone of Model Garden.

The classifier and the backbone have the same convolutions and batch norms in the same order. What
else differs is folded into the weights, so that the features stay the same: the classifier's
normalization of images, biases before a batch norm, and the epsilon of the batch norms.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from official.vision.ops import preprocess_ops

from libra_tf.compat import keras
from libra_tf.initial_weights.checkpoint_files import CheckpointError

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class ConvNorm:
    """A convolution and the batch norm behind it; `C` is the number of output channels.

    Attributes:
      kernel: `[height, width, inputs, C]`, or `[height, width, C, 1]` if it is depthwise.
      gamma: `[C]`, the scale of the batch norm.
      beta: `[C]`, its shift.
      mean: `[C]`, its moving mean.
      variance: `[C]`, its moving variance.
      bias: `[C]`, that of the convolution; a scalar 0 if there is none.
    """

    kernel: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    bias: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros([], np.float32))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The convolutional part of a classifier.

    It takes `scale * pixels + offset` per channel, with pixels from 0 to 255 and channels in the
    order red, green, blue.

    Attributes:
      name: what to call it in messages.
      layers: in the order in which they are applied; in a residual block, the shortcut comes first.
      epsilon: what its batch norms add to the variance.
      scale: a number, or one per channel.
      offset: a number, or one per channel.
    """

    name: str
    layers: Sequence[ConvNorm]
    epsilon: float
    scale: float | np.ndarray
    offset: float | np.ndarray

    def put_into(self, backbone: keras.Model) -> None:
        """Assigns the weights.

        For images that are normalized as in Model Garden, the features are then those of the
        classifier, up to one thing: at the border, where the first convolution pads with zeros,
        these stand for the mean color instead of the classifier's zero. A batch norm in training
        mode sees another epsilon than the classifier did.

        Args:
          backbone: a backbone of Model Garden, already built, changed in place.

        Raises:
          CheckpointError: if its layers are not those of the classifier. It is left unchanged.
        """
        targets = _conv_norms(backbone)
        ours = [tuple(_kernel(convolution).shape) for convolution, _ in targets]
        theirs = [layer.kernel.shape for layer in self.layers]
        if ours != theirs:
            raise CheckpointError(
                f"the weights of {self.name} have {len(theirs)} convolutions of other shapes than "
                f"the backbone {backbone.name}, which has {len(ours)}"
            )
        layers = [self._for_normalized_images(self.layers[0]), *self.layers[1:]]
        for (convolution, norm), layer in zip(targets, layers, strict=True):
            _kernel(convolution).assign(layer.kernel)
            ratio = (layer.variance + norm.epsilon) / (layer.variance + self.epsilon)
            norm.gamma.assign(layer.gamma * np.sqrt(ratio))
            norm.beta.assign(layer.beta)
            norm.moving_mean.assign(layer.mean - layer.bias)
            norm.moving_variance.assign(layer.variance)

    def _for_normalized_images(self, first: ConvNorm) -> ConvNorm:
        """Returns the first layer for images that Model Garden has normalized."""
        mean, stddev = np.array(preprocess_ops.MEAN_RGB), np.array(preprocess_ops.STDDEV_RGB)
        kernel = first.kernel * (self.scale * stddev)[:, None]
        constant = first.kernel * (self.scale * mean + self.offset)[:, None]
        return dataclasses.replace(
            first, kernel=kernel, bias=first.bias + constant.sum(axis=(0, 1, 2))
        )


def _conv_norms(
    backbone: keras.Model,
) -> list[tuple[keras.layers.Layer, keras.layers.BatchNormalization]]:
    """Returns the convolutions, each with its batch norm, in the order of their creation."""
    # Model Garden's blocks are layers that contain layers. Some create one that they do not use.
    layers = [part for layer in backbone.layers for part in layer._flatten_layers() if part.built]
    convolutions = [layer for layer in layers if isinstance(layer, _CONVOLUTIONS)]
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return list(zip(convolutions, norms, strict=True))


def _kernel(convolution: keras.layers.Layer) -> tf.Variable:
    is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    return convolution.depthwise_kernel if is_depthwise else convolution.kernel
