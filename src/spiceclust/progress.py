"""Progress: bars with the time left on a terminal, plain lines elsewhere, silence on request."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

PLAIN_INTERVAL = 10.0  # seconds between two plain lines of the same task


class Task(Protocol):
    """One piece of work with a known length."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts `steps` more done; `note` (such as "loss 1.23") is shown beside the bar."""


class Progress(Protocol):
    """Where a run tells what it is doing."""

    def say(self, text: str) -> None:
        """Prints one line: a choice that was made, or a result."""

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Opens a task of `total` steps; use it in a `with` statement."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None: ...


class Silent:
    """Says nothing; the default of the Python interface."""

    def say(self, text: str) -> None: ...

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        yield _SilentTask()


class _PlainTask:
    def __init__(self, name: str, total: int, out: TextIO) -> None:
        self.name, self.total, self.out = name, total, out
        self.done, self.note = 0, ""
        self.start = self.last = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= PLAIN_INTERVAL and 0 < self.done < self.total:
            self.last = now
            left = (now - self.start) / self.done * (self.total - self.done)
            self._print(f"{self.done}/{self.total}, {clock(left)} left")

    def close(self) -> None:
        self._print(f"{self.done}/{self.total} in {clock(time.monotonic() - self.start)}")

    def _print(self, text: str) -> None:
        note = f", {self.note}" if self.note else ""
        print(f"{self.name}: {text}{note}", file=self.out, flush=True)


class Plain:
    """Plain lines, at most one per task and ten seconds: for logs and pipes."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        task = _PlainTask(name, total, self.out)
        yield task
        task.close()


class Bars:
    """Rich progress bars with the time left: for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        from rich import progress as rich_progress

        columns = (
            rich_progress.TextColumn("{task.description:<22}", markup=False),
            rich_progress.BarColumn(bar_width=32),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}", markup=False),
        )
        with rich_progress.Progress(*columns, console=self.console) as bars:
            identifier = bars.add_task(name, total=total, note="")
            yield _BarTask(bars, identifier)


class _BarTask:
    def __init__(self, bars: object, identifier: object) -> None:
        self.bars, self.identifier = bars, identifier

    def advance(self, steps: int = 1, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self.bars.update(self.identifier, advance=steps, **fields)  # type: ignore[attr-defined]


def for_stderr() -> Progress:
    """Bars when standard error is a terminal, plain lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Plain()


def clock(seconds: float) -> str:
    """Seconds as people read them: `0:07`, `12:30`, `1:02:03`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
