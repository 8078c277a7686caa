"""The corrections of a run on disk: a log to which lines are added, each synced before it counts, in `RUN/review/`.

The first line says of which result it is. What a crash left of a last line is dropped; whatever else is not as it was
written is refused. Undoing is a line too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.corrections import Action, State, action_of, applied, first_state, kept
from spiceclust.errors import ConfigError, NewerFormatError, RunFolderError
from spiceclust.files import sha256_file, sha256_json, sync_folder, write_bytes
from spiceclust.locks import locked
from spiceclust.progress import Progress
from spiceclust.result import ARRAYS, Result

FOLDER: Final = "review"  # in a run, for all that belongs to corrections
LOG: Final = "corrections.jsonl"
HEADS: Final = "heads"  # in it, for heads that learned from corrections
FORMAT: Final = 1
WAY_OUT: Final = "restore it, or move it away to begin anew"
UNDO, REDO = "undo", "redo"


class _Step(NamedTuple):
    """An action that counts, and what takes it back: what was in the rows that it changed, and all but the arrays."""

    action: Action
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    rest: dict[str, Any]


class Journal:
    """The corrections of one run, for whom its review folder is locked: `open_journal` gives it.

    Attributes:
        state: what they make of the result now.
    """

    def __init__(self, path: Path, result: Result, digest: str) -> None:
        self.path, self.state = path, first_state(result)
        self._digest, self._done, self._undone = digest, list[_Step](), list[Action]()
        lines, self._length = _read(path, digest)
        self._count = len(lines)
        for number, content in enumerate(lines, 2):
            try:
                self._take(content)
            except ConfigError as error:
                raise RunFolderError(f"{path} is damaged (line {number}: {error}): {WAY_OUT}") from None

    @property
    def actions(self) -> list[Action]:
        """Those that count, in the order in which they were done."""
        return [step.action for step in self._done]

    @property
    def redoable(self) -> Action | None:
        """What `redo` would do again; `undo` takes back the last of `actions`."""
        return self._undone[-1] if self._undone else None

    def do(self, action: Action) -> State:
        """Does what a person said: it is on disk when this returns.

        Raises:
            ConfigError: it cannot be; nothing is written.
            RunFolderError: it cannot be written; nothing has changed.
        """
        applied(self.state, action)  # refused before it is written
        return self._add(action.model_dump())

    def undo(self) -> State:
        """Takes back the last action that counts.

        Raises:
            ConfigError: there is none.
            RunFolderError: as `do`.
        """
        if not self._done:
            raise ConfigError("there is nothing to undo")
        return self._add({"do": UNDO})

    def redo(self) -> State:
        """Does again what was last undone.

        Raises:
            ConfigError: there is nothing, or something else was done since.
            RunFolderError: as `do`.
        """
        if not self._undone:
            raise ConfigError("there is nothing to do again")
        return self._add({"do": REDO})

    def _add(self, content: dict[str, Any]) -> State:
        line = {"number": self._count + 1, "time": datetime.now(UTC).isoformat(timespec="seconds"), **content}
        if self._length == 0:
            self._length = _begin(self.path, self._digest)
        self._length = _append(self.path, self._length, _sealed(line))
        self._count += 1
        self._take(line)
        return self.state

    def _take(self, line: dict[str, Any]) -> None:
        content = {name: value for name, value in line.items() if name not in ("number", "time")}
        try:
            if content == {"do": UNDO}:
                self._take_back(self._done.pop())
            elif content == {"do": REDO}:
                self._take_on(self._undone.pop())
            else:
                self._take_on(action_of(content))
                self._undone.clear()
        except IndexError:
            raise ConfigError(f"nothing to {content['do']}") from None

    def _take_on(self, action: Action) -> None:
        before, after = self.state, applied(self.state, action)
        rows = np.flatnonzero((before.labels != after.labels) | (before.fixed != after.fixed))
        rest = {name: getattr(before, name) for name in ("n_clusters", "names", "merged", "head")}
        self._done.append(_Step(action, rows, before.labels[rows], before.fixed[rows], rest))
        self.state = after

    def _take_back(self, step: _Step) -> None:
        labels, fixed = self.state.labels.copy(), self.state.fixed.copy()
        labels[step.rows], fixed[step.rows] = step.labels, step.fixed
        self.state = replace(self.state, labels=kept(labels), fixed=kept(fixed), **step.rest)
        self._undone.append(step.action)


@contextmanager
def open_journal(run: Path, result: Result, progress: Progress) -> Iterator[Journal]:
    """The corrections of a run, to read and to add to; others are kept out meanwhile.

    Args:
        run: its folder; `review/` in it is made, and is gone again where nothing was corrected.
        result: what was found there.
        progress: told of a last line that a crash cut off, which is left out.

    Raises:
        RunFolderError: another process reviews the run; the log is damaged, or of another result.
        NewerFormatError: it was written by a newer version.
    """
    folder = run / FOLDER
    with locked(folder, progress):
        journal = Journal(folder / LOG, result, sha256_file(run / ARRAYS))
        if journal.path.exists() and journal.path.stat().st_size > journal._length:
            progress.say(f"{journal.path}: the last line was cut off, as by a crash, and is left out")
        yield journal


def read_corrections(run: Path, result: Result) -> State | None:
    """What a run's corrections make of its result; None where there are none.

    Raises:
        RunFolderError, NewerFormatError: as `open_journal`, but for a process that writes there.
    """
    path = run / FOLDER / LOG
    if not path.exists():
        return None
    journal = Journal(path, result, sha256_file(run / ARRAYS))
    return journal.state if journal.actions else None


def head_file(run: Path, digest: str) -> Path:
    """Where a head lies that learned from corrections; the digest is the SHA-256 of the file."""
    return run / FOLDER / HEADS / f"{digest}.safetensors"


def _read(path: Path, digest: str) -> tuple[list[dict[str, Any]], int]:
    """The lines after the first, and how many bytes of the file are whole lines; none where there is no file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror}): free it and go on") from None
    whole = content[: content.rfind(b"\n") + 1]
    found = [_checked(path, number, line) for number, line in enumerate(whole.splitlines(), 1)]
    if not found:
        raise RunFolderError(f"{path} is damaged (its first line is cut off): {WAY_OUT}")
    if found[0].get("result") != digest:
        raise RunFolderError(
            f"{path} corrects another result than {path.parents[1] / ARRAYS}: move {path.parent} away to begin anew"
        )
    for number, line in enumerate(found[1:], 1):
        if line.get("number") != number:
            raise RunFolderError(f"{path} is damaged (line {number + 1} is not number {number}): {WAY_OUT}")
    return found[1:], len(whole)


