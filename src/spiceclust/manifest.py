"""The manifest: one row for every input found, whether it could be used or not."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, write_bytes, write_text

Status = Literal["ok", "quarantined", "duplicate"]
AT_ONCE: Final = 2**14  # rows that are turned from columns together


@dataclass(frozen=True, slots=True)
class Row:
    """One input.

    Attributes:
        path: path relative to the source folder with `/`, the path as given in a list, or the row number of an array.
        status: `ok` (clustered), `duplicate` (same bytes as an earlier `ok` row, which it shares its cluster with)
            or `quarantined` (could not be read).
        reason: why it is quarantined, or `same content as PATH` for a duplicate; empty for `ok`.
        width, height: pixels as displayed (after EXIF rotation); 0 when unreadable.
        sha256: hexadecimal digest of the file's bytes (of the pixels for an array); empty when unreadable as a file.
    """

    path: str
    status: Status
    reason: str
    width: int
    height: int
    sha256: str


def write_manifest(folder: Path, rows: list[Row]) -> None:
    """Writes `images.parquet` (every row) and `quarantine.csv` (path, reason) into `folder`."""
    write_bytes(folder / "images.parquet", as_parquet(rows))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows([row.path, row.reason] for row in rows if row.status == "quarantined")
    write_text(folder / "quarantine.csv", text.getvalue())


def as_parquet(rows: list[Row]) -> bytes:
    """Rows as a Parquet file, a column for each of their attributes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, numbers = ("path", "status", "reason", "sha256"), ("width", "height")
    types = {**dict.fromkeys(texts, pa.string()), **dict.fromkeys(numbers, pa.int32())}
    columns = {name: pa.array([getattr(row, name) for row in rows], types[name]) for name in Row.__match_args__}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def from_parquet(content: bytes) -> list[Row]:
    """The rows of a Parquet file.

    Raises:
        ArrowException, TypeError, OSError: it is damaged, or holds other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # with threads Arrow aborts one process in ten at its end, where the machine is busy (apache/arrow 50482)
    batches = pq.read_table(pa.BufferReader(content), use_threads=False).to_batches(AT_ONCE)
    return [Row(**row) for batch in batches for row in batch.to_pylist()]


def read_manifest(folder: Path) -> list[Row]:
    """Reads `images.parquet`.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    import pyarrow as pa

    path = folder / "images.parquet"
    try:
        return from_parquet(path.read_bytes())  # opened here: Arrow takes no path that is not UTF-8
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing: run `spiceclust fit` into {folder} again to finish it") from None
    except (pa.ArrowException, TypeError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None
