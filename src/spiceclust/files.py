"""Files that are either whole or absent: every write goes to a temporary name, is synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spiceclust.errors import RunFolderError

UNFINISHED = ".unfinished-"  # how the temporary files begin that a killed process leaves behind
DAMAGED = "restore it, or fit into a new folder"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path` in one atomic step; an existing file is replaced or left as it was.

    Raises:
        RunFolderError: no space, no permission, no such folder, or the device failed.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` in one atomic step, when the block ends without an error.

    Raises:
        RunFolderError: no space, no permission, no such folder, or the device failed.
    """
    try:
        with _replacing(path) as file:
            yield file
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}): free it or choose another folder") from None


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
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
        raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: expected a JSON object, found {type(content).__name__}: {DAMAGED}")
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
