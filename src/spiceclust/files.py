"""Files that are either whole or absent, and say when they are damaged.

Every write goes to a temporary name, is synced, then renamed. A JSON file that is read back carries its format and a
checksum of the rest, or is listed with its checksum in one that does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spiceclust.errors import NewerFormatError, RunFolderError

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
    temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reason(error: OSError | ValueError) -> str:
    """What the system has against a path; a ValueError is its word for one that holds a zero."""
    return getattr(error, "strerror", None) or str(error)


def sync_folder(folder: Path) -> None:
    """Makes what was renamed in `folder` outlast a power failure.

    Raises:
        RunFolderError: the device failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise RunFolderError(f"{folder} cannot be written ({error.strerror}): free it and go on") from None


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"))


def json_text(content: Any) -> str:
    """Indented JSON; NaN and infinities are refused, since JSON has none."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically, as `json_text`."""
    write_text(path, json_text(content))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        RunFolderError: the file is missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: expected a JSON object, found {type(content).__name__}: {DAMAGED}")
    return content


def write_sealed(path: Path, content: dict[str, Any], version: int) -> None:
    """Writes a JSON object atomically, `sealed`."""
    write_json(path, sealed(content, version))


def sealed(content: dict[str, Any], version: int) -> dict[str, Any]:
    """A JSON object with `format` and with a `checksum` of all the rest.

    Args:
        content: JSON values; neither of the two names is among its keys.
        version: the format.
    """
    whole = json.loads(json.dumps({"format": version, **content}))  # as it will be read: keys are texts
    return {**whole, "checksum": sha256_json(whole)}


def read_sealed(
    path: Path, version: int, older: Callable[[dict[str, Any]], bool] = lambda content: False
) -> dict[str, Any]:
    """Reads what `write_sealed` wrote, without format and checksum.

    Args:
        path: of the file.
        version: the newest format that is understood.
        older: whether an object is of the time before there were checksums; such a one is taken as it is.

    Raises:
        RunFolderError: missing or damaged.
        NewerFormatError: of a newer format, and not damaged by its checksum.
    """
    content = read_json(path)
    checksum, found = content.pop("checksum", None), content.get("format")
    # a checksum that does not hold comes first: a flipped bit makes another format too
    if isinstance(found, int) and found > version and checksum in (None, sha256_json(content)):
        raise NewerFormatError(f"{path} has format {found}, this version reads {version}: update spiceclust")
    if checksum != sha256_json(content) and (checksum is not None or not older(content)):
        what = "no checksum" if checksum is None else "its checksum is another"
        raise RunFolderError(f"{path} is damaged ({what}): {DAMAGED}")
    content.pop("format", None)
    return content


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(content: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of its keys."""
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())
