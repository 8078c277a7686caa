"""Images in one array: given as such, or in a .npy or .npz file."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.decode import eight_bits, on_white, square
from spiceclust.data.encoded import Read, parts
from spiceclust.data.wording import printable, why
from spiceclust.errors import SourceError
from spiceclust.manifest import Row

ARRAY_BYTES = 2**22  # an array is read in parts of about this size


@dataclass(frozen=True)
class Array:
    """Images in one array; build it with `open_source`, which checks it.

    Attributes:
        paths: the row numbers.
        description: for run.json.
        array: (N, H, W) or (N, H, W, 1 | 3 | 4) uint8, uint16, bool, or floats in [0, 1].
        root: what opens it again; empty for an array that was given as such.
        extra: more images of the kind, which only stage 1 sees.
        benchmark: which data set of the paper this is, if one.
    """

    paths: list[str]
    description: str
    array: NDArray[Any]
    root: str = ""
    extra: Array | None = None
    benchmark: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def native_size(self) -> int:
        """The shorter side in pixels."""
        return int(min(self.array.shape[1:3]))

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The full picture `i`: (H, W, 3) uint8, RGB."""
        return _three_channels(self._eight_bits(range(i, i + 1))[0])

    def parts(self) -> list[range]:
        """The source in pieces that are worth one task of a thread."""
        return parts(len(self), max(1, ARRAY_BYTES // math.prod(self.array.shape[1:])))

    def read(self, part: range, size: int) -> list[Read]:
        """A row and (size, size, 3) uint8 pixels for each picture of `part`; duplicates are not sought."""
        height, width = self.array.shape[1:3]
        found: list[Read] = []
        for i, picture in zip(part, self._eight_bits(part), strict=True):
            digest = hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()
            pixels = _three_channels(square(picture, size))
            found.append((Row(self.paths[i], "ok", "", width, height, digest), pixels))
        return found

    def _eight_bits(self, part: range) -> NDArray[np.uint8]:
        """(n, H, W) or (n, H, W, 3) uint8."""
        values = self.array[part.start : part.stop]
        if values.dtype == np.bool_:
            values = values * np.uint8(255)
        elif values.dtype.kind == "f":
            values = np.rint(values * values.dtype.type(255)).astype(np.uint8)
        elif values.dtype != np.uint8:  # 16 bits: the depth is found per picture, as it is for files
            values = np.stack([eight_bits(picture) for picture in values])
        if values.ndim == 4 and values.shape[3] != 3:
            values = values[..., 0] if values.shape[3] == 1 else on_white(values)
        return values


def array_in(path: str) -> NDArray[Any]:
    """The array of a .npy file, mapped from the disk, or the `images` of a .npz file.

    Raises:
        SourceError: the file is damaged, or has no `images`.
    """
    shown = printable(path)
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                # a plain view: a memmap would leak its type into every picture
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                names = content.files
                if "images" in names:  # reading one member leaves the others, such as `labels`, alone
                    return np.asarray(content["images"])
    except Exception as error:  # a damaged file may raise anything: zip, zlib, header and memory errors
        raise SourceError(f"file {shown} cannot be read as arrays ({why(error)})") from None
    raise SourceError(f"file {shown} has no array named images; it has: {', '.join(names) or 'none'}")


def open_array(array: NDArray[Any], what: str) -> Array:
    """An array as a source, called `what` in its description and in errors.

    Raises:
        SourceError: it is of a type or shape that holds no pictures.
    """
    given = f"{what}: given {array.dtype} of shape {array.shape}"
    if array.dtype not in (np.uint8, np.uint16, np.bool_) and array.dtype.kind != "f":
        raise SourceError(f"{given}, needed uint8 (bool, uint16 and floats in [0, 1] work too)")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)):
        raise SourceError(f"{given}, needed (N, H, W) or (N, H, W, 1 | 3 | 4)")
    if not array.size:
        raise SourceError(f"{given}, which holds no pixels")
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] != array.shape[2]:
        raise SourceError(f"{given}, which looks like a single picture; needed (N, H, W) or (N, H, W, 1 | 3 | 4)")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int((~np.isfinite(array)).any(axis=tuple(range(1, array.ndim))).sum())
            raise SourceError(
                f"{given}: {bad} of {len(array)} pictures hold values that are not finite: leave them out"
            )
        if not (low >= 0 and high <= 1):
            raise SourceError(f"{given} with values from {low:g} to {high:g}; floats must lie in [0, 1]")
    n, height, width = array.shape[:3]
    return Array([str(i) for i in range(n)], f"{what}, {n} pictures of {width} x {height}", array)


def _three_channels(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture.copy()
