"""The folder that a bulk prediction writes: a Parquet file for each shard, and how it is known which are whole.

A table carries in its footer the key of what it was made of, is written whole or not at all, and has checksums on its
pages. What begins with `_` is ours, and passed over by those who read the folder: `_key.json` says what it holds,
`_unread/` why images are missing, and `_summary.json`, written last, that it is complete.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spiceclust.bulk.places import Place
from spiceclust.bulk.shards import TABLE, Shard
from spiceclust.errors import RunFolderError
from spiceclust.files import UNFINISHED, json_text, read_sealed, sealed, sha256_json
from spiceclust.locks import LOCK
from spiceclust.manifest import Row
from spiceclust.prediction import Chunk

KEY: Final = "_key.json"
SUMMARY: Final = "_summary.json"
UNREAD: Final = "_unread"
FORMAT: Final = 1
FOOTER: Final = "spiceclust"  # the name under which a table's footer says what it is
READERS: Final = 16  # tables that are looked at at once


@dataclass(frozen=True)
class Done:
    """What became of a shard.

    Attributes:
        shard: its name.
        rows: images in its table.
        unread: images that could not be read.
        seconds: what it took; 0 where it was there already.
        failure: why there is no table; empty where there is one.
    """

    shard: str
    rows: int = 0
    unread: int = 0
    seconds: float = 0.0
    failure: str = ""

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


class Tables:
    """The tables of the shards of a source.

    Args:
        place: the folder.
        key: what all tables depend on: the model and the form; a shard's stamp is added to it.
        features: D, where tables have a column of embeddings; otherwise 0.
    """

    def __init__(self, place: Place, key: str, features: int) -> None:
        self.place, self.key, self.features = place, key, features

    def open(self, shards: Sequence[Shard]) -> dict[str, Done]:
        """Makes the folder ours, and looks which of the shards have their table.

        Returns:
            What became of these, by name. Tables that are damaged, or of a shard that has changed, are not among them.

        Raises:
            RunFolderError: it holds the tables of another model, form or source, or cannot be written.
        """
        there = {file.name for file in self.place.files()}
        tables = {
            name for name in there if name.endswith(TABLE) and "/" not in name and not name.startswith(UNFINISHED)
        }
        if not self.place.local or there - {LOCK}:
            self._refuse_others(there, tables - {shard.table for shard in shards})
        self.place.remove(SUMMARY)
        self._write(KEY, {"key": self.key})
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self.find, (shard for shard in shards if shard.table in tables))
            return {done.shard: done for done in found if done}

    def _refuse_others(self, there: set[str], strange: set[str]) -> None:
        shown = self.place.shown
        if KEY not in there and there - {LOCK}:
            raise RunFolderError(f"{shown} holds other files: give a new folder")
        if KEY in there and self._read(KEY).get("key") != self.key:
            raise RunFolderError(
                f"{shown} holds the tables of another model, or of another form: remove it, or give another folder"
            )
        if strange:
            raise RunFolderError(
                f"{shown} holds {len(strange)} tables of shards that are not in the source, such as {min(strange)}: "
                "remove them, or give another folder"
            )

    def find(self, shard: Shard) -> Done | None:
        """What the table of a shard says of itself, if it is there, whole, and of what the shard holds now."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.place.open(shard.table) as file:
                content = pa.BufferReader(file.read())
            with pq.ParquetFile(content, page_checksum_verification=True) as table:
                told = json.loads((table.metadata.metadata or {})[FOOTER.encode()])
                if told["key"] != self.key_of(shard):
                    return None
                table.read(use_threads=False)  # to see whether the checksums hold
                return Done(shard.name, table.metadata.num_rows, told["unread"])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None

    def key_of(self, shard: Shard) -> str:
        """Hexadecimal SHA-256 of all that a table depends on."""
        return sha256_json([self.key, shard.name, shard.stamp])

    def write(self, shard: Shard, chunks: Iterable[Chunk]) -> Done:
        """Writes the table of a shard, a chunk at a time; before it, which of its images could not be read.

        Raises:
            RunFolderError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"path": pa.string(), "cluster": pa.int64(), "confidence": pa.float64(), "novelty": pa.float64()}
        if self.features:
            columns["embedding"] = pa.list_(pa.float32(), self.features)
        schema = pa.schema(columns)
        rows, unread = 0, list[Row]()
        with self.place.writing(shard.table) as file:
            with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
                for chunk in chunks:
                    values: dict[str, Any] = dict(chunk.columns())
                    if self.features:
                        flat = pa.array(chunk.embeddings[chunk.labels >= 0].ravel())
                        values["embedding"] = pa.FixedSizeListArray.from_arrays(flat, self.features)
                    writer.write_table(pa.table(values, schema=schema))
                    rows += len(values["path"])
                    unread += [row for row in chunk.rows if row.status == "quarantined"]
                told = {"key": self.key_of(shard), "unread": len(unread)}
                writer.add_key_value_metadata({FOOTER: json.dumps(told)})
            self._write_unread(shard, unread)  # the table comes into its place last, and vouches for this
        return Done(shard.name, rows, len(unread))

    def _write_unread(self, shard: Shard, unread: list[Row]) -> None:
        if not unread:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows([row.path, row.reason] for row in unread)
        with self.place.writing(f"{UNREAD}/{shard.table.removesuffix(TABLE)}.csv") as file:
            file.write(text.getvalue().encode("utf-8"))

    def finish(self, done: Sequence[Done]) -> None:
        """Writes the summary: the folder is complete where its list of failures is empty.

        Raises:
            RunFolderError: it cannot be written.
        """
        failed = {each.shard: each.failure for each in done if each.failure}
        summary = {
            "key": self.key,
            "shards": len(done),
            "rows": sum(each.rows for each in done),
            "unread": sum(each.unread for each in done),
            "failed": failed,
        }
        self._write(SUMMARY, summary)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with self.place.writing(name) as file:
            file.write(json_text(sealed(content, FORMAT)).encode("utf-8"))

    def _read(self, name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as here:
            self.place.fetch(name, Path(here) / name)
            return read_sealed(Path(here) / name, FORMAT)
