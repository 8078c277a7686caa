"""Reading a source: every input found gets a row, and the distinct readable ones become pixels.

n inputs, N distinct readable images among them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.arrays import Array
from spiceclust.data.encoded import Encoded, Read
from spiceclust.data.packed import Channels, Packed, open_packed, part_size, there_already
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


def load(
    source: Source,
    size: int,
    channels: Channels | None,
    progress: Progress,
    folder: Path | None = None,
    version: str = "",
) -> Images:
    """Reads every image of a source, square and of one size.

    Of images with the same content (bytes of a file, pixels of an array) only the first is kept. The result does not
    depend on the timing of the threads, nor on where pixels are kept; besides `pixels` only those of a part of the
    source are in memory at a time.

    Args:
        source: from `open_source`.
        size: side in pixels.
        channels: 1 turns colour to luminance (ITU-R 601), 3 keeps colour, None means 1 if every image is grey, else 3.
        progress: told of each image.
        folder: where `pixels` are kept in a file (`data.packed`), of which what is there and whole is not read again
            while the source's stamp is the same; None keeps them in memory.
        version: of what decodes: a file of another one is not taken.

    Raises:
        SourceError: not one image is readable.
        RunFolderError: the folder cannot be written, or holds other files.
    """
    n, at_once = len(source), part_size(size)
    kept: Packed | _InMemory
    if folder is None:
        kept = _InMemory(n, channels or 1, size)
    else:
        about = {"stamp": stamp(source), "size": size, "channels": channels, "n": n, "version": version}
        kept = open_packed(folder, about, size, channels, progress)
    found = _Found(n, kept.rows)
    first = len(found.rows)
    if first:
        progress.say(f"reading images: {'all' if first == n else first} of {n} are in {folder}")
    with closing(read_in_order(source, size, progress, first, at_once if folder else 0)) as reading:
        while some := list(islice(reading, at_once)):
            pictures = found.distinct(some)
            if channels is None and kept.channels == 1 and not all(map(_is_grey, pictures)):
                kept = kept.widened()
            kept.append(found.rows[-len(some) :], (planes(picture, kept.channels) for picture in pictures))
    if not kept.count:
        kept.discard()
        reason, count = Counter(row.reason for row in found.rows).most_common(1)[0]
        raise SourceError(f"{source.description}: none can be read; the commonest reason ({count} of {n}): {reason}")
    return found.images(kept.pixels())


def mapped(folder: Path) -> Images:
    """What `load` has packed into a folder, for another process of the same run, which does not check it again.

    Raises:
        RunFolderError: nothing is there, or it is damaged.
    """
    packed = there_already(folder)
    return _Found(len(packed.rows), packed.rows).images(packed.pixels())


class _Found:
    """Rows as they are found, copies told from the first of a content.

    Args:
        n: how many there will be.
        known: those that were found before.
    """

    def __init__(self, n: int, known: list[Row]) -> None:
        self.rows: list[Row] = []
        self.index = np.full(n, -1, np.int64)
        self._first: dict[str, int] = {}  # content -> the row that keeps it
        for row in known:
            self._add(row, row.status != "quarantined")

    def distinct(self, some: list[Read]) -> list[NDArray[np.uint8]]:
        """Adds rows, and returns the pictures of those that are no copies."""
        added = [self._add(row, picture is not None) for row, picture in some]
        return [picture for is_new, (_, picture) in zip(added, some, strict=True) if is_new and picture is not None]

    def images(self, pixels: NDArray[np.uint8]) -> Images:
        return Images(self.rows, pixels, self.index, _fingerprint(self.rows))

    def _add(self, row: Row, readable: bool) -> bool:
        i = len(self.rows)
        original = self._first.setdefault(row.sha256, i) if readable else i
        if original < i:
            row = replace(row, status="duplicate", reason=f"same content as {self.rows[original].path}")
            self.index[i] = self.index[original]
        elif readable:
            self.index[i] = len(self._first) - 1
        self.rows.append(row)
        return readable and original == i


class _InMemory:
    """A growing array of images, with the interface of `Packed`.

    Args:
        n: how many there will be at the most; what stays empty takes no memory.
        channels, size: of each.
    """

    def __init__(self, n: int, channels: Channels, size: int) -> None:
        self.channels: Channels = channels
        self.rows: list[Row] = []
        self.count = 0
        self._array = np.empty((n, channels, size, size), np.uint8)

    def append(self, rows: list[Row], pictures: Iterable[NDArray[np.uint8]]) -> None:
        for picture in pictures:
            self._array[self.count] = picture
            self.count += 1

    def widened(self) -> _InMemory:
        n, _, size, _ = self._array.shape
        wide = _InMemory(n, 3, size)
        wide.append([], self.pixels())
        return wide

    def pixels(self) -> NDArray[np.uint8]:
        return self._array[: self.count]

    def discard(self) -> None: ...


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


def planes(pictures: NDArray[np.uint8], channels: Channels) -> NDArray[np.uint8]:
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
    """Whether the channels of (H, W, 3) are equal."""
    return bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all())


def _fingerprint(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        if row.status == "quarantined":
            continue  # a stray Thumbs.db makes no other run
        digest.update(f"{row.path}\0{row.status}\0{row.sha256}\n".encode())
    return digest.hexdigest()
