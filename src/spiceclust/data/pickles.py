"""CIFAR's files are pickles: read here with nothing of theirs executed.

An array in a pickle is a call of a function by its name. The names that numpy has used are answered with stand-ins that
only keep what they are given, every other name is refused, and what was kept is checked before it becomes an array.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.files import file_bytes
from spiceclust.data.wording import printable, why
from spiceclust.errors import SourceError, SpiceError


class _Kept:
    """Stands for an array, its class and its type: keeps the state that it is given."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs; nothing was run")
        return _Kept


def unpickle(path: str, entry: str) -> Any:
    """One entry of a pickled dictionary of bytes arrays, lists, texts and numbers.

    Args:
        path: the file.
        entry: its key.

    Returns:
        The entry; an array as (...) uint8.

    Raises:
        SourceError: the file is damaged, asks for anything else, or has no such entry.
    """
    import io

    try:
        content = _Unpickler(io.BytesIO(file_bytes(path)), encoding="bytes").load()
        found = content[entry.encode()] if entry.encode() in content else content[entry]
        return _array(found) if isinstance(found, _Kept) else found
    except KeyError:
        raise SourceError(f"{printable(path)} has no entry {entry!r}: it is not CIFAR's file") from None
    except (SpiceError, Exception) as error:  # a damaged pickle may raise anything
        raise SourceError(f"{printable(path)} cannot be read: {why(error)}") from None


def _array(kept: _Kept) -> NDArray[np.uint8]:
    _, shape, kind, by_column, content = kept.state
    if kind.arguments[0] not in ("u1", b"u1"):
        raise ValueError("an array of another type than bytes")
    if not isinstance(content, bytes) or len(content) != math.prod(shape):
        raise ValueError("an array whose size is not that of its content")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")
