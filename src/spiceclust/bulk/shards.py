"""What is worked through piece by piece: the tars, the Parquet files, or runs of the files of a folder."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from spiceclust.bulk.places import Found, Place, Remote, is_url
from spiceclust.data.encoded import Encoded
from spiceclust.data.files import Files, find_files
from spiceclust.data.parquet import in_tables
from spiceclust.data.sources import PARQUET, kind_of, without_notes
from spiceclust.data.tars import in_tars
from spiceclust.data.wording import printable
from spiceclust.errors import SourceError
from spiceclust.files import sha256_json

FILES: Final = 2000  # of a folder that make a shard
LONGEST: Final = 180  # bytes of a table's name; file systems take 255
TABLE: Final = ".parquet"


@dataclass(frozen=True)
class Shard:
    """A piece of a source.

    Attributes:
        name: a tar or Parquet file by its path within the source; runs of files are numbered.
        files: what it is made of, as paths within the source.
        stamp: hexadecimal SHA-256 of the names, sizes and times of its files.
    """

    name: str
    files: list[str]
    stamp: str

    @property
    def table(self) -> str:
        """What its table is called: follows from its name alone, and differs where that differs.

        Letters, digits, `.`, `-` and `_` stay; of any other byte stands `~` with two hexadecimal digits, and of a `.`
        or `_` at the front too, since readers of folders pass over these.
        """
        name = "".join(
            chr(byte) if chr(byte) in _PLAIN and not (i == 0 and chr(byte) in "._") else f"~{byte:02X}"
            for i, byte in enumerate(self.name.encode("utf-8", "backslashreplace"))
        )
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 33]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        return name + TABLE

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


@dataclass(frozen=True)
class Listing:
    """A source in shards.

    Attributes:
        root: the absolute path or the URL that the shards' files are relative to.
        kind: `tars`, `tables` or `files`.
        column: of the images in tables, where it was named.
        shards: in the order of their names.
    """

    root: str
    kind: str
    column: str
    shards: list[Shard]


def find_shards(source: str, exclude: Sequence[Path] = ()) -> Listing:
    """Finds the shards of a source without opening any.

    Args:
        source: a folder, on this machine or behind a URL, of tars or Parquet files and nothing else, or of images;
            one tar or Parquet file; a pattern of paths on this machine; `#COLUMN` behind Parquet.
        exclude: folders on this machine to leave out where they lie inside.

    Raises:
        SourceError: there is nothing there, or it has no shards.
    """
    column = ""
    if not os.path.exists(source):
        before, hash_, behind = source.rpartition("#")
        if hash_ and (before.lower().endswith(PARQUET) or is_url(source)):
            source, column = before, behind
    if is_url(source):
        return _behind(source, column)
    if os.path.isdir(source):
        files = find_files(source, exclude)
        root = os.path.abspath(source)
    else:
        files = sorted(glob.glob(source, recursive=True)) if not os.path.exists(source) else [source]
        if not files or kind_of(files) == "files":
            raise SourceError(
                f"{printable(source)!r} has no shards: give a folder, .tar or .parquet files, a pattern of these, or a "
                "URL such as s3://BUCKET/FOLDER; other sources are predicted into one table, --out FILE.parquet"
            )
        root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return _listing(root, [_found(file, root) for file in files], column)


def open_shard(shard: Shard, root: str, kind: str, column: str, scratch: Path) -> Encoded:
    """The images of a shard.

    Args:
        shard: from `find_shards`.
        root, kind, column: of its listing.
        scratch: an empty folder: tars and tables behind a URL are fetched into it.

    Raises:
        SourceError: a tar is compressed, a table has no column that could be it.
        OSError: it cannot be fetched.
    """
    if is_url(root):
        place = Place(root)
        if kind == "files":
            return Remote([printable(file) for file in shard.files], f"{place.shown}, {shard.name}", place, shard.files)
        for file in shard.files:
            place.fetch(file, scratch / file)
        root = str(scratch)
    files = [os.path.join(root, file) for file in shard.files]
    if kind == "tars":
        return in_tars(files, root)
    if kind == "tables":
        return in_tables(files, column, root)
    return Files([printable(file).replace(os.sep, "/") for file in shard.files], shard.name, files)


def _behind(url: str, column: str) -> Listing:
    found = Place(url).files()
    if [each.name for each in found] == [""]:  # a single file
        address, mark, query = url.partition("?")
        url, _, name = address.rpartition("/")
        return _listing(url + mark + query, [found[0]._replace(name=name)], column)
    return _listing(url, found, column)


def _found(file: str, root: str) -> Found:
    name = os.path.relpath(os.path.abspath(file), root)
    try:
        found = os.stat(file)
    except OSError:  # a row of its shard will say why
        return Found(name, 0, 0)
    return Found(name, found.st_size, found.st_mtime_ns)


def _listing(root: str, found: Sequence[Found], column: str) -> Listing:
    if not found:
        raise SourceError(f"{printable(root)} holds no files")
    by_name = {each.name: each for each in found}
    archives = without_notes(list(by_name))
    kind = kind_of(archives)
    if kind == "files":
        names = list(by_name)
        runs = [names[start : start + FILES] for start in range(0, len(names), FILES)]
        shards = [_shard(f"files-{number:08}", [by_name[name] for name in run]) for number, run in enumerate(runs)]
    else:
        shards = [_shard(printable(name), [by_name[name]]) for name in archives]
    return Listing(root, kind, column, shards)


def _shard(name: str, files: Sequence[Found]) -> Shard:
    stamp = sha256_json([[file.name, file.size, file.changed] for file in files])
    return Shard(name, [file.name for file in files], stamp)
