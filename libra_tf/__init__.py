"""Libra R-CNN (Pang et al., CVPR 2019) for the TensorFlow Model Garden.

* `libra_tf.train` trains a detector, and `libra_tf.load` opens one (docs/python.md);
* `libra_tf.UsageError`, `DatasetError`, `TrainingError`: what these two raise;
* `libra_tf.layers` and `libra_tf.losses`: the components for the Keras that Model Garden uses;
* `libra_tf.keras3`: the same for Keras 3;
* `libra_tf.ops`: the same, and the samplers, as plain functions;
* `libra_tf.data`: makes and checks data sets;
* `libra_tf.registry_imports`: registers the experiments with Model Garden;
* `libra_tf.compat`: `keras`, the Keras that Model Garden uses.

All of these are imported when they are first used: `import libra_tf` itself does not even import
TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libra_tf import compat, data, keras3, layers, losses, ops, registry_imports
    from libra_tf.api.detector import load
    from libra_tf.api.training import train
    from libra_tf.cli.errors import TrainingError, UsageError
    from libra_tf.data import DatasetError

# The modules of the names that are no modules themselves.
_FOUND_IN = {
    "DatasetError": "libra_tf.data",
    "TrainingError": "libra_tf.cli.errors",
    "UsageError": "libra_tf.cli.errors",
    "load": "libra_tf.api.detector",
    "train": "libra_tf.api.training",
}

__all__ = [
    "DatasetError",
    "TrainingError",
    "UsageError",
    "compat",
    "data",
    "keras3",
    "layers",
    "load",
    "losses",
    "ops",
    "registry_imports",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _FOUND_IN:
            return getattr(importlib.import_module(_FOUND_IN[name]), name)
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        # What `hasattr` and `help` expect of a module that cannot be had: keras3 needs Keras 3.
        raise AttributeError(f"{__name__}.{name} cannot be imported: {error}") from error


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
