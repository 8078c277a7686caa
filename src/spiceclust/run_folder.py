"""Whether a folder can hold a run: what lies there already, and whether it is the same run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, UNFINISHED, read_json


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
            if "run.json" in contents:
                return read_json(folder / "run.json")
            strange = [name for name in contents if name not in shared]
            if strange:
                raise RunFolderError(
                    f"{folder} holds other files ({strange[0]}, ...) and no run.json: choose an empty or new folder"
                )
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be opened ({error.strerror}): choose another folder") from None
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunFolderError(f"{folder} cannot be made or written, because of {existing}: choose another folder")
    return None


def make_writable(folder: Path) -> None:
    """Makes the folder, and tries whether it can be written; raises RunFolderError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None


def refuse_differences(
    folder: Path, earlier: dict[str, Any] | None, config: dict[str, Any], fingerprint: str | None = None
) -> None:
    """Raises RunFolderError when the run in `folder` has another value for any field of `config`, or other images."""
    if earlier is None:
        return
    if not isinstance(earlier.get("config"), dict):
        raise RunFolderError(f"{folder / 'run.json'} is damaged (no config in it): {DAMAGED}")
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
