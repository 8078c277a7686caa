"""Images in files: found in a folder or named in a list."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import FRONT, MAX_BYTES, Encoded, refuse_large
from spiceclust.data.wording import printable, why
from spiceclust.errors import SourceError


@dataclass(frozen=True)
class Files(Encoded):
    r"""Images in files.

    `paths` are relative to the folder with `/`, or as given in a list; bytes of a name that are not UTF-8 are written
    `\xff`.

    Attributes:
        files: where each is on disk.
    """

    files: list[str]

    def holders(self) -> list[str]:
        return self.files

    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        return file_bytes(self.files[i], most)

    def front(self, i: int) -> bytes:
        return file_bytes(self.files[i], MAX_BYTES, FRONT)


def in_folder(root: str, files: list[str], description: str) -> Files:
    """Files below `root`, called by their paths relative to it."""
    top = os.path.join(root, "")
    names = [printable(file.removeprefix(top)).replace(os.sep, "/") for file in files]
    return Files(names, description, files, root=printable(os.path.abspath(root)))


def find_files(root: str, exclude: Sequence[Path] = ()) -> list[str]:
    """Every file below a folder, in an order that does not depend on the file system.

    Hidden files too; links to folders are not followed, and a folder that cannot be opened stands for what is in it.

    Args:
        root: the folder.
        exclude: folders and files to leave out where they lie inside.

    Raises:
        SourceError: the folder cannot be opened, or holds no files.
    """
    skipped = {os.path.realpath(path) for path in exclude}
    files: list[str] = []

    def closed(error: OSError) -> None:
        if error.filename == root:
            raise SourceError(f"folder {printable(root)} cannot be opened ({why(error)})")
        files.append(error.filename)  # a row says that what is inside was not read

    for folder, subfolders, names in os.walk(root, onerror=closed):
        if skipped:
            there = os.path.realpath(folder)
            for some in (subfolders, names):
                some[:] = [name for name in some if not _is_one_of(skipped, os.path.join(there, name))]
        files.extend(os.path.join(folder, name) for name in names)
    if not files:
        raise SourceError(f"folder {printable(root)} holds no files (links to other folders are not followed)")
    return sorted(files, key=_order)


def _is_one_of(real: set[str], path: str) -> bool:
    """Whether a path in a real folder leads to one of the real paths."""
    return path in real or (os.path.islink(path) and os.path.realpath(path) in real)


def _order(file: str) -> tuple[list[str], str, str]:
    """By folder, then name without suffix: `a.jpg` comes before its copies `a (1).jpg` and `a - Copy.jpg`."""
    folder, name = os.path.split(file)
    return folder.split(os.sep), *os.path.splitext(name)


def open_regular(path: str) -> tuple[BinaryIO, int]:
    """A regular file and its length in bytes. Pipes and devices are not opened: that alone can block or do harm.

    Raises:
        DecodeError: not a regular file, or not readable.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DecodeError(_KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file"))
        return open(path, "rb"), found.st_size
    except (OSError, ValueError) as error:
        raise DecodeError(f"cannot be opened: {why(error)}") from None


_KINDS = {
    stat.S_IFDIR: "a folder; what it holds was not read",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def file_bytes(path: str, most: int = MAX_BYTES, front: int = MAX_BYTES) -> bytes:
    """The whole content, or its first `front` bytes.

    Raises:
        LargeError: there are more than `most` bytes in all.
        DecodeError: not a regular file, or not readable.
    """
    file, length = open_regular(path)
    with file:
        refuse_large(length, most)
        try:
            return file.read(min(length, front))  # not to the end: a file that grows must not fill the memory
        except OSError as error:
            raise DecodeError(f"cannot be read: {why(error)}") from None
