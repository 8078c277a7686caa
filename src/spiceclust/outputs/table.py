"""Predictions as a table, CSV or Parquet, written in parts: it may be longer than memory, and be taken up again.

While it is unfinished the parts lie in the folder `NAME.parts` beside it, each whole or absent and named by its number,
its rows and its checksum. Finishing puts them together, again a part at a time.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from spiceclust.config import choose
from spiceclust.errors import RunFolderError
from spiceclust.files import (
    UNFINISHED,
    read_sealed,
    reason,
    replacing,
    sha256_file,
    sync_folder,
    write_bytes,
    write_sealed,
)

Columns = dict[str, list[Any]]  # by name, all of one length
KEY: Final = "key.json"
PARTS: Final = ".parts"  # how the name of the folder ends
PART: Final = re.compile(r"(\d{8})-(\d+)-([0-9a-f]{64})\.(csv|parquet)")  # its number, its rows, its SHA-256
FORMAT: Final = 1


class Table:
    """A table that grows part by part.

    Args:
        path: .csv or .parquet.
        key: what the parts depend on; those of another key are refused.

    Attributes:
        parts: the files of those that are there already, in order.
        rows: how many these hold.

    Raises:
        ConfigError: the name ends neither in .csv nor in .parquet.
        RunFolderError: its folder is not there or cannot be written, or `NAME.parts` is not ours, or holds parts of
            another table.
    """

    def __init__(self, path: Path, key: str) -> None:
        check_table_path(path)
        self.path, self.folder = path, parts_folder(path)
        self.parts: list[Path] = []
        if self.folder.is_symlink():
            raise RunFolderError(f"{self.folder} is a link, and nothing is written through it: remove it")
        try:
            self.folder.mkdir(exist_ok=True)
            there = {file.name for file in self.folder.iterdir()}
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.folder} cannot be used ({reason(error)}): give another file") from None
        found = {name: PART.fullmatch(name) for name in there if not name.startswith(UNFINISHED)}
        numbered = {int(match[1]): name for name, match in found.items() if match}
        known = read_sealed(self.folder / KEY, FORMAT).get("key") if KEY in there else None
        if found.keys() - set(numbered.values()) - {KEY} or (numbered and known is None):
            raise RunFolderError(f"{self.folder} holds other files: choose another name than {path.name}")
        if numbered and known != key:
            raise RunFolderError(
                f"{self.folder} holds the beginning of another table (other images, or another model): "
                f"remove it, or choose another name than {path.name}"
            )
        write_sealed(self.folder / KEY, {"key": key}, FORMAT)
        while (name := numbered.get(len(self.parts))) and _is_whole(self.folder / name):
            self.parts.append(self.folder / numbered.pop(len(self.parts)))
        for name in numbered.values():  # from the first that is missing or damaged on
            (self.folder / name).unlink()

    @property
    def rows(self) -> int:
        return sum(int(part.stem.split("-")[1]) for part in self.parts)

    @property
    def _kind(self) -> str:
        return self.path.suffix.lower()

    def append(self, columns: Columns) -> None:
        """Writes the next part, atomically."""
        rows, content = len(next(iter(columns.values()))), WRITERS[self._kind](columns)
        part = self.folder / f"{len(self.parts):08}-{rows}-{sha256(content).hexdigest()}{self._kind}"
        write_bytes(part, content)
        self.parts.append(part)

    def finish(self) -> None:
        """Puts the parts together in the place of the table, atomically, and removes them.

        Raises:
            RunFolderError: the table cannot be written, or a part cannot be read or removed.
        """
        with replacing(self.path) as file:
            JOINERS[self._kind](self.parts, file)
        sync_folder(self.path.absolute().parent)
        self.discard()

    def discard(self) -> None:
        """Removes the parts, the last one first: what is left of them, should it be cut off, is the beginning still.

        Raises:
            RunFolderError: one of them cannot be removed.
        """
        leftovers = self.folder.glob(f"{UNFINISHED}*")
        try:
            for file in (*reversed(self.parts), *leftovers, self.folder / KEY):
                file.unlink(missing_ok=True)
            self.folder.rmdir()
        except OSError as error:
            raise RunFolderError(f"{self.folder} cannot be removed ({error.strerror}): remove it yourself") from None


def _is_whole(part: Path) -> bool:
    match = PART.fullmatch(part.name)
    return match is not None and part.is_file() and sha256_file(part) == match[3]


def parts_folder(path: Path) -> Path:
    """Where the parts of the table `path` lie while it is unfinished."""
    return path.with_name(f"{path.name}{PARTS}")


def is_table(out: str) -> bool:
    """Whether `out` is to be one table, and not a folder or a URL: it has a suffix, and no folder is called so."""
    return "://" not in out and not out.endswith("/") and Path(out).suffix != "" and not Path(out).is_dir()


def check_table_path(path: Path) -> None:
    """Refuses a table that could not be written, before anything is computed.

    Raises:
        ConfigError: the name ends neither in .csv nor in .parquet.
        RunFolderError: its folder is not there, or cannot be written.
    """
    choose(WRITERS, path.suffix.lower(), "kind of table")
    try:
        if not path.absolute().parent.is_dir():
            raise RunFolderError(f"{path} cannot be written: the folder {path.parent} is not there; make it first")
        if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
            raise RunFolderError(f"{path} cannot be written: give another file")
    except OSError as error:  # such as a name that is too long
        raise RunFolderError(f"{path} cannot be written ({reason(error)}): give another file") from None


def _csv(columns: Columns) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(f"{value:.6f}" if isinstance(value, float) else value for value in row)
    return text.getvalue().encode("utf-8")


def _parquet(columns: Columns) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    # a part in which no image could be read has no values to tell types from
    types = {"path": pa.string(), "cluster": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), sink)
    return sink.getvalue()


def _join_csv(parts: list[Path], out: BinaryIO) -> None:
    for number, part in enumerate(parts):
        with part.open("rb") as file:
            heading = file.readline()
            out.write(b"" if number else heading)
            shutil.copyfileobj(file, out)


def _join_parquet(parts: list[Path], out: BinaryIO) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(out, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, use_threads=False))


WRITERS: Final[dict[str, Callable[[Columns], bytes]]] = {".csv": _csv, ".parquet": _parquet}
JOINERS: Final[dict[str, Callable[[list[Path], BinaryIO], None]]] = {".csv": _join_csv, ".parquet": _join_parquet}
