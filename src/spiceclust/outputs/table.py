"""Predictions as a table: CSV or Parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

from spiceclust.config import choose
from spiceclust.errors import RunFolderError
from spiceclust.files import write_bytes
from spiceclust.result import Result

Columns = dict[str, list[str] | list[int] | list[float]]


def check_table_path(path: Path) -> None:
    """Refuses a table that could not be written, before anything is computed.

    Raises:
        ConfigError: the name ends neither in .csv nor in .parquet.
        RunFolderError: its folder is not there.
    """
    choose(WRITERS, path.suffix.lower(), "kind of table")
    if not path.absolute().parent.is_dir():
        raise RunFolderError(f"{path} cannot be written: the folder {path.parent} is not there; make it first")
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise RunFolderError(f"{path} cannot be written: give another file")


def write_table(path: Path, result: Result) -> None:
    """Writes path, cluster and confidence of every image that was clustered, by the ending of `path`, atomically."""
    there = result.labels >= 0
    columns: Columns = {
        "path": [row.path for row, ok in zip(result.rows, there, strict=True) if ok],
        "cluster": result.labels[there].tolist(),
        "confidence": result.confidence[there].tolist(),
    }
    write_bytes(path, WRITERS[path.suffix.lower()](columns))


def _csv(columns: Columns) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [path, cluster, f"{confidence:.6f}"] for path, cluster, confidence in zip(*columns.values(), strict=True)
    )
    return text.getvalue().encode("utf-8")


def _parquet(columns: Columns) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Columns], bytes]] = {".csv": _csv, ".parquet": _parquet}
