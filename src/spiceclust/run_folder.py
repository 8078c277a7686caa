"""Whether a folder can hold a run: what lies there already, whether it is the same run, and who else writes there."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, UNFINISHED, read_sealed, reason, write_sealed
from spiceclust.progress import Progress

RECORD: Final = "run.json"
FORMAT: Final = 1  # of run.json, and of metrics.json beside it
LOCK: Final = ".lock"
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # what systems without locks answer
TRIES: Final = 100  # to get hold of a lock that others make and remove
_held: set[int] = set()  # open files of this process that hold locks


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
    """Removes what killed writers left half written; only for whom the folder is `locked`."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Keeps other processes and threads from writing into a run folder, which is made if it is not there.

    The lock goes with the process, however that ends. A folder into which nothing came is gone afterwards. Where the
    file system has no locks, that is said and nothing is kept out.

    Raises:
        RunFolderError: at once, if another holds it; or the folder cannot be made or written.
    """
    made = [place for place in (folder, *folder.absolute().parents) if not os.path.exists(place)]
    try:
        handle = _lock(folder, progress)
        try:
            _sign(handle, folder)
            yield
        finally:
            if handle in _held:
                (folder / LOCK).unlink(missing_ok=True)  # before it is let go, or it might be another's
                _held.remove(handle)
                os.close(handle)
    finally:
        for place in made:
            with suppress(OSError):  # not empty
                place.rmdir()


def _lock(folder: Path, progress: Progress) -> int:
    """The open file that holds the lock."""
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # the folder, into which nothing came, has just been removed
            continue
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            _claim(handle, folder, progress)
            if os.path.exists(folder / LOCK) and os.path.samestat(os.fstat(handle), os.stat(folder / LOCK)):
                _held.add(handle)
                return handle
        finally:
            if handle not in _held:
                os.close(handle)  # another's, or of a file that its last holder has just removed
    raise RunFolderError(f"{folder} is made and removed by others all the time: choose another folder")


def _sign(handle: int, folder: Path) -> None:
    """Writes into the lock whose it is, for those who find it taken."""
    note = f"process {os.getpid()} on {platform.node()} since {datetime.now().isoformat(' ', 'seconds')}"
    try:
        os.ftruncate(handle, 0)
        os.write(handle, note.encode())
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{folder} cannot be made or written ({error.strerror}): choose another folder")


def _claim(handle: int, folder: Path, progress: Progress) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 500).decode(errors="replace") or "another process"
        raise RunFolderError(f"{folder} is being written by {holder}: wait for it, or choose another folder") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _unwritable(folder, error) from None
        progress.say(f"{folder} is on a file system without locks: let no other process write there meanwhile")


def _let_go() -> None:
    """In a child that was forked: the lock is its parent's, and must not outlive it here."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


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
