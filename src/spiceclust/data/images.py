"""Reading a source: every input found gets a row, and the distinct readable ones become pixels.

n inputs, N distinct readable images among them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.arrays import Array
from spiceclust.data.encoded import Encoded, Read
from spiceclust.data.sources import Source
from spiceclust.errors import SourceError
from spiceclust.manifest import Row
from spiceclust.progress import Progress

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Images:
    """What a source holds, read once.

    Attributes:
        rows: the manifest, length n, in the order of the source.
        pixels: (N, channels, size, size) uint8, C-contiguous: each distinct readable image once. Or what stands in
            their place, (N, D) float32 (`data.vectors`).
        index: (n,) int64, each row's position in `pixels`; duplicates share one, quarantined rows have -1.
        fingerprint: hexadecimal SHA-256 over paths, statuses and contents of the readable rows.
    """

    rows: list[Row]
    pixels: NDArray[Any]
    index: NDArray[np.int64]
    fingerprint: str


def load(source: Source, size: int, channels: Literal[1, 3] | None, progress: Progress) -> Images:
    """Reads every image of a source, square and of one size.

    Of images with the same content (bytes of a file, pixels of an array) only the first is kept. The result does not
    depend on the timing of the threads, and only `pixels` and a few pictures are in memory at a time.

    Args:
        source: from `open_source`.
        size: side in pixels.
        channels: 1 turns colour to luminance (ITU-R 601), 3 keeps colour, None means 1 if every image is grey, else 3.
        progress: told of each image.

    Raises:
        SourceError: not one image is readable.
    """
    n = len(source)
    pixels = np.empty((n, channels or 3, size, size), np.uint8)
    index = np.full(n, -1, np.int64)
    rows: list[Row] = []
    first: dict[str, int] = {}  # content -> the row that keeps it
    with closing(read_in_order(source, size, progress)) as found:
        for i, (row, picture) in enumerate(found):
            original = first.setdefault(row.sha256, i) if picture is not None else i
            if original < i:
                row = replace(row, status="duplicate", reason=f"same content as {rows[original].path}")
                index[i] = index[original]
            elif picture is not None:
                index[i] = len(first) - 1
                pixels[index[i]] = planes(picture, channels or 3)
            rows.append(row)
    if not first:
        reason, count = Counter(row.reason for row in rows).most_common(1)[0]
        raise SourceError(f"{source.description}: none can be read; the commonest reason ({count} of {n}): {reason}")
    pixels = pixels[: len(first)]
    if channels is None and all(_is_grey(picture) for picture in pixels):
        pixels = pixels[:, :1].copy()
    return Images(rows, pixels, index, _fingerprint(rows))


def read_in_order(source: Source, size: int, progress: Progress, first: int = 0, ahead: int = 0) -> Generator[Read]:
    """Every input from number `first` on, in the order of the source, read by several threads.

    Args:
        source: from `open_source`.
        size: side in pixels.
        progress: told of each image.
        first: inputs that are passed over.
        ahead: inputs that are read while what was read before is in use; a few for each thread at the least.

    Yields:
        A row and, if it is readable, (size, size, 3) uint8 pixels; duplicates are not sought.
    """
    threads = threads_for(source)
    parts = [range(max(first, part.start), part.stop) for part in source.parts() if part.stop > first]
    with (
        progress.task("reading images", len(source) - first) as task,
        readers(source) as pool,
    ):
        waiting = max(2 * threads, ahead // max(1, len(parts[0]))) if parts else 1
        for found in _in_order(pool, lambda part: source.read(part, size), parts, waiting):
            yield from found
            task.advance(len(found))


def threads_for(source: Source) -> int:
    """How many threads read a source: one more than there are decoders, which fetches what the next one decodes."""
    return 1 + source.decoder.workers if isinstance(source, Encoded) else os.cpu_count() or 1


@contextmanager
def readers(source: Source) -> Iterator[ThreadPoolExecutor]:
    """Threads that read a source; they and its decoders end with the block."""
    with (
        source.decoder if isinstance(source, Encoded) else nullcontext(),
        ThreadPoolExecutor(threads_for(source)) as pool,
    ):
        yield pool


def _in_order(pool: ThreadPoolExecutor, work: Callable[[P], T], items: list[P], ahead: int) -> Iterator[T]:
    """As `pool.map`, but at most `ahead` items are under way or waiting to be taken, which bounds the memory."""
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for left in pending:  # of an interrupt: nobody waits for these
            left.cancel()


def stamp(source: Source) -> str:
    """Hexadecimal SHA-256 of what is known of a source without decoding: other images have another.

    Of files it is names, sizes and times; of an array the content.
    """
    digest = hashlib.sha256(f"{source.root}\0{source.description}\0".encode())
    for path in source.paths:
        digest.update(f"{path}\0".encode())
    if isinstance(source, Array):
        for part in source.parts():
            digest.update(np.ascontiguousarray(source.array[part.start : part.stop]).tobytes())
    else:
        for file in source.holders():
            digest.update(f"{file}\0{_size_and_time(file)}\0".encode())
    return digest.hexdigest()


def _size_and_time(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def planes(pictures: NDArray[np.uint8], channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """(..., channels, H, W) of (..., H, W, 3); one channel is the luminance."""
    return np.moveaxis(pictures, -1, -3) if channels == 3 else _luminance(pictures)[..., None, :, :]


def _luminance(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., H, W) of (..., H, W, 3): ITU-R 601 in the integers of Pillow's `convert("L")`."""
    weighted = np.full(pictures.shape[:-1], 0x8000, np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        weighted += pictures[..., channel] * np.uint32(weight)
    weighted >>= np.uint32(16)
    return weighted.astype(np.uint8)


def _is_grey(picture: NDArray[np.uint8]) -> bool:
    """Whether the channels of (3, H, W) are equal."""
    return bool((picture[0] == picture[1]).all() and (picture[0] == picture[2]).all())


def _fingerprint(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        if row.status == "quarantined":
            continue  # a stray Thumbs.db makes no other run
        digest.update(f"{row.path}\0{row.status}\0{row.sha256}\n".encode())
    return digest.hexdigest()
