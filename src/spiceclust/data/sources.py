"""Where images come from: what a person gives, and the kind of source it is."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.arrays import Array, array_in, open_array
from spiceclust.data.benchmarks import BENCHMARKS, open_benchmark
from spiceclust.data.datasets import digits
from spiceclust.data.decoder import Decoder
from spiceclust.data.encoded import Encoded
from spiceclust.data.files import Files, find_files, in_folder
from spiceclust.data.hub import open_hugging_face
from spiceclust.data.parquet import open_parquet
from spiceclust.data.processes import FIRST
from spiceclust.data.tars import open_tars
from spiceclust.data.wording import counted, printable, why
from spiceclust.errors import SourceError

BUILTIN: dict[str, Callable[[], NDArray[np.uint8]]] = {"builtin:digits": digits}
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")  # the compressed: for the error
NOTES = (".md", ".json", ".txt")  # what lies in a folder of shards beside them
PARQUET = (".parquet", ".pq")

Source: TypeAlias = Encoded | Array


def open_source(
    source: str | Path | NDArray[Any] | Sequence[str | Path], exclude: Sequence[Path] = (), workers: int | None = None
) -> Source:
    """Finds the images of a source without decoding them.

    Args:
        source: a folder (searched to any depth, hidden files too; links to folders are not followed), one picture,
            a .npy or .npz file (`images`, never `labels`), `builtin:digits`, a list of paths, or an array
            (N, H, W) or (N, H, W, 1 | 3 | 4) of uint8; bool, uint16 and floats in [0, 1] are brought to uint8. A .tar
            or .parquet file, a list or a pattern such as `shards/*.tar` of them, or a folder of nothing else;
            `FILE.parquet#COLUMN` where several columns hold bytes. `hf:NAME_OR_PATH[:SPLIT][#COLUMN]` for the library
            `datasets`. `NAME:ROOT` for a benchmark whose files lie in ROOT.
        exclude: folders and files to leave out where they lie inside `source`: what a command writes itself.
        workers: processes that decode images; None for one for each processor, 0 to decode in this one without limits
            of time and memory. The images do not depend on it.

    Returns:
        A kind of `Encoded`, or `Array`; all have `paths`, `description`, `root`, `len()`, `native_size()`,
        `picture(i)`, `parts()` and `read(part, size)`.

    Raises:
        SourceError: there is nothing there, or it is of another kind.
    """
    found = _open(source, exclude, workers)
    return found if isinstance(found, Array) else replace(found, decoder=Decoder(workers))


def _open(source: Any, exclude: Sequence[Path], workers: int | None) -> Source:
    if isinstance(source, np.ndarray):
        return open_array(source, "array")
    if isinstance(source, str):
        kind, colon, rest = source.partition(":")
        if colon and kind == "builtin":
            if source not in BUILTIN:
                raise SourceError(f"unknown built-in data set {source!r}: choose one of {', '.join(BUILTIN)}")
            return replace(open_array(BUILTIN[source](), source), root=source)
        if colon and kind == "hf":
            return open_hugging_face(rest)
        if colon and kind in BENCHMARKS:
            benchmark = open_benchmark(kind, rest)
            again = printable(f"{kind}:{os.path.abspath(rest)}")
            return replace(benchmark, root=again) if isinstance(benchmark, Array) else benchmark
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), exclude, workers)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return _open_list(source)
    raise SourceError(f"cannot read images from a {type(source).__name__}: give a folder, a list of paths or an array")


def _open_path(path: str, exclude: Sequence[Path], workers: int | None) -> Source:
    shown = printable(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return _open_absent(path, error)
    if stat.S_ISDIR(mode):
        if workers != 0:
            FIRST.begin()  # imports what decoding needs while the folder is looked through
        files = find_files(path, exclude)
        return _shards(without_notes(files)) or in_folder(path, files, f"folder {shown}, {counted(len(files), 'file')}")
    if path.lower().endswith((".npy", ".npz")):
        return replace(open_array(array_in(path), f"file {shown}"), root=printable(os.path.abspath(path)))
    if shards := _shards([path]):
        return shards
    picture = Files([shown], f"file {shown}", [path], decoder=Decoder(workers))
    if picture.header(0) is None:
        raise SourceError(
            f"source {shown!r} is neither a folder, nor a .npy or .npz file, nor a picture, nor a .tar or .parquet file"
        )
    return picture


def _open_absent(path: str, error: Exception) -> Source:
    """What is no path on the disk may be a pattern, or a path and a column."""
    shown = printable(path)
    file, _, column = path.rpartition("#")
    if file.lower().endswith(PARQUET):
        return open_parquet(sorted(glob.glob(file, recursive=True)) or [file], column)
    if glob.has_magic(path) and "\0" not in path:
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise SourceError(f"no file fits the pattern {shown!r}")
        return _open_list(found)
    kinds = (
        "a folder, a picture, a .npy or .npz file, .tar or .parquet files, hf:NAME, "
        f"{', '.join(BUILTIN)}, or NAME:ROOT with a NAME of {', '.join(BENCHMARKS)}"
    )
    raise SourceError(f"source {shown!r} cannot be opened ({why(error)}): give {kinds}") from None


def _open_list(source: Sequence[str | Path]) -> Source:
    for i, item in enumerate(source):
        if not isinstance(item, str | os.PathLike):
            raise SourceError(
                f"item {i} of the list is a {type(item).__name__}, not a path; "
                "stack arrays of one size into a single array (N, H, W, 3)"
            )
    files = [os.fspath(item) for item in source]
    if not files:
        raise SourceError("the list of paths is empty")
    described = f"list of {counted(len(files), 'file')}"
    return _shards(files) or Files([printable(file) for file in files], described, files)


def _shards(files: list[str]) -> Source | None:
    """Files that are all archives of one kind, as the images in them."""
    kind = kind_of(files)
    return ARCHIVES[kind](files) if kind in ARCHIVES else None


ARCHIVES: dict[str, Callable[[list[str]], Source]] = {"tars": open_tars, "tables": open_parquet}


def without_notes(files: Sequence[str]) -> list[str]:
    """The files of a folder less those that may lie beside shards: hidden ones, texts, JSON."""
    shown = [file for file in files if not os.path.basename(file).startswith((".", "_"))]
    return [file for file in shown if not file.lower().endswith(NOTES)]


def kind_of(files: Sequence[str]) -> str:
    """`tars` or `tables` where all files are archives of that kind, otherwise `files`."""
    for kind, suffixes in (("tars", TAR), ("tables", PARQUET)):
        if files and all(file.lower().endswith(suffixes) for file in files):
            return kind
    return "files"
