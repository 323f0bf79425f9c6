"""Libra R-CNN (Pang et al., CVPR 2019) for the TensorFlow Model Garden.

* `libra_tf.layers` and `libra_tf.losses`: the components for the Keras that Model Garden uses;
* `libra_tf.keras3`: the same for Keras 3;
* `libra_tf.ops`: the same, and the samplers, as plain functions;
* `libra_tf.data`: makes and checks data sets;
* `libra_tf.registry_imports`: registers the experiments with Model Garden;
* `libra_tf.compat`: `keras`, the Keras that Model Garden uses.

These modules are imported when they are first used: `import libra_tf` itself does not even import
TensorFlow.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libra_tf import compat, data, keras3, layers, losses, ops, registry_imports

__all__ = ["compat", "data", "keras3", "layers", "losses", "ops", "registry_imports"]
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        # What `hasattr` and `help` expect of a module that cannot be had: keras3 needs Keras 3.
        raise AttributeError(f"{__name__}.{name} cannot be imported: {error}") from error


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
