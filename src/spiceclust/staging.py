"""A folder that is made whole or not at all: it grows under a hidden name beside its place, and is renamed at last."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, Final

from spiceclust.errors import RunFolderError
from spiceclust.files import UNFINISHED, read_json, reason, sync_folder, write_json
from spiceclust.locks import locked_beside
from spiceclust.progress import Progress, Silent

ABOUT: Final = "export.json"  # what the folder holds; until it is whole, the proof that it is ours


@contextmanager
def new_folder(target: Path, about: dict[str, Any], progress: Progress | None = None) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `target` when the block ends without an error.

    After an interruption it stays where it is, and the next call with the same `about` is given it as it was left; one
    with another `about` empties it first. Inside lies `export.json` with `about`, in the finished folder too.

    Args:
        target: a folder that is empty or not there; the folders above it are made.
        about: JSON values that say what the folder will hold.
        progress: told where the file system has no locks.

    Raises:
        RunFolderError: `target` holds something, it cannot be made there, or another process is making it.
    """
    refuse_full(target)
    target = Path(os.path.realpath(target))
    with locked_beside(target, progress or Silent()), _growing(target, about) as growing:
        yield growing


@contextmanager
def _growing(target: Path, about: dict[str, Any]) -> Iterator[Path]:
    growing = target.parent / f"{UNFINISHED}{target.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(growing):
            _clear(growing, about)
        growing.mkdir(exist_ok=True)
        write_json(growing / ABOUT, about)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be made ({reason(error)}): choose another folder") from None
    try:
        yield growing
    except BaseException:
        if os.listdir(growing) == [ABOUT]:  # nothing to go on from
            shutil.rmtree(growing)
        raise
    try:
        _put(growing, target)  # replaces an empty folder, and nothing else
    except OSError as error:
        raise RunFolderError(
            f"{target} cannot be put in place ({error.strerror}): all of it is in {growing}, move it yourself"
        ) from None


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder, but for hidden files, which are locks and what was cut off.

    What a call that was killed left of such a copy is removed.

    Raises:
        RunFolderError: `target` holds something, or it cannot be written.
    """
    refuse_full(target)
    target = Path(os.path.realpath(target))
    growing = target.parent / f"{UNFINISHED}{target.name}-{os.getpid()}"
    try:
        for left in target.parent.glob(f"{UNFINISHED}{escape(target.name)}-*"):
            if _is_of_dead(left.name.rpartition("-")[2]):
                shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(source, growing, ignore=shutil.ignore_patterns(".*"))
        _put(growing, target)
    except OSError as error:
        raise RunFolderError(
            f"{target} cannot be written ({error.strerror or 'some files'}): choose another folder"
        ) from None
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def _put(growing: Path, target: Path) -> None:
    """Renames a folder that is whole; where the device does not confirm that, back again, so that a next call goes on.

    Raises:
        OSError: it cannot be renamed; it is as it was.
        RunFolderError: the device failed.
    """
    os.rename(growing, target)
    try:
        sync_folder(target.parent)
    except RunFolderError:
        try:
            os.rename(target, growing)
        except OSError as error:
            raise RunFolderError(
                f"{target} is there, and whole, but the device failed ({error.strerror}): see that it outlasts that"
            ) from None
        raise


def refuse_full(target: Path) -> None:
    """Raises RunFolderError when `target` is there and anything but an empty folder, or can never be there."""
    try:
        os.lstat(target)
        is_folder = target.is_dir()
        full = is_folder and any(target.iterdir())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{target} cannot be opened ({reason(error)}): choose another folder") from None
    if not is_folder:
        raise RunFolderError(f"{target} is not a folder: choose a new or empty one")
    if full:
        raise RunFolderError(f"{target} is not empty, and nothing is overwritten: choose a new or empty folder")


def _clear(growing: Path, about: dict[str, Any]) -> None:
    """Of what an unfinished call left, removes all if it was another one, and otherwise the files that were cut off.

    Raises:
        RunFolderError: no such call can have left it.
    """
    ours = growing.is_dir() and not growing.is_symlink()
    if not ours or not ((growing / ABOUT).is_file() or all(_cut_off(path) for path in growing.iterdir())):
        raise RunFolderError(f"{growing} is in the way, and is not an unfinished export: remove it")
    try:
        another = (growing / ABOUT).is_file() and read_json(growing / ABOUT) != about
    except RunFolderError:
        raise RunFolderError(f"{growing} is in the way, and its {ABOUT} is damaged: remove it") from None
    if another:
        shutil.rmtree(growing)
        return
    for path in list(growing.rglob(f"{UNFINISHED}*")):
        path.unlink()


def _is_of_dead(number: str) -> bool:
    """Whether it is the number of a process that is not there any more."""
    if not re.fullmatch("[1-9][0-9]{0,8}", number):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    return False


def _cut_off(path: Path) -> bool:
    return path.name.startswith(UNFINISHED)
