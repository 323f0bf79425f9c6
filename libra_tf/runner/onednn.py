"""oneDNN, Intel's library for networks on CPUs, for runs on CPUs where TensorFlow leaves it off.

TensorFlow has it on where the CPU has instructions for neural networks. Elsewhere a training is
faster with it as well, as long as no convolution is fused with what follows it: a single image
takes eleven times as long with that (docs/results.md).
"""

import os

_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# Instructions for which TensorFlow has it on, as Linux names them.
_ON_BY_DEFAULT = frozenset(
    ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
)


def switch_on() -> None:
    """Switches it on unless the environment forbids it; call it before importing TensorFlow."""
    os.environ.setdefault(_VARIABLE, "1")


def keep_convolutions_apart() -> None:
    """Switches TensorFlow's fusions off where one of them is slow: if it would leave oneDNN off.

    Call it before a graph is built. If there is a GPU, the fusions stay.
    """
    # Imported here, since it imports TensorFlow.
    import tensorflow as tf

    from libra_tf import precision

    flags = precision.cpu_flags()
    is_forced = os.environ.get(_VARIABLE) == "1" and flags and not flags & _ON_BY_DEFAULT
    if is_forced and not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"remapping": False})
