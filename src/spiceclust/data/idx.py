"""Arrays as MNIST, its like and USPS are distributed: IDX, .npz, or lines of numbers."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import MAX_BYTES
from spiceclust.data.files import open_regular
from spiceclust.data.wording import printable, why
from spiceclust.errors import SourceError

TEXT_ROWS: Final = 100_000  # USPS has 7,291 and 2,007


def read_idx(path: str, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of bytes, compressed with gzip or not.

    Raises:
        SourceError: it is damaged, or of another type or number of dimensions.
    """
    try:
        with _open(path) as file:
            magic = file.read(4)
            if magic != bytes([0, 0, 8, dimensions]):
                raise ValueError(f"begins with {magic.hex() or 'nothing'}, not with 000008{dimensions:02}")
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise ValueError("ends within its header")
            shape = np.frombuffer(header, ">u4").tolist()
            length = math.prod(shape)
            if length > MAX_BYTES:
                raise ValueError(f"says it holds {length:,} bytes, limit {MAX_BYTES:,}")
            content = file.read(length)
            if len(content) < length:
                raise ValueError(f"ends after {len(content):,} of {length:,} bytes")
    except (OSError, EOFError, ValueError, zlib.error, DecodeError) as error:
        raise SourceError(f"{printable(path)} is not a sound IDX file: {why(error)}") from None
    return np.frombuffer(content, np.uint8).reshape(shape)


def npz_entries(path: str, *choices: tuple[str, ...]) -> NDArray[Any]:
    """The entries of the first of `choices` that are all in a .npz file, one behind the other; others are not read.

    Raises:
        SourceError: it is damaged or has none of them.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            for names in choices:
                if all(name in content for name in names):
                    return np.concatenate([content[name] for name in names])
            there = ", ".join(content)
    except Exception as error:  # a damaged file may raise anything: zip, zlib, header and memory errors
        raise SourceError(f"{printable(path)} cannot be read as arrays ({why(error)})") from None
    listed = " or ".join(" and ".join(names) for names in choices)
    raise SourceError(f"{printable(path)} has no arrays {listed}; it has: {there or 'none'}")


def is_text(path: str) -> bool:
    """Whether this is a split of USPS as lines of numbers."""
    return os.path.basename(path).startswith("zip.")


def usps_images(path: str) -> NDArray[np.uint8]:
    """(n, 16, 16) uint8 from lines of a class, which is passed over, and 256 greys in [-1, 1]."""
    greys = usps_columns(path, range(1, 257))
    if not (np.abs(greys) <= 1).all():
        raise SourceError(f"{printable(path)} holds greys beyond -1 and 1: it is not USPS")
    return np.rint((greys + 1) * 127.5).astype(np.uint8).reshape(-1, 16, 16)


def usps_columns(path: str, columns: Sequence[int]) -> NDArray[np.float64]:
    """(n, columns) of a compressed text of numbers.

    Raises:
        SourceError: it is damaged or has fewer columns.
    """
    try:
        return np.loadtxt(path, usecols=columns, max_rows=TEXT_ROWS, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(f"{printable(path)} is not a sound table of numbers: {why(error)}") from None


def _open(path: str) -> BinaryIO | gzip.GzipFile:
    file, _ = open_regular(path)
    if not path.endswith(".gz"):
        return file
    file.close()  # it was no pipe; gzip closes only what it has opened itself
    return gzip.open(path)
