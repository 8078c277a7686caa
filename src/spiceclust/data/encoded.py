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

from spiceclust.data.decode import DecodeError
from spiceclust.data.decoder import Decoder
from spiceclust.data.processes import Answer
from spiceclust.manifest import Row

MAX_BYTES = 2**28  # a larger file is no photo, and reading it would fill the memory
LARGE = 2**25  # bytes of a file that is held and decoded alone
HEADERS = 256  # headers read to learn the native size
FRONT = 2**18  # bytes of a file in which its size is sought first: EXIF may come before it
AT_ONCE = 16  # images are read in parts of this many,
BATCH = 2**21  # and given to a decoder once they have this many bytes

Read: TypeAlias = tuple[Row, NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Encoded(ABC):
    """Images in files, tars, tables: a kind says how the bytes of one are fetched.

    Attributes:
        paths: what the manifest calls each image.
        description: for run.json.
        root: absolute path of the folder that `paths` are relative to; empty where there is none.
        benchmark: which data set of the paper this is, if one.
        decoder: what decodes them.
    """

    paths: list[str]
    description: str
    root: str = field(default="", kw_only=True)
    benchmark: str = field(default="", kw_only=True)
    decoder: Decoder = field(default_factory=Decoder, kw_only=True)

    def __len__(self) -> int:
        return len(self.paths)

    @abstractmethod
    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        """The encoded bytes of image `i`, from any thread.

        Raises:
            LargeError: there are more than `most`.
            DecodeError: they cannot be had.
        """

    def front(self, i: int) -> bytes:
        """The first 256 KiB of image `i`, or all; otherwise as `fetch`."""
        return self.fetch(i, LARGE)[:FRONT]

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
            front = self.front(i)
            found = self.decoder.header(front)
            if found is None and len(front) == FRONT:  # a TIFF may say it at its end
                found = self.decoder.header(self.fetch(i, LARGE))
        except DecodeError:
            return None
        return found

    def picture(self, i: int) -> NDArray[np.uint8]:
        """Picture `i`, full; one of more than 16 million pixels is made smaller.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            DecodeError: it cannot be read.
        """
        answer = self.decoder.picture(lambda: self.fetch(i))
        if isinstance(answer, DecodeError):
            raise DecodeError(str(answer))  # itself would be held by this frame, and keep the decoder
        assert answer[0] is not None
        return answer[0]

    def parts(self) -> list[range]:
        """The source in pieces that are worth one task of a thread."""
        return parts(len(self), AT_ONCE)

    def read(self, part: range, size: int) -> list[Read]:
        """A row and, if readable, (size, size, 3) uint8 pixels for each image of `part`; duplicates are not sought."""
        found: dict[int, Read] = {}
        held: dict[int, bytes] = {}
        for i in part:
            try:
                held[i] = self.fetch(i, LARGE)
            except LargeError:
                found[i] = self._read_large(i, size)
            except DecodeError as error:
                found[i] = self._row(i, "", error)
            if sum(map(len, held.values())) > BATCH:
                found |= self._read_held(held, size)
                held = {}
        found |= self._read_held(held, size)
        return [found[i] for i in part]

    def _read_held(self, held: dict[int, bytes], size: int) -> dict[int, Read]:
        digests = [hashlib.sha256(content).hexdigest() for content in held.values()]
        answers = self.decoder.squares(list(held.values()), size)
        return {i: self._row(i, digest, answer) for i, digest, answer in zip(held, digests, answers, strict=True)}

    def _read_large(self, i: int, size: int) -> Read:
        digest = ""

        def fetch() -> bytes:
            nonlocal digest
            content = self.fetch(i)
            digest = hashlib.sha256(content).hexdigest()
            return content

        try:
            answer = self.decoder.square(fetch, size)
        except DecodeError as error:  # of `fetch`
            answer = error
        return self._row(i, digest, answer)

    def _row(self, i: int, digest: str, answer: Answer) -> Read:
        if isinstance(answer, DecodeError):
            return Row(self.paths[i], "quarantined", str(answer), 0, 0, digest), None
        pixels, width, height = answer
        return Row(self.paths[i], "ok", "", width, height, digest), pixels


class LargeError(DecodeError):
    """There are more bytes than asked for."""


def refuse_large(length: int, most: int) -> None:
    """Refuses more bytes than `most` before they are read.

    Raises:
        LargeError: there are more.
    """
    if length > most:
        raise LargeError(f"too large: {length:,} bytes, limit {most:,}")


def parts(n: int, step: int) -> list[range]:
    """0 to n-1 in ranges of `step`, the last one what is left."""
    return [range(start, min(start + step, n)) for start in range(0, n, step)]


def spread(n: int) -> Iterator[int]:
    """0 to n-1, each once, every beginning of it evenly spread: multiples of a step near the golden section of n."""
    step = next(step for step in range(max(1, round(0.618 * n)), n + 1) if math.gcd(step, n) == 1)
    return (k * step % n for k in range(n))
