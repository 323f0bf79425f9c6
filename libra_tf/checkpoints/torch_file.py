"""Reads PyTorch checkpoints without running anything that is in them."""

import contextlib
import dataclasses
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from libra_tf.runner.errors import UsageError

# MMEngine's trainer saves its logs beside the weights, in objects of these types.
_LOGS = ("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "__builtin__.getattr")


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a checkpoint holds.

    Attributes:
      path: of the file.
      weights: float32 arrays by name, as PyTorch has them; without what wraps them.
      meta: what the program that saved it says about it, empty if nothing.
    """

    path: str
    weights: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def read(path: str) -> TorchFile:
    """Reads a checkpoint.

    PyTorch's restricted reader is used, which makes tensors and plain values only and calls no
    function that the file names.

    Args:
      path: a file of `torch.save`: a dictionary of tensors, or one with such a `state_dict`.

    Returns:
      What it holds.

    Raises:
      UsageError: if PyTorch is not installed, or the file cannot be read, holds anything but data,
        is not a checkpoint, or has a weight that is not a finite number.
    """
    saved = _load(path)
    if not isinstance(saved, Mapping):
        raise _not_a_checkpoint(path, f"it holds a {type(saved).__name__}")
    meta = saved.get("meta")
    tensors = saved
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(saved.get(wrapper), Mapping):
            tensors = saved[wrapper]
            break
    weights = {}
    for name, tensor in tensors.items():
        if not hasattr(tensor, "detach"):
            raise _not_a_checkpoint(path, f"{name!r} in it is a {type(tensor).__name__}, no tensor")
        weights[re.sub(r"^(module\.)+", "", str(name))] = tensor.detach().float().numpy()
    if not weights:
        raise _not_a_checkpoint(path, "it holds no tensors")
    _check_finite(path, weights)
    return TorchFile(path, weights, meta if isinstance(meta, Mapping) else {})


def _load(path: str) -> Any:
    if not os.path.exists(path):
        raise UsageError(f"{path}: there is no such file; name a PyTorch checkpoint (.pth)")
    if not os.path.isfile(path):
        raise UsageError(f"{path} is a folder; name a PyTorch checkpoint (.pth) in it")
    if not os.path.getsize(path):
        raise UsageError(f"{path} is empty; copy it again or name another checkpoint")
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"{path} cannot be read without PyTorch; install it with: pip install '.[mmdet]'"
        ) from error
    try:
        with _logs_left_out(torch):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", str(error))
        if code:
            raise UsageError(
                f"{path} is refused: it does not hold weights alone, but names the code "
                f"{code.group(1)}, which reading it would run. Ask whom you have it from for the "
                "state_dict alone"
            ) from error
        raise _damaged(path, error) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error
    # What a damaged file makes PyTorch raise depends on where it is damaged.
    except Exception as error:
        raise _damaged(path, error) from error


class _LeftOut:
    """Stands where a checkpoint has an object of MMEngine's logs."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


@contextlib.contextmanager
def _logs_left_out(torch: Any) -> Iterator[None]:
    """Lets PyTorch read past MMEngine's logs, which are made into empty objects."""
    stand_ins = [(_LeftOut, name) for name in _LOGS]
    numpy_types = [np.ndarray, np.dtype, type(np.dtype("f8")), type(np.dtype("i8"))]
    core = np.core if not hasattr(np, "_core") else np._core
    for name in ("_reconstruct", "scalar"):
        function = getattr(core.multiarray, name)
        stand_ins += [
            (function, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core")
        ]
    with torch.serialization.safe_globals([*stand_ins, *numpy_types]):
        yield


def _check_finite(path: str, weights: Mapping[str, np.ndarray]) -> None:
    bad = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UsageError(
            f"{path}: the weight {bad[0]}{more} has values that are NaN or infinite, so the "
            "training it is from has failed; name an earlier checkpoint"
        )


def _not_a_checkpoint(path: str, why: str) -> UsageError:
    return UsageError(f"{path} is not a checkpoint with a detector's weights: {why}")


def _damaged(path: str, error: Exception) -> UsageError:
    reason = str(error).split("WeightsUnpickler error: ")[-1].strip() or type(error).__name__
    return UsageError(
        f"{path} is not a PyTorch checkpoint, or is damaged ({reason.splitlines()[0][:120]}); copy "
        "it again or name another one"
    )
