"""The manifest: one row for every input found, whether it could be used or not."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, write_bytes, write_text

Status = Literal["ok", "quarantined", "duplicate"]


@dataclass(frozen=True)
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("path", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), sink)
    write_bytes(folder / "images.parquet", sink.getvalue())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows([row.path, row.reason] for row in rows if row.status == "quarantined")
    write_text(folder / "quarantine.csv", text.getvalue())


def read_manifest(folder: Path) -> list[Row]:
    """Reads `images.parquet`.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "images.parquet"
    try:
        with path.open("rb") as file:  # opened here: Arrow takes no path that is not UTF-8
            # with threads Arrow aborts one process in ten at its end, where the machine is busy (apache/arrow 50482)
            return [Row(**row) for row in pq.read_table(file, use_threads=False).to_pylist()]
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing: run `spiceclust fit` into {folder} again to finish it") from None
    except (pa.ArrowException, TypeError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None
