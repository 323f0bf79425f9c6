"""Reads files of PyTorch before 1.6 without PyTorch, and without running any code in them.

Such a file is a sequence of pickles and then the raw numbers: a magic number, the version of the
format, facts about the machine, a dictionary of tensors, the names of the storages that these are
views of, and for each storage its length and its values.
"""

import collections
import math
import pickle
import struct
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# Names of PyTorch's storages -> how their values are stored.
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Storage(NamedTuple):
    """The numbers that one or more tensors are views of, which stand at the end of the file."""

    key: str
    dtype: np.dtype
    size: int


class _View(NamedTuple):
    """A tensor: where its elements are in a storage. Offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors.

    Args:
      file: a file of `torch.save` in the format before PyTorch 1.6, opened in binary mode.

    Returns:
      The tensors by name, in the order in which they were saved.

    Raises:
      ValueError: if the file has another format, is damaged, or holds anything but tensors.
    """
    try:
        return _read(file)
    # Most are of values of other types than those of a file that PyTorch wrote.
    except (
        pickle.UnpicklingError,
        struct.error,
        AttributeError,
        LookupError,
        TypeError,
        EOFError,
    ) as error:
        raise ValueError(f"not a dictionary of tensors in PyTorch's old format: {error}") from error


def _read(file: IO[bytes]) -> dict[str, np.ndarray]:
    if [_Unpickler(file).load(), _Unpickler(file).load()] != [_MAGIC_NUMBER, _VERSION]:
        raise ValueError("not a file in PyTorch's old format")
    _Unpickler(file).load()  # The machine's byte order; the values are little-endian anyway.
    unpickler = _Unpickler(file)
    tensors = unpickler.load()
    values = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (size,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.size * storage.dtype.itemsize)
        if size != storage.size or len(data) != size * storage.dtype.itemsize:
            raise ValueError(f"the storage {key} is not complete")
        values[key] = np.frombuffer(data, storage.dtype)
    return {name: _as_array(view, values[view.storage.key]) for name, view in tensors.items()}


def _as_array(view: _View, values: np.ndarray) -> np.ndarray:
    """Copies the elements of a tensor, which need not be contiguous."""
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    numbers = (view.offset, *view.shape, *view.strides)
    if min(numbers) < 0 or (math.prod(view.shape) and last >= len(values)):
        raise ValueError("a tensor lies outside its storage")
    strides = [values.itemsize * stride for stride in view.strides]
    return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Creates plain values, storages and views of them; refuses everything else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a class or a function that the file names."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"the file names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that a tensor is a view of."""
        kind, storage_class, key, _, size, _ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"the file refers to a {kind}")
        return self.storages.setdefault(key, _Storage(key, _DTYPES[storage_class], size))


def _view(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))