def _checked(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
        checksum = content.pop("checksum")
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise RunFolderError(f"{path} is damaged (line {number} is no sealed JSON object): {WAY_OUT}") from None
    if checksum != sha256_json(content):
        raise RunFolderError(f"{path} is damaged (the checksum of line {number} is another): {WAY_OUT}")
    if number == 1:
        found = content.get("format")
        if not isinstance(found, int):
            raise RunFolderError(f"{path} is damaged (its first line is missing): {WAY_OUT}")
        if found > FORMAT:
            raise NewerFormatError(f"{path} has format {found}, this version reads {FORMAT}: update spiceclust")
    return dict(content)


def _sealed(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "checksum": sha256_json(content)}, ensure_ascii=False).encode() + b"\n"


def _begin(path: Path, digest: str) -> int:
    line = _sealed({"format": FORMAT, "result": digest})
    write_bytes(path, line)
    sync_folder(path.parent)
    sync_folder(path.parent.parent)  # which may have got the folder just now
    return len(line)


def _append(path: Path, length: int, line: bytes) -> int:
    """Writes a line at `length`, where the whole lines end, and returns where they end then."""
    try:
        with path.open("r+b") as file:
            try:
                file.truncate(length)
                file.seek(length)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), length)  # shorter needs no room
                raise
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}): free it and try again") from None
    return length + len(line)
