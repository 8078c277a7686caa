"""Whether a folder can hold a run: what lies there already, and whether it is the same run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, UNFINISHED, read_sealed, reason, write_sealed
from spiceclust.locks import LOCK

RECORD: Final = "run.json"
FORMAT: Final = 1  # of run.json, and of metrics.json beside it


def look_at(folder: Path, shared: Collection[str]) -> dict[str, Any] | None:
    """Refuses a folder that cannot be used, and returns the run.json of an earlier call, if there is one.

    Args:
        folder: there or not.
        shared: names of the stages that may lie in a folder without a run.json.

    Raises:
        RunFolderError: it holds something else, or cannot be opened, made or written.
    """
    try:
        if folder.is_dir():
            contents = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(UNFINISHED))
            if RECORD in contents:
                return read_record(folder)
            strange = [name for name in contents if name not in shared and name != LOCK]
            if strange:
                raise RunFolderError(
                    f"{folder} holds other files ({strange[0]}, ...) and no run.json: choose an empty or new folder"
                )
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except RunFolderError:
        raise
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder} cannot be opened ({reason(error)}): choose another folder") from None
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunFolderError(f"{folder} cannot be made or written, because of {existing}: choose another folder")
    return None


def read_record(folder: Path) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        RunFolderError: it is missing or damaged.
        NewerFormatError: it is of a newer format.
    """
    return read_sealed(folder / RECORD, FORMAT, _older)


def _older(content: dict[str, Any]) -> bool:
    """Whether it is a run.json of the time before there were checksums: then it had no format either."""
    return "format" not in content and {"config", "versions", "state"} <= content.keys()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes `run.json`, atomically."""
    write_sealed(folder / RECORD, record, FORMAT)


def sweep(folder: Path) -> None:
    """Removes what killed writers left half written; only for whom the folder is `locked`.

    What lies in a folder within it that has a lock of its own, as that of a review, is left to whoever holds that.
    """
    others = [lock.parent for lock in folder.rglob(LOCK) if lock.parent != folder]
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if any(path.is_relative_to(other) for other in others):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_differences(
    folder: Path, earlier: dict[str, Any] | None, config: dict[str, Any], fingerprint: str | None = None
) -> None:
    """Raises RunFolderError when the run in `folder` has another value for any field of `config`, or other images."""
    if earlier is None:
        return
    if not isinstance(earlier.get("config"), dict):
        raise RunFolderError(f"{folder / RECORD} is damaged (no config in it): {DAMAGED}")
    known, wanted = _flatten(earlier["config"]), _flatten(config)
    if fingerprint is not None and earlier.get("images") != fingerprint:
        different = ["its images were others"]
    else:
        different = [
            f"{name} {known.get(name)!r} there, {value!r} now"
            for name, value in wanted.items()
            if known.get(name) != value
        ]
    if different:
        shown = "; ".join(different[:3]) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
        raise RunFolderError(f"{folder} holds another run ({shown}): choose another folder for this one")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
