"""Images in a column of Parquet files, read a row group at a time.

n rows in all files.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from spiceclust.data.columns import column_of, leaf_of
from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import MAX_BYTES, Encoded, refuse_large, spread
from spiceclust.data.files import file_bytes, open_regular
from spiceclust.data.wording import counted, printable, several, why
from spiceclust.errors import SourceError

NAMES: Final = ("path", "file_name", "filename", "__key__")  # columns that may say what an image is called
GROUP_BYTES: Final = 2**31 - 1  # a larger row group would fill the memory, and Arrow cannot read one of pairs
KEPT_BYTES: Final = 2**28  # row groups are kept while they take less; the last two always
SAMPLED_GROUPS: Final = 8  # row groups that are read to learn the native size


class Group(NamedTuple):
    """A row group, or a whole file that cannot be read: one row that says why."""

    file: str
    number: int
    start: int
    reason: str = ""


@dataclass(frozen=True)
class Parquet(Encoded):
    """Images in Parquet files. `paths` are what a column of names says where each is there once, else `FILE:ROW`.

    Attributes:
        groups: in the order of the rows.
        recent: gives a row group's images; what it gave last, it still has.
        elsewhere: likewise the paths of files, where images are pairs: what has no bytes lies in a file.
    """

    groups: list[Group]
    recent: Recent
    elsewhere: Recent | None = None

    def holders(self) -> list[str]:
        """The tables, and what their rows call the files of the images, which those with bytes do not need."""
        called: set[str] = set()
        for number, group in enumerate(self.groups if self.elsewhere else []):
            with suppress(DecodeError, UnicodeDecodeError):
                called.update(_beside(group, path) for path in self.elsewhere.get(number).to_pylist() if path)  # type: ignore[union-attr]
        return sorted({group.file for group in self.groups} | called)

    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        number = bisect_right(self.groups, i, key=lambda group: group.start) - 1
        group = self.groups[number]
        if group.reason:
            raise DecodeError(group.reason)
        content = self.recent.get(number)[i - group.start].as_py()
        if content is None:
            return file_bytes(self._path(number, i - group.start), most)
        refuse_large(len(content), most)
        return bytes(content)

    def _path(self, number: int, row: int) -> str:
        """Where the image of a row without bytes lies."""
        try:
            path = self.elsewhere.get(number)[row].as_py() if self.elsewhere else None
        except UnicodeDecodeError:
            raise DecodeError("the row holds no bytes, and a path that is no text") from None
        if not path:
            raise DecodeError("empty: the row holds no bytes")
        return _beside(self.groups[number], path)

    def sample(self) -> Iterator[int]:
        starts = [group.start for group in self.groups] + [len(self)]
        for _, number in zip(range(SAMPLED_GROUPS), spread(len(self.groups)), strict=False):
            rows = range(starts[number], starts[number + 1])
            yield from rows[:: max(1, len(rows) // 32)]


class Recent:
    """The row groups read last. Several threads ask for images of the same few, and each is read once.

    Args:
        read: a group's images by its number, an Arrow column.
    """

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._held: dict[int, Any] = {}

    def get(self, number: int) -> Any:
        """The images of a group.

        Raises:
            DecodeError: it cannot be read.
        """
        with self._lock:
            if number not in self._held:
                while len(self._held) > 1 and sum(_bytes(held) for held in self._held.values()) > KEPT_BYTES:
                    del self._held[next(iter(self._held))]
                try:
                    self._held[number] = self._read(number)
                except Exception as error:  # damaged pages raise errors of many kinds
                    self._held[number] = DecodeError(f"its row group cannot be read: {why(error)}")
            found = self._held[number]
        if isinstance(found, DecodeError):
            raise DecodeError(str(found))
        return found


def open_parquet(files: Sequence[str], column: str = "") -> Parquet:
    """Finds the images of Parquet files by their footers.

    Args:
        files: paths of the files.
        column: the column of the images; found when it is the only one that holds bytes.

    Raises:
        SourceError: no column, or several, could be the one; no rows; a row group is too large.
    """
    found = in_tables(files, column, os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    if not found.paths:
        raise SourceError(f"{several(files, 'Parquet file')} holds no rows")
    return found


def in_tables(files: Sequence[str], column: str, root: str) -> Parquet:
    """As `open_parquet`, where there may be no rows.

    Args:
        files, column: likewise.
        root: absolute path of the folder that what rows are called is relative to.

    Raises:
        SourceError: no column, or several, could be the one; a row group is too large.
    """
    what = several(files, "Parquet file")
    shown = {file: printable(os.path.relpath(os.path.abspath(file), root)).replace(os.sep, "/") for file in files}
    groups: list[Group] = []
    paths: list[str] = []
    leaf, names, named = "", list(NAMES), True
    for file in files:
        try:
            footer = _footer(file)
            if not leaf:
                column = column_of(footer.schema, column, what)
                leaf = leaf_of(footer.schema.field(column))
            groups.extend(_groups(file, footer, leaf, len(paths), shown[file]))
            paths.extend(f"{shown[file]}:{row}" for row in range(footer.rows))
            named = named and f"{column}.path" in footer.texts
            names = [name for name in [*names, f"{column}.path"] if name in footer.texts]
        except DecodeError as error:
            groups.append(Group(file, 0, len(paths), str(error)))
            paths.append(shown[file])
    if not any(group.reason for group in groups):
        paths = _named(files, names, len(paths)) or paths
    described = f"{what}, {counted(len(paths), 'row')}, column {column}" if leaf else what
    recent = Recent(lambda number: _column(groups[number], leaf))
    elsewhere = Recent(lambda number: _column(groups[number], f"{column}.path")) if named else None
    return Parquet(paths, described, groups, recent, elsewhere, root=printable(root))


class _Footer(NamedTuple):
    schema: Any  # Arrow's
    texts: set[str]  # leaves that hold text
    sizes: list[dict[str, int]]  # bytes of each leaf, by row group
    counts: list[int]  # rows, by row group

    @property
    def rows(self) -> int:
        return sum(self.counts)


def _footer(file: str) -> _Footer:
    import pyarrow.parquet as pq

    open_regular(file)[0].close()
    try:
        with pq.ParquetFile(file) as table:
            metadata, schema = table.metadata, table.schema_arrow
            leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
            texts = {leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"}
            parts = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            sizes = [
                {leaf.path: part.column(i).total_uncompressed_size for i, leaf in enumerate(leaves)} for part in parts
            ]
            return _Footer(schema, texts, sizes, [part.num_rows for part in parts])
    except Exception as error:  # damaged footers raise errors of many kinds
        raise DecodeError(f"not a readable Parquet file: {why(error)}") from None


def _groups(file: str, footer: _Footer, leaf: str, start: int, shown: str) -> Iterator[Group]:
    if any(leaf not in sizes for sizes in footer.sizes):
        raise DecodeError(f"a Parquet file without the column {leaf.removesuffix('.bytes')}")
    for number, (sizes, count) in enumerate(zip(footer.sizes, footer.counts, strict=True)):
        if sizes[leaf] > GROUP_BYTES:
            raise SourceError(
                f"{shown}: row group {number} holds {sizes[leaf]:,} bytes of images, limit {GROUP_BYTES:,}: "
                "write it again with smaller ones, such as row_group_size=1000"
            )
        if count:
            yield Group(file, number, start)
        start += count


def _beside(group: Group, path: str) -> str:
    """A path that stands in a table, which counts from the table's folder."""
    return os.path.join(os.path.dirname(group.file), path)


def _column(group: Group, leaf: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(group.file) as table:
        found = table.read_row_group(group.number, columns=[leaf], use_threads=False)
    return _top(found)


def _named(files: Sequence[str], names: Sequence[str], n: int) -> list[str]:
    """The first of the columns `names` in which each of the n rows has a name of its own; empty if there is none."""
    import pyarrow.parquet as pq

    for name in names:
        told: list[str] = []
        try:
            for file in files:
                with pq.ParquetFile(file) as table:
                    told.extend(_top(table.read(columns=[name], use_threads=False)).to_pylist())
        except Exception:  # damaged pages, or text that is none: the images may be sound
            continue
        if len(set(told)) == n and all(told):
            return [printable(path) for path in told]
    return []


def _top(table: Any) -> Any:
    """The one column of a table that is left of a struct, or is a plain one."""
    import pyarrow as pa

    while pa.types.is_struct(table.schema.field(0).type):
        table = table.flatten()
    return table.column(0)


def _bytes(held: Any) -> int:
    return 0 if isinstance(held, DecodeError) else int(held.nbytes)
