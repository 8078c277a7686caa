"""Folders, on this machine or behind a URL: what lies in them, and files that come into them whole or not at all.

On a disk a file is written beside its place and renamed. Object stores have no renaming, and need none: an object is
there once its last byte has come, or not at all. Other file systems get a temporary name and a move.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, Final, NamedTuple

from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import MAX_BYTES, Encoded, refuse_large
from spiceclust.data.wording import one_line, why
from spiceclust.errors import ConfigError, RunFolderError, SourceError
from spiceclust.files import UNFINISHED, reason, replacing

WHOLE: Final = ("s3", "gcs", "abfs")  # file systems where what is written appears at once when it is whole
PIECE: Final = 2**20  # bytes that are copied at once
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Found(NamedTuple):
    """A file of a place: its path there with `/`, bytes, and nanoseconds since 1970 when it was last changed."""

    name: str
    size: int
    changed: int


def is_url(text: str) -> bool:
    """Whether this names a file system and a place there, such as `s3://bucket/folder`."""
    return _URL.match(text) is not None


class Place:
    """A folder.

    Args:
        url: a path on this machine, or a URL of pyarrow (`s3://`, `gs://`, `abfs://`, `hdfs://`) or of fsspec.

    Attributes:
        url: as given.
        local: the path, where it is one; otherwise None.

    Raises:
        ConfigError: no file system takes the URL, or it needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or url
        self.local = None if is_url(url) else Path(url)
        self._system: Any = None
        self._path = ""
        if not self.local:
            self._system, self._path = _open(self.url)

    def files(self) -> list[Found]:
        """All files below, by name; of a single file's URL that one, with an empty name; nothing where nothing is.

        Raises:
            SourceError: it cannot be listed.
        """
        if self.local:
            stats = [(file.relative_to(self.local).as_posix(), file.stat()) for file in self.local.rglob("*")]
            return sorted(
                Found(name, found.st_size, found.st_mtime_ns) for name, found in stats if S_ISREG(found.st_mode)
            )
        from pyarrow.fs import FileSelector, FileType

        try:
            below = [self._system.get_file_info(self._path)]
            if below[0].type != FileType.File:
                below = self._system.get_file_info(FileSelector(self._path, allow_not_found=True, recursive=True))
        except OSError as error:
            raise SourceError(f"{self.shown} cannot be listed ({why(error)}): check the URL and the rights") from None
        start = len(self._path) + 1
        return sorted(Found(it.path[start:], it.size, it.mtime_ns or 0) for it in below if it.type == FileType.File)

    @property
    def shown(self) -> str:
        """The URL for messages, without a password or what follows a question mark."""
        return one_line(re.sub(r"://[^/@]*@", "://", self.url).partition("?")[0])

    def open(self, name: str) -> BinaryIO:
        """A file for reading, anywhere in it.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        if self.local:
            return (self.local / name).open("rb")
        return self._system.open_input_file(self._at(name))  # type: ignore[no-any-return]

    def fetch(self, name: str, to: Path) -> None:
        """Copies a file to this machine.

        Raises:
            OSError: it cannot be read, or there is no space for it.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.open(name) as there, to.open("wb") as here:
            shutil.copyfileobj(there, here, PIECE)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write that is there when the block ends without an error; an earlier one is replaced.

        Raises:
            RunFolderError: it cannot be written.
        """
        if self.local:
            try:
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunFolderError(f"{self.url} cannot be made ({reason(error)}): choose another folder") from None
            with replacing(self.local / name) as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            try:
                self._put(name, file)
            except OSError as error:
                raise RunFolderError(
                    f"{self.shown}/{name} cannot be written ({why(error)}): check the rights"
                ) from None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there.

        Raises:
            RunFolderError: it cannot be removed.
        """
        try:
            if self.local:
                (self.local / name).unlink(missing_ok=True)
            else:
                with suppress(FileNotFoundError):
                    self._system.delete_file(self._at(name))
        except OSError as error:
            raise RunFolderError(f"{self.shown}/{name} cannot be removed ({why(error)}): remove it yourself") from None

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _put(self, name: str, file: BinaryIO) -> None:
        target = self._at(name)
        folder, _, last = target.rpartition("/")
        whole = self._system.type_name in WHOLE
        if not whole:
            self._system.create_dir(folder, recursive=True)
        way = target if whole else f"{folder}/{UNFINISHED}{last}"
        with self._system.open_output_stream(way) as there:
            shutil.copyfileobj(file, there, PIECE)
        if not whole:
            with suppress(FileNotFoundError):
                self._system.delete_file(target)  # some refuse to move over what is there
            self._system.move(way, target)


@dataclass(frozen=True)
class Remote(Encoded):
    """Images in files of a place behind a URL; `paths` are relative to it.

    Attributes:
        place: which.
        names: of the files there.
    """

    place: Place
    names: list[str]

    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        """As in `Encoded`; an OSError tells of a place that does not answer, which says nothing of the image."""
        try:
            with self.place.open(self.names[i]) as file:
                size = file.seek(0, 2)
                refuse_large(size, most)
                file.seek(0)
                return bytes(file.read(size))
        except FileNotFoundError:
            raise DecodeError("cannot be opened: no such file") from None


def _open(url: str) -> tuple[Any, str]:
    """A file system of pyarrow, and the path on it."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        try:
            system, path = fs.FileSystem.from_uri(url)
        except pa.ArrowInvalid:  # not one of Arrow's own
            from fsspec.core import url_to_fs

            other, path = url_to_fs(url)
            system = fs.PyFileSystem(fs.FSSpecHandler(other))
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"{one_line(url.partition('?')[0])} cannot be opened ({why(error)})") from None
    return system, path.rstrip("/")
