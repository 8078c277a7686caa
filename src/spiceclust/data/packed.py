"""The distinct images of a source as a file in the run folder, for where they would not fit in memory.

They are written one after another while the source is read in its order, and looked up at random afterwards, through
the system's cache of pages: any order costs the same memory. A part of the manifest lies beside the file for each
part of the source, and vouches by its name for its own bytes and for the pixels of its images, so that reading goes on
after the last whole part. Until a colour image comes, one channel is kept of three that are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from spiceclust.errors import RunFolderError
from spiceclust.files import UNFINISHED, read_sealed, reason, sync_folder, write_bytes, write_sealed
from spiceclust.manifest import Row, as_parquet, from_parquet
from spiceclust.progress import Progress

Channels = Literal[1, 3]
ABOUT: Final = "about.json"
FORMAT: Final = 1
PART: Final = re.compile(r"([13])-(\d{8})-([0-9a-f]{64})\.parquet")  # channels, number, SHA-256 of it and its pixels
OURS: Final = re.compile(rf"{PART.pattern}|[13]\.pixels|{re.escape(ABOUT)}|{re.escape(UNFINISHED)}.*")
PART_BYTES: Final = 2**25  # of the pixels of a part at the most,
PART_ROWS: Final = 2**14  # and its inputs: reading is never further than this from what is kept


class Packed:
    """A growing file of images; `open_packed` makes it.

    Args:
        folder: of the file.
        channels: 1 or 3.
        size: S, side in pixels.

    Attributes:
        rows: the manifest of what is there.
        count: how many of these have pixels.
        parts: the files of rows, with the number of images in each.
    """

    def __init__(self, folder: Path, channels: Channels, size: int) -> None:
        self.folder, self.channels, self.size = folder, channels, size
        self.rows: list[Row] = []
        self.count = 0
        self.parts: list[tuple[Path, int]] = []
        self.path = folder / f"{channels}.pixels"

    def append(self, rows: list[Row], pictures: Iterable[NDArray[np.uint8]]) -> None:
        """Writes the next part: rows, and (channels, S, S) uint8 for each of them whose status is `ok`.

        Raises:
            RunFolderError: no space, no permission, or the device failed.
        """
        pixels, content = b"".join(picture.tobytes() for picture in pictures), as_parquet(rows)
        with _writing(self.path), os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
            file.seek(self._offset(self.count))
            file.write(pixels)
            file.flush()
            os.fdatasync(file.fileno())
        part = self.folder / f"{self.channels}-{len(self.parts):08}-{_digest(content, pixels)}.parquet"
        write_bytes(part, content)  # at last: it vouches for the pixels
        self._take(part, rows)

    def widened(self) -> Packed:
        """The same images with three channels, which are all alike, in the place of this file."""
        wide, start = Packed(self.folder, 3, self.size), 0
        for part, count in self.parts:
            pixels = self.pixels()[start : start + count] if count else ()
            wide.append(
                from_parquet(part.read_bytes()),
                (np.broadcast_to(picture, (3, self.size, self.size)) for picture in pixels),
            )
            start += count
        self.discard()
        return wide

    def pixels(self) -> NDArray[np.uint8]:
        """(count, channels, S, S) uint8, mapped from the file; nobody writes to it.

        The mapping is a shared one that may be written: torch warns of one that may not, and a private one counts as
        memory that is promised, of which the system gives no more than there is.

        Raises:
            RunFolderError: the file is too short, or cannot be opened.
        """
        with _writing(self.path):
            there, needed = self.path.stat().st_size, self._offset(self.count)
            if there < needed:  # it would be made longer
                raise RunFolderError(f"{self.path} is damaged ({there:,} bytes of {needed:,}): remove its folder")
            return np.memmap(self.path, np.uint8, "r+", shape=(self.count, self.channels, self.size, self.size))

    def discard(self) -> None:
        """Removes file and parts, the last part first."""
        for part, _ in reversed(self.parts):
            part.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def resume(self, progress: Progress) -> None:
        """Takes up what is there, as far as it is whole, and removes the rest."""
        there = _parts_in(self.folder, self.channels)
        if not there:
            return
        with (
            _writing(self.path),
            suppress(FileNotFoundError),
            self.path.open("rb") as file,
            progress.task("checking pixels", len(there)) as task,
        ):
            while (part := there.get(len(self.parts))) and (rows := self._whole(part, file)) is not None:
                self._take(there.pop(len(self.parts)), rows)
                task.advance()
        with _writing(self.path):
            for part in there.values():
                part.unlink()

    def trust(self) -> None:
        """Takes up all that is there, unchecked."""
        for _, part in sorted(_parts_in(self.folder, self.channels).items()):
            self._take(part, from_parquet(part.read_bytes()))

    def _whole(self, part: Path, file: BinaryIO) -> list[Row] | None:
        """The rows of a part, if neither they nor its images have changed."""
        content, match = part.read_bytes(), PART.fullmatch(part.name)
        try:
            rows = from_parquet(content)
        except Exception:  # damaged pages raise errors of many kinds
            return None
        count = sum(row.status == "ok" for row in rows)
        file.seek(self._offset(self.count))
        pixels = file.read(self._offset(count))
        return rows if match and _digest(content, pixels) == match[3] else None

    def _take(self, part: Path, rows: list[Row]) -> None:
        count = sum(row.status == "ok" for row in rows)
        self.rows += rows
        self.count += count
        self.parts.append((part, count))

    def _offset(self, count: int) -> int:
        return count * self.channels * self.size**2


def open_packed(
    folder: Path, about: dict[str, Any], size: int, channels: Channels | None, progress: Progress
) -> Packed:
    """What lies in a folder of the same images, checked; of others, a new file.

    Args:
        folder: made when it is not there.
        about: JSON values that the pixels and rows depend on.
        size: S, side in pixels.
        channels: of the images; None is 1 until a colour image comes.
        progress: told while what is there is checked.

    Raises:
        RunFolderError: it holds other files, or cannot be written.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name))
    if strange:
        raise RunFolderError(f"{folder} holds other files ({strange[0]}, ...): move them, pixels are to be kept there")
    try:
        known = read_sealed(folder / ABOUT, FORMAT)
    except RunFolderError:
        known = {}
    if known != about:
        discard(folder)
        folder.mkdir(exist_ok=True)
        write_sealed(folder / ABOUT, about, FORMAT)
        sync_folder(folder.absolute().parent)
    found = Packed(folder, channels or _wider(folder), size)
    for path in folder.iterdir():  # what a widening that was cut off left, or what it was about to remove
        if path.name.startswith(f"{4 - found.channels}"):
            path.unlink()
    found.resume(progress)
    return found


