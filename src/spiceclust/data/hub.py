"""Images in data sets of the library `datasets`: saved on this machine, or fetched from the Hugging Face hub by it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from spiceclust.data.columns import column_of
from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import MAX_BYTES, Encoded, refuse_large
from spiceclust.data.files import file_bytes
from spiceclust.data.wording import counted, printable, why
from spiceclust.errors import SourceError


@dataclass(frozen=True)
class HuggingFace(Encoded):
    """Images in a column of a data set. `paths` are what it calls each where these differ, else the row numbers.

    Attributes:
        dataset: a `datasets.Dataset` of that column alone, whose images it leaves encoded.
        column: its name.
    """

    dataset: Any
    column: str

    def holders(self) -> list[str]:
        return sorted(str(file["filename"]) for file in self.dataset.cache_files)

    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        try:
            found = self.dataset[i][self.column]
        except Exception as error:  # damaged Arrow files raise errors of many kinds
            raise DecodeError(f"cannot be read: {why(error)}") from None
        content, path = (found.get("bytes"), found.get("path")) if isinstance(found, dict) else (found, None)
        if content is not None:
            refuse_large(len(content), most)
            return bytes(content)
        if not path:
            raise DecodeError("empty: the row holds no bytes")
        return file_bytes(path, most)


def open_hugging_face(given: str) -> HuggingFace:
    """Opens `NAME_OR_PATH[:split][#column]`.

    Args:
        given: a folder that `save_to_disk` made, or what `datasets.load_dataset` takes; the split where there are
            several; the column where several may hold images.

    Raises:
        SourceError: `datasets` is not installed, it cannot load this, or it is not clear which split or column.
    """
    try:
        import datasets
    except ImportError:
        raise SourceError("hf: needs the package datasets: pip install 'spiceclust[hf]'") from None
    rest, _, column = (given, "", "") if os.path.exists(given) else given.partition("#")
    name, _, split = (rest, "", "") if os.path.exists(rest) else rest.partition(":")
    what = f"hf:{printable(rest)}"
    try:
        saved = _was_saved(name)
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split or None)
    except Exception as error:  # of many kinds, from the disk, the net and many formats
        reason = f"{what} cannot be loaded ({why(error)})"
        raise SourceError(f"{reason}: give a saved data set or a name on the hub") from None
    if isinstance(found, dict):
        found = _split_of(found, split, what)
    elif split and saved:
        raise SourceError(f"{what} has no splits: leave out :{split}")
    column = column_of(found.features.arrow_schema, column, what)
    encoded = found.with_format(None).select_columns([column])
    if isinstance(found.features[column], datasets.Image):
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    described = f"{what}, {counted(len(encoded), 'row')}, column {column}"
    return HuggingFace(_names(encoded, column), described, encoded, column)


def _was_saved(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _split_of(splits: Any, split: str, what: str) -> Any:
    listed = ", ".join(splits)
    if split in splits:
        return splits[split]
    if split:
        raise SourceError(f"{what}: there is no split {split}: choose one of {listed}")
    if len(splits) > 1:
        raise SourceError(f"{what} has several splits: choose one of {listed}, as in {what}:{next(iter(splits))}")
    return next(iter(splits.values()))


def _names(encoded: Any, column: str) -> list[str]:
    """The paths that came with the images, if each has its own; else the row numbers."""
    flat = encoded.flatten()
    if f"{column}.path" in flat.column_names:
        told = list(flat.select_columns([f"{column}.path"])[f"{column}.path"])
        if all(told) and len(set(told)) == len(told):
            return [printable(path) for path in told]
    return [str(row) for row in range(len(encoded))]
