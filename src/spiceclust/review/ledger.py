"""The corrections of a run for many threads: one change at a time, and each sees all that came before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from spiceclust.corrections import Action, State, applied
from spiceclust.errors import ConfigError
from spiceclust.journal import Journal


class Now(NamedTuple):
    """How things stand.

    Attributes:
        version: another number after each change.
        state: what the corrections make of the result.
        actions: those that count.
        redoable: what could be done again.
    """

    version: int
    state: State
    actions: list[Action]
    redoable: Action | None


class Ledger:
    """A journal with a lock around it."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._lock, self._version = journal, threading.Lock(), 0

    def now(self) -> Now:
        """How things stand."""
        with self._lock:
            journal = self._journal
            return Now(self._version, journal.state, journal.actions, journal.redoable)

    def do(self, *actions: Action, since: int | None = None, before: Callable[[], Any] = lambda: None) -> None:
        """Does all of some actions, or none where one of them cannot be.

        Args:
            actions: in their order.
            since: a version; nothing is done if something was changed after it.
            before: is called when it is sure that the actions can be.

        Raises:
            ConfigError: an action cannot be, or something was changed.
            RunFolderError: one cannot be written; those before it have been.
        """
        with self._lock:
            if since not in (None, self._version):
                raise ConfigError("something was corrected meanwhile: ask again")
            state = self._journal.state
            for action in actions:
                state = applied(state, action)
            before()
            self._version += 1
            for action in actions:
                self._journal.do(action)

    def undo(self) -> None:
        """Takes the last action back; raises as `do` does."""
        with self._lock:
            self._journal.undo()
            self._version += 1

    def redo(self) -> None:
        """Does again what was taken back; raises as `do` does."""
        with self._lock:
            self._journal.redo()
            self._version += 1
