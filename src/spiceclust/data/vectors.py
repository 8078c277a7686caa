"""Embeddings that were made elsewhere, in the place of pixels.

n inputs, N distinct readable images, D features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.images import Images
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import SourceError
from spiceclust.manifest import Row

PREFIX = "embeddings:"
ROWS_AT_ONCE = 2**14  # rows that are converted together


@dataclass(frozen=True)
class Vectors:
    """Embeddings; build them with `read_vectors`, which checks them.

    Attributes:
        values: (n, D) float32, each of length 1.
        description: for messages.
    """

    values: NDArray[np.float32]
    description: str

    def __len__(self) -> int:
        return len(self.values)

    @property
    def paths(self) -> list[str]:
        """The row numbers."""
        return [str(i) for i in range(len(self))]

    def rows(self, start: int, stop: int) -> list[Row]:
        """Of a manifest, for embeddings whose images are not at hand."""
        contents = (hashlib.sha256(values.tobytes()).hexdigest() for values in self.values[start:stop])
        return [Row(str(i), "ok", "", 0, 0, content) for i, content in enumerate(contents, start)]

    def of(self, images: Images) -> Images:
        """The images with their embeddings in the place of pixels, (N, D) float32; copies share those of the first.

        Raises:
            SourceError: there is neither a row for each input found nor one for each that could be read.
        """
        readable = images.index >= 0
        n, n_readable = len(images.rows), int(readable.sum())
        if len(self.values) not in (n, n_readable):
            quarantined = f", {n_readable} of them readable" if n_readable < n else ""
            raise SourceError(
                f"{self.description} has {len(self.values)} rows for {n} images{quarantined}: give one row for each "
                "image, in the order of images.parquet"
            )
        places = np.flatnonzero(readable)
        _, first = np.unique(images.index[places], return_index=True)  # of images and their copies
        rows = first if len(self.values) == n_readable else places[first]
        return replace(images, pixels=self.values[rows])

    def stamp(self) -> str:
        """Hexadecimal SHA-256 of what these are: others have another."""
        return hashlib.sha256(f"{self.description}\0".encode() + np.ascontiguousarray(self.values).data).hexdigest()


Inputs: TypeAlias = Source | Vectors


def open_inputs(given: Any, exclude: Sequence[Path] = ()) -> Inputs:
    """What predict may be given: `embeddings:FILE.npy` or an array (n, D) of floats, and all that `open_source` takes.

    Raises:
        SourceError: as `read_vectors` and `open_source`.
    """
    if isinstance(given, str) and given.startswith(PREFIX):
        return read_vectors(Path(given.removeprefix(PREFIX)))
    if isinstance(given, np.ndarray) and given.ndim == 2:
        return _checked(given, "array")
    return open_source(given, exclude)


def read_vectors(path: Path) -> Vectors:
    """Embeddings in a .npy file.

    Raises:
        SourceError: it cannot be read, is not (n, D) of floats, or a row is zero or not finite.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise SourceError(f"embeddings {path} are not a .npy file: save them with numpy.save")
        array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"embeddings {path} cannot be opened ({error.strerror}): give a .npy file") from None
    except Exception as error:  # a damaged file may raise anything: header and memory errors
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SourceError(f"embeddings {path} cannot be read ({reason}): save them anew with numpy.save") from None
    return _checked(array, f"embeddings {path}")


def _checked(array: NDArray[Any], what: str) -> Vectors:
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise SourceError(f"{what}: given {array.dtype} of shape {array.shape}, needed floats (n, D)")
    largest = np.empty(len(array))
    unit = np.empty(array.shape, np.float32)
    for start in range(0, len(array), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        values = np.asarray(array[part], dtype=np.float64)
        largest[part] = np.abs(values).max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # what cannot be divided is refused below
            values = values / largest[part, None]  # so that squares neither overflow nor vanish
            unit[part] = values / np.linalg.norm(values, axis=1, keepdims=True)
    for wrong, which in ((~np.isfinite(largest), "not finite"), (largest == 0, "zero")):
        if wrong.any():
            raise SourceError(
                f"{what}: row {int(wrong.argmax())} is {which}, and {int(wrong.sum())} of {len(wrong)} rows are: "
                "an image without an embedding has no place here"
            )
    return Vectors(unit, what)