def there_already(folder: Path) -> Packed:
    """What `open_packed` has left in a folder, for another process of the same run, which does not check it again.

    Raises:
        RunFolderError: nothing is there, or it is damaged.
    """
    about = read_sealed(folder / ABOUT, FORMAT)
    found = Packed(folder, about["channels"] or _wider(folder), about["size"])
    found.trust()
    return found


def discard(folder: Path) -> None:
    """Removes packed images and the folder, of which nothing is needed once a run is done; what is not ours stays."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()


def part_size(size: int) -> int:
    """Inputs of a part, for images of `size` pixels a side."""
    return max(1, min(PART_ROWS, PART_BYTES // (3 * size**2)))


def _digest(content: bytes, pixels: bytes) -> str:
    digest = sha256(content)
    digest.update(pixels)
    return digest.hexdigest()


def _wider(folder: Path) -> Channels:
    """Channels of what is there: of two files, which a widening leaves that is cut off, that of more parts."""
    return 3 if len(_parts_in(folder, 3)) >= max(1, len(_parts_in(folder, 1))) else 1


def _parts_in(folder: Path, channels: int) -> dict[int, Path]:
    matches = ((path, PART.fullmatch(path.name)) for path in folder.iterdir())
    return {int(match[2]): path for path, match in matches if match and int(match[1]) == channels}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be used ({reason(error)}): free some room, and the same command goes on"
        ) from None
