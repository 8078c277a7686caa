"""Which column of a table holds images: bytes, or Hugging Face's pairs of bytes and path."""

from __future__ import annotations

import json
from typing import Any

from spiceclust.errors import SourceError


def column_of(schema: Any, wanted: str, what: str) -> str:
    """The column of a table that holds images.

    Args:
        schema: an Arrow schema; what Hugging Face noted in it about features is heeded.
        wanted: its name, or empty.
        what: the table, for errors.

    Raises:
        SourceError: it is not there or holds no bytes; or none was named and there is not exactly one that could be it.
    """
    able: list[str] = [field.name for field in schema if leaf_of(field)]
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    if wanted:
        if wanted not in able:
            raise SourceError(f"{what} has no column {wanted!r} of images (bytes); its columns: {listed}")
        return wanted
    noted = _noted(schema)
    chosen = [name for name in able if name in noted] or able
    if not chosen:
        raise SourceError(f"{what} has no column of images (bytes); its columns: {listed}")
    if len(chosen) > 1:
        raise SourceError(
            f"{what} has {len(chosen)} columns that may hold the images: {', '.join(chosen)}; "
            f"name one behind a #, as in SOURCE#{chosen[0]}"
        )
    return chosen[0]


def leaf_of(field: Any) -> str:
    """Where the bytes lie in a column, an Arrow field: in itself, or in the `bytes` of a pair; empty if nowhere."""
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        inner = [field.type.field(i) for i in range(field.type.num_fields)]
        return f"{field.name}.bytes" if any(each.name == "bytes" and _is_bytes(each.type) for each in inner) else ""
    return field.name if _is_bytes(field.type) else ""


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _noted(schema: Any) -> set[str]:
    """The columns that Hugging Face's note in a schema calls images."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "Image"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return set()
