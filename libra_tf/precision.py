"""The precision a network computes in: bfloat16 where the device has it, float32 elsewhere.

Weights are float32 in either case, so a checkpoint serves both.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from libra_tf.compat import keras

AUTO, FLOAT32, FLOAT16, BFLOAT16 = "auto", "float32", "float16", "bfloat16"

# Instructions that multiply bfloat16, as Linux names them.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
# The values of oneDNN's environment variable that stop short of those instructions.
_WITHOUT_BFLOAT16 = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)
_FIRST_CAPABLE_GPU = (8, 0)
# See "bfloat16 and float32" in docs/results.md.
_SLOWDOWN = (
    "it is emulated; with AVX2 alone, a training step took 5 to 11 times as long, and inference "
    "0.8 to 1.5 times"
)
# oneDNN's gradients of strided and of 5x5 ones take four times as long as in float32, or longer.
_SLOW_DEPTHWISE = "depthwise convolutions train more slowly in bfloat16 on a CPU"


@dataclasses.dataclass(frozen=True)
class Precision:
    """A precision, and why it was chosen.

    Attributes:
      dtype: `float32`, `float16` or `bfloat16`.
      reason: why, as a clause such as "this CPU has avx512_bf16".
      is_emulated: whether the device has no instructions for it, so that it is slower than float32.
    """

    dtype: str
    reason: str
    is_emulated: bool = False

    @property
    def policy(self) -> str:
        """The Keras policy."""
        return self.dtype if self.dtype == FLOAT32 else f"mixed_{self.dtype}"

    def __str__(self) -> str:
        return f"{self.dtype} ({self.reason})"


def choose(
    asked: str | None,
    key: str,
    device_type: str | None = None,
    trains_depthwise: bool = False,
) -> Precision:
    """Chooses the precision to compute in.

    Args:
      asked: `auto`, or a precision; None for float32.
      key: the flag or key that asks for it, for the reason.
      device_type: `CPU`, `GPU` or `TPU`; None for a GPU if there is one, else the CPU.
      trains_depthwise: whether this is for training a network with depthwise convolutions, or for
        evaluating it in the precision of its training.

    Returns:
      What was asked for. With `auto`, bfloat16 if the device computes it natively, else float32;
      float32, too, for training depthwise convolutions on a CPU.
    """
    if device_type is None:
        device_type = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    is_native, reason = {"CPU": _of_cpu, "GPU": _of_gpus}.get(device_type, _of_tpu)()
    if asked == AUTO and is_native and trains_depthwise and device_type == "CPU":
        return Precision(FLOAT32, f"{reason}, but {_SLOW_DEPTHWISE}")
    if asked == AUTO:
        return Precision(BFLOAT16 if is_native else FLOAT32, reason)
    if asked == BFLOAT16 and not is_native:
        return Precision(
            BFLOAT16, f"{key} asks for it, but {reason}: {_SLOWDOWN}", is_emulated=True
        )
    return Precision(asked or FLOAT32, f"set by {key}" if asked else "the default")


@contextlib.contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """Makes layers that are built while the block runs compute with a Keras policy.

    Args:
      policy: its name, such as `Precision.policy`.
    """
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _of_cpu() -> tuple[bool, str]:
    """Returns whether this CPU computes bfloat16 natively, and why."""
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False, "TF_ENABLE_ONEDNN_OPTS=0 switches off the library that computes bfloat16"
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if os.environ.get(name, "").upper() in _WITHOUT_BFLOAT16:
            return False, f"{name}={os.environ[name]} hides the CPU's bfloat16"
    flags = cpu_flags()
    found = [flag for flag in _CPU_FLAGS if flag in flags]
    if found:
        return True, f"this CPU has {found[0]}"
    return False, "this CPU has neither avx512_bf16 nor amx_bf16"


def cpu_flags() -> frozenset[str]:
    """Returns what this CPU can do, as Linux names it; nothing on other systems."""
    # `py-cpuinfo` knows more systems, but takes longer than a second.
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _of_gpus() -> tuple[bool, str]:
    """Returns whether all visible GPUs compute bfloat16 natively, and why."""
    details = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    # Only NVIDIA's have it.
    oldest = min(details, key=lambda gpu: gpu.get("compute_capability") or (0, 0), default={})
    capability = oldest.get("compute_capability")
    name = oldest.get("device_name", "this GPU")
    if not capability:
        return False, f"{name} does not say its compute capability"
    described = f"{name} has compute capability {capability[0]}.{capability[1]}"
    if capability >= _FIRST_CAPABLE_GPU:
        return True, described
    return False, f"{described}, and bfloat16 needs {'.'.join(map(str, _FIRST_CAPABLE_GPU))}"


def _of_tpu() -> tuple[bool, str]:
    return True, "a TPU multiplies in bfloat16"
