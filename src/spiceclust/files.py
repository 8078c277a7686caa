"""Files that are either whole or absent: every write goes to a temporary name, is synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from spiceclust.errors import RunFolderError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path` in one atomic step; an existing file is replaced or left as it was."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        RunFolderError: the file is missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise RunFolderError(f"{path} is damaged and cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: expected a JSON object, found {type(content).__name__}")
    return content


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
