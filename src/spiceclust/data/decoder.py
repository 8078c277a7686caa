"""Decoding in child processes with limits of memory and time: what a file does to a decoder ends there.

A file that kills its decoder, hangs or takes too much is refused with a reason, and another process goes on. A SIGKILL
may be the work of someone else, as of a machine without memory: what was asked for then is asked for once more.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Final

from spiceclust.data.decode import MAX_ROOM, DecodeError, RoomError
from spiceclust.data.processes import FIRST, PICTURE_PIXELS, Answer, BrokenError, Worker
from spiceclust.data.worker import HEADER, PICTURE, SECONDS, SQUARE, work

MOST: Final = 8  # workers, unless more are asked for: the process that feeds them keeps no more busy
SHARED_ROOM: Final = 640_000_000  # bytes that all workers together may take for pictures; what needs more goes alone
PAUSES: Final = (0.0, 0.1, 0.3, 0.6)  # seconds before each try to start a worker: a machine may be full for a moment


class KilledError(DecodeError):
    """The worker ended by SIGKILL, or nobody knows how: the file may have nothing to do with it."""


class Decoder:
    """Decodes for any number of threads. Workers start when they are needed; they end with this object, or with `with`.

    What comes out does not depend on their number.

    Args:
        workers: processes at the most; None for one for each processor, up to 8. With 0 this process decodes, which has
            no limit of time and can be killed by a file.

    Attributes:
        workers: as given or found; fewer once so many could not be started, and 0, of which a warning tells, once not
            even one could.
        without_limits: what is to be told of a program that had to decode itself; empty where it did not have to.
        crashed: how many workers have been killed, by a file or from outside, or hung.
        stopped: how many have met the limit of time.
        slowest: seconds that the slowest file took, by the clock (to some hundredths) and of processor time, which a
            busy machine leaves as it is.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = min(MOST, len(os.sched_getaffinity(0))) if workers is None else workers
        self.without_limits = ""
        self.crashed = 0
        self.stopped = 0
        self.slowest = (0.0, 0.0)
        self._room = SHARED_ROOM // max(1, self.workers)
        self._slots = threading.Semaphore(self.workers)
        self._alone = threading.Lock()
        self._entered = 0
        self._idle: list[Worker] = []
        self._why_none = ""
        weakref.finalize(self, _close, self._idle)

    def __enter__(self) -> Decoder:
        with self._alone:
            self._entered += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._nobody_else():
            self._entered -= 1
            if not self._entered:
                _close(self._idle)

    def squares(self, contents: Sequence[bytes], size: int) -> list[Answer]:
        """`decode_square` of each file, or why there is none.

        Args:
            contents: few files, which one process is given at once.
            size: side in pixels.
        """
        return self._ask(SQUARE, size, contents)

    def square(self, fetch: Callable[[], bytes], size: int) -> Answer:
        """`decode_square` of a large file, while no other one is in memory.

        Args:
            fetch: gives the content when its turn has come.
            size: side in pixels.
        """
        return self._ask_alone(SQUARE, size, fetch)

    def picture(self, fetch: Callable[[], bytes]) -> Answer:
        """`decode` of a file, made smaller where it has more than 16 million pixels; otherwise as `square`."""
        return self._ask_alone(PICTURE, PICTURE_PIXELS, fetch)

    def header(self, content: bytes) -> tuple[int, int] | None:
        """`header_size` of a file."""
        (answer,) = self._ask(HEADER, 0, [content])
        return None if isinstance(answer, DecodeError) or not answer[1] else answer[1:]

    def _ask(self, kind: bytes, side: int, contents: Sequence[bytes]) -> list[Answer]:
        found: list[Answer] = []
        while len(found) < len(contents) and self._can_start():
            with self._slots:
                among = self.workers
                worker = self._idle_or_new()
                if worker is not None:
                    try:
                        found += self._answers(worker, kind, side, list(contents[len(found) :]))
                    finally:
                        if worker.sound:
                            self._idle.append(worker)
                        else:
                            worker.close()
            if worker is None:
                self._do_with_fewer(among)
        left = contents[len(found) :]
        for i, answer in enumerate(found):
            if isinstance(answer, RoomError | KilledError):
                again = isinstance(answer, KilledError)
                found[i] = self._ask_alone(kind, side, lambda i=i: contents[i], again=again)  # type: ignore[misc]
        return found + [_here(kind, side, content) for content in left]

    def _ask_alone(self, kind: bytes, side: int, fetch: Callable[[], bytes], *, again: bool = False) -> Answer:
        if not self._can_start():
            return _here(kind, side, fetch())
        with self._nobody_else():
            worker = self._new(MAX_ROOM)
            if worker is None:  # the idle ones may be in its way
                _close(self._idle)
                worker = self._new(MAX_ROOM)
            if worker is None:
                self._do_without(self._why_none)
                return _here(kind, side, fetch())
            with closing(worker):
                answer = self._answers(worker, kind, side, [fetch()])[0]
        if isinstance(answer, KilledError) and not again:
            return self._ask_alone(kind, side, fetch, again=True)
        return answer

    def _idle_or_new(self) -> Worker | None:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new(self._room)

    def _new(self, room: int) -> Worker | None:
        """A new worker; None where there can be none, which `_why_none` explains."""
        for pause in PAUSES:
            time.sleep(pause)
            try:
                return FIRST.start(room)
            except OSError as error:
                self._why_none = str(error)
        return None

    def _do_with_fewer(self, among: int) -> None:
        """One worker less, when a slot is free; none at all where there was one slot.

        Args:
            among: `workers` when none could be had: nothing is done if another thread has taken one away since.
        """
        with self._alone:
            if self.workers == among > 1:
                self._slots.acquire()
                self.workers -= 1
            elif self.workers == among == 1:
                self._do_without(self._why_none)

    def _can_start(self) -> bool:
        if self.workers:
            try:
                FIRST.open()
            except OSError as error:
                with self._alone:
                    self._do_without(str(error))
        return self.workers > 0

    def _do_without(self, why: str) -> None:
        if not self.workers:
            return
        self.workers = 0
        self.without_limits = (
            f"pictures are decoded without limits of time and memory: no process could be started ({why})"
        )
        warnings.warn(self.without_limits, RuntimeWarning, stacklevel=6)

    @contextmanager
    def _nobody_else(self) -> Iterator[None]:
        with self._alone, ExitStack() as taken:
            for _ in range(self.workers):
                taken.enter_context(self._slots)
            yield

    def _answers(self, worker: Worker, kind: bytes, side: int, contents: list[bytes]) -> list[Answer]:
        """Answers to files, up to the one with which the worker ends, where one does that.

        That one is blamed for it if it was the worker's first. Otherwise what came before may have done the harm, and
        it is left to be asked for again.
        """
        found: list[Answer] = []
        try:
            for answer in worker.ask(kind, side, contents):
                found.append(answer)
        except BrokenError as error:
            ended_by = worker.close()
            if ended_by == signal.SIGPROF:
                self.stopped += 1
                worker.computed = SECONDS
                found.append(DecodeError(f"took longer than {SECONDS:g} s to decode"))
            else:
                self.crashed += 1
                how = f"the decoder crashed (signal {ended_by})" if ended_by else "the decoder ended without an answer"
                if error.hung or not worker.answered:
                    outside = ended_by == signal.SIGKILL and not str(error)
                    found.append((KilledError if outside else DecodeError)(str(error) or how))
        self.slowest = max(self.slowest[0], worker.slowest), max(self.slowest[1], worker.computed)
        return found


def _close(idle: list[Worker]) -> None:
    while idle:
        idle.pop().close()


def _here(kind: bytes, side: int, content: bytes) -> Answer:
    """Decodes in this process."""
    try:
        return work(kind, content, side, MAX_ROOM)
    except DecodeError as error:
        return error
