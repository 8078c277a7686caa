"""Who writes: one process at a time into a folder, or into the place of a file or folder that is being made."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from spiceclust.errors import RunFolderError
from spiceclust.files import UNFINISHED
from spiceclust.progress import Progress

LOCK: Final = ".lock"
MOST_OF_NAME: Final = 50  # characters of a name in that of the lock beside it, at most 200 bytes: 255 are allowed
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # what systems without locks answer
TRIES: Final = 100  # to get hold of a lock that others make and remove
_held: set[int] = set()  # open files of this process that hold locks


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Keeps other processes and threads from writing into a folder, which is made if it is not there.

    The lock goes with the process, however that ends. A folder into which nothing came is gone afterwards. Where the
    file system has no locks, that is said and nothing is kept out.

    Raises:
        RunFolderError: at once, if another holds it; or the folder cannot be made or written.
    """
    with _held_by_us(folder / LOCK, folder, progress):
        yield


def refuse_locked(folder: Path, progress: Progress) -> None:
    """Raises RunFolderError when another process writes into a folder: before something that takes long is begun."""
    if os.path.lexists(folder / LOCK):
        with locked(folder, progress):
            pass


@contextmanager
def locked_beside(target: Path, progress: Progress) -> Iterator[None]:
    """The same for a file or folder that is not there yet, and is put in its place when it is whole.

    Raises:
        RunFolderError: as `locked`.
    """
    beside = target.with_name(f"{UNFINISHED}{target.name[:MOST_OF_NAME]}{LOCK}")
    with _held_by_us(beside, target, progress):
        yield


@contextmanager
def _held_by_us(lock: Path, what: Path, progress: Progress) -> Iterator[None]:
    folder = lock.parent
    made = [place for place in (folder, *folder.absolute().parents) if not os.path.exists(place)]
    try:
        handle = _lock(lock, what, progress)
        try:
            _sign(handle, what)
            yield
        finally:
            if handle in _held:
                lock.unlink(missing_ok=True)  # before it is let go, or it might be another's
                _held.remove(handle)
                os.close(handle)
    finally:
        for place in made:
            with suppress(OSError):  # not empty
                place.rmdir()


def _lock(lock: Path, what: Path, progress: Progress) -> int:
    """The open file that holds the lock."""
    missing: OSError | None = None
    for _ in range(TRIES):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError as error:  # the folder, into which nothing came, has just been removed
            missing = error
            continue
        except OSError as error:
            raise _unwritable(what, error) from None
        try:
            _claim(handle, what, progress)
            if os.path.exists(lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
                _held.add(handle)
                return handle
        finally:
            if handle not in _held:
                os.close(handle)  # another's, or of a file that its last holder has just removed
    if missing:
        raise _unwritable(what, missing)
    raise RunFolderError(f"{what} is made and removed by others all the time: choose another folder")


def _sign(handle: int, what: Path) -> None:
    """Writes into the lock whose it is, for those who find it taken."""
    note = f"process {os.getpid()} on {platform.node()} since {datetime.now().isoformat(' ', 'seconds')}"
    try:
        os.ftruncate(handle, 0)
        os.write(handle, note.encode())
    except OSError as error:
        raise _unwritable(what, error) from None


def _unwritable(what: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{what} cannot be made or written ({error.strerror}): choose another folder")


def _claim(handle: int, what: Path, progress: Progress) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 500).decode(errors="replace") or "another process"
        raise RunFolderError(f"{what} is being written by {holder}: wait for it, or choose another folder") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _unwritable(what, error) from None
        progress.say(f"{what} is on a file system without locks: let no other process write there meanwhile")


def _let_go() -> None:
    """In a child that was forked: the lock is its parent's, and must not outlive it here."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
