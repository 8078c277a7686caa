"""Images as encoded bytes, whatever holds them: fetched one at a time, decoded, or refused with a reason.

n inputs.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.decode import DecodeError, decode, decode_square, header_size
from spiceclust.manifest import Row

MAX_BYTES = 2**30  # a larger file is no photo, and reading it would fill the memory
HEADERS = 256  # headers read to learn the native size
AT_ONCE = 4  # images are read in parts of this many

Read: TypeAlias = tuple[Row, NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Encoded(ABC):
    """Images in files, tars, tables: a kind says how the bytes of one are fetched.

    Attributes:
        paths: what the manifest calls each image.
        description: for run.json.
        root: absolute path of the folder that `paths` are relative to; empty where there is none.
        benchmark: which data set of the paper this is, if one.
    """

    paths: list[str]
    description: str
    root: str = field(default="", kw_only=True)
    benchmark: str = field(default="", kw_only=True)

    def __len__(self) -> int:
        return len(self.paths)

    @abstractmethod
    def fetch(self, i: int) -> bytes:
        """The encoded bytes of image `i`, from any thread.

        Raises:
            DecodeError: they cannot be had.
        """

    def holders(self) -> Sequence[str]:
        """The files that hold the images, as far as they are known."""
        return []

    def native_size(self) -> int:
        """Median shorter side, pixels, over at most 256 readable headers spread over the source; 0 without any."""
        sizes = (self.header(i) for i in self.sample())
        sides = [min(size) for size in islice((size for size in sizes if size is not None), HEADERS)]
        return round(float(np.median(sides))) if sides else 0

    def sample(self) -> Iterator[int]:
        """Images in the order in which their headers are looked at: every beginning is spread over the source."""
        return spread(len(self))

    def header(self, i: int) -> tuple[int, int] | None:
        """Width and height of image `i`; None when they cannot be read."""
        try:
            return header_size(self.fetch(i))
        except DecodeError:
            return None

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The full picture `i`.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            DecodeError: it cannot be read.
        """
        return decode(self.fetch(i))

    def parts(self) -> list[range]:
        """The source in pieces that are worth one task of a thread."""
        return parts(len(self), AT_ONCE)

    def read(self, part: range, size: int) -> list[Read]:
        """A row and, if readable, (size, size, 3) uint8 pixels for each image of `part`; duplicates are not sought."""
        return [self._read(i, size) for i in part]

    def _read(self, i: int, size: int) -> Read:
        digest = ""
        try:
            content = self.fetch(i)
            digest = hashlib.sha256(content).hexdigest()
            pixels, width, height = decode_square(content, size)
        except DecodeError as error:
            return Row(self.paths[i], "quarantined", str(error), 0, 0, digest), None
        return Row(self.paths[i], "ok", "", width, height, digest), pixels


def refuse_large(length: int) -> None:
    """Refuses more than `MAX_BYTES` before they are read.

    Raises:
        DecodeError: there are more.
    """
    if length > MAX_BYTES:
        raise DecodeError(f"too large: {length:,} bytes, limit {MAX_BYTES:,}")


def parts(n: int, step: int) -> list[range]:
    """0 to n-1 in ranges of `step`, the last one what is left."""
    return [range(start, min(start + step, n)) for start in range(0, n, step)]


def spread(n: int) -> Iterator[int]:
    """0 to n-1, each once, every beginning of it evenly spread: multiples of a step near the golden section of n."""
    step = next(step for step in range(max(1, round(0.618 * n)), n + 1) if math.gcd(step, n) == 1)
    return (k * step % n for k in range(n))
