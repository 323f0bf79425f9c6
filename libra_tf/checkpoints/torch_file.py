"""Reads PyTorch checkpoints without running anything that is in them."""

import contextlib
import dataclasses
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from libra_tf.cli.errors import UsageError

# MMEngine's trainer saves its logs beside the weights, in what these make.
_LOGS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "__builtin__.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"{module}.multiarray.{name}"
        for module in ("numpy.core", "numpy._core")
        for name in ("_reconstruct", "scalar")
    ),
)
# What is said about a detector lies no deeper: the names in the classes in the data set.
_META_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a checkpoint holds.

    Attributes:
      path: of the file.
      weights: float32 arrays by name, as PyTorch has them; without what wraps them.
      meta: what the program that saved it says about it in texts, numbers, and lists and
        dictionaries of them; empty if nothing.
    """

    path: str
    weights: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def read(path: str) -> TorchFile:
    """Reads a checkpoint.

    PyTorch's restricted reader is used, which makes tensors and plain values only and calls no
    function that the file names but PyTorch's own for them.

    Args:
      path: a file of `torch.save`: a dictionary of tensors, or one with such a `state_dict`.

    Returns:
      What it holds.

    Raises:
      UsageError: if PyTorch is not installed, or the file cannot be read, holds anything but data,
        is not a checkpoint, or has a weight that is not dense, not real or not finite.
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
        weights[re.sub(r"^(module\.)+", "", str(name))] = _as_array(path, name, tensor)
    if not weights:
        raise _not_a_checkpoint(path, "it holds no tensors")
    _check_finite(path, weights)
    return TorchFile(path, weights, _plain(meta) if isinstance(meta, Mapping) else {})


def _as_array(path: str, name: Any, tensor: Any) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor):
        kind = "left-out object" if isinstance(tensor, _LeftOut) else type(tensor).__name__
        raise _not_a_checkpoint(path, f"{name!r} in it is a {kind}, no tensor")
    is_dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not is_dense or not re.fullmatch(r"b?float\d+|u?int\d+", dtype):
        kind = f"{dtype} tensor" if is_dense else "tensor that does not hold all its values"
        raise UsageError(
            f"{path}: {name!r} in it is a {kind}; supported are dense ones of floating point "
            "numbers or integers, so convert it in PyTorch and save it again"
        )
    return tensor.detach().float().numpy()


def _plain(value: Any, depth: int = _META_DEPTH) -> Any:
    """Texts, numbers, and lists and dictionaries of them; None for what is anything else."""
    if isinstance(value, (str, int, float)):
        return value
    if depth and isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping):
        return {key: _plain(value[key], depth - 1) for key in value if isinstance(key, str)}
    return None


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
    """Stands where a checkpoint has an object of MMEngine's or NumPy's."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


@contextlib.contextmanager
def _logs_left_out(torch: Any) -> Iterator[None]:
    """Lets PyTorch read past MMEngine's logs, which are made into empty objects.

    NumPy's functions are left out too: with arguments of the file's choice they reach into memory.
    """
    with torch.serialization.safe_globals([(_LeftOut, name) for name in _LOGS]):
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
