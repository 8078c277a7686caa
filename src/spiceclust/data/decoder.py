"""Decoding in child processes with limits of memory and time: what a file does to a decoder ends there.

A file that kills its decoder, hangs or takes too much is refused with a reason, and another process goes on.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Final, TypeAlias

import numpy as np

from spiceclust.data import worker as protocol
from spiceclust.data.decode import MAX_PIXELS, MAX_ROOM, DecodeError, RoomError
from spiceclust.data.wording import one_line
from spiceclust.data.worker import HEADER, PICTURE, SECONDS, SQUARE, Decoded

MOST: Final = 8  # workers, unless more are asked for: the process that feeds them keeps no more busy
SHARED_ROOM: Final = 640_000_000  # bytes that all workers together may take for pictures; what needs more goes alone
PICTURE_PIXELS: Final = 16_000_000  # of a picture for people to look at; a larger one is made smaller
START: Final = 120.0  # seconds in which the first process must be ready, or have done what is asked of it
ASLEEP: Final = 5.0  # seconds in which a worker that owes an answer must compute or wait for a processor
_REASON: Final = 1000  # bytes
_BOOT: Final = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[1:]; "
    "from spiceclust.data.worker import main; main()"
)
# Libraries under numpy start a thread for each processor otherwise, with memory for each.
_ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Answer: TypeAlias = Decoded | DecodeError


class Decoder:
    """Decodes for any number of threads. Workers start when they are needed; they end with this object, or with `with`.

    What comes out does not depend on their number.

    Args:
        workers: processes at the most; None for one for each processor, up to 8. With 0 this process decodes, which has
            no limit of time and can be killed by a file.

    Attributes:
        workers: as given or found; 0 once no process could be started, of which a warning tells.
        crashed: how many workers a file has killed, or has made hang.
        stopped: how many have met the limit of time.
        slowest: seconds that the slowest file took, by the clock and of processor time, which a busy machine leaves as
            it is.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = min(MOST, len(os.sched_getaffinity(0))) if workers is None else workers
        self.crashed = 0
        self.stopped = 0
        self.slowest = (0.0, 0.0)
        self._room = SHARED_ROOM // max(1, self.workers)
        self._slots = threading.Semaphore(self.workers)
        self._alone = threading.Lock()
        self._entered = 0
        self._idle: list[_Worker] = []
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
        if not self._can_start():
            return [_here(kind, side, content) for content in contents]
        found: list[Answer] = []
        with self._slots:
            while len(found) < len(contents):
                try:
                    worker = self._idle.pop()
                except IndexError:
                    worker = _FIRST.start(self._room)
                try:
                    found += self._answers(worker, kind, side, list(contents[len(found) :]))
                finally:
                    if worker.sound:
                        self._idle.append(worker)
                    else:
                        worker.close()
        for i, answer in enumerate(found):
            if isinstance(answer, RoomError):
                found[i] = self._ask_alone(kind, side, lambda i=i: contents[i])  # type: ignore[misc]
        return found

    def _ask_alone(self, kind: bytes, side: int, fetch: Callable[[], bytes]) -> Answer:
        if not self._can_start():
            return _here(kind, side, fetch())
        with self._nobody_else(), closing(_FIRST.start(MAX_ROOM)) as worker:
            return self._answers(worker, kind, side, [fetch()])[0]

    def _can_start(self) -> bool:
        if self.workers:
            try:
                _FIRST.open()
            except OSError as error:
                self.workers = 0
                warnings.warn(
                    f"pictures are decoded without limits of time and memory: no process could be started ({error})",
                    RuntimeWarning,
                    stacklevel=5,
                )
        return self.workers > 0

    @contextmanager
    def _nobody_else(self) -> Iterator[None]:
        with self._alone, ExitStack() as taken:
            for _ in range(self.workers):
                taken.enter_context(self._slots)
            yield

    def _answers(self, worker: _Worker, kind: bytes, side: int, contents: list[bytes]) -> list[Answer]:
        """Answers to files, up to the one with which the worker ends, where one does that.

        That one is blamed for it if it was the worker's first. Otherwise what came before may have done the harm, and
        it is left to be asked for again.
        """
        found: list[Answer] = []
        try:
            for answer in worker.ask(kind, side, contents):
                found.append(answer)
        except _BrokenError as error:
            ended_by = worker.close()
            if ended_by == signal.SIGPROF:
                self.stopped += 1
                worker.computed = SECONDS
                found.append(DecodeError(f"took longer than {SECONDS:g} s to decode"))
            else:
                self.crashed += 1
                how = f"the decoder crashed (signal {ended_by})" if ended_by else "the decoder ended without an answer"
                if error.hung or not worker.answered:
                    found.append(DecodeError(str(error) or how))
        self.slowest = max(self.slowest[0], worker.slowest), max(self.slowest[1], worker.computed)
        return found


def _close(idle: list[_Worker]) -> None:
    while idle:
        idle.pop().close()


def _here(kind: bytes, side: int, content: bytes) -> Answer:
    """Decodes in this process."""
    try:
        return protocol.work(kind, content, side, MAX_ROOM)
    except DecodeError as error:
        return error


class _BrokenError(Exception):
    """A worker has ended, hangs, or says what makes no sense; the message says so where its end does not."""

    def __init__(self, text: str = "", *, hung: bool = False) -> None:
        super().__init__(text)
        self.hung = hung


class _Worker:
    """A process that decodes.

    Attributes:
        answered: how many files it has answered for.
        slowest: seconds by the clock that the slowest of them took, and the one that ended it.
        computed: seconds of processor time that the slowest took.
        sound: whether it can be asked again.
    """

    def __init__(self, number: int, connection: socket.socket, room: int, end: Callable[[], int]) -> None:
        self.answered = 0
        self.slowest = self.computed = 0.0
        self.sound = True
        self._number, self._connection, self._room, self._end = number, connection, room, end
        self._connection.settimeout(ASLEEP / 2)  # twice asleep, without a tick between, is asleep
        self._owner = os.getpid()

    def ask(self, kind: bytes, side: int, contents: list[bytes]) -> Iterator[Answer]:
        """Answers for each file as they come.

        Args:
            kind: as in `worker.work`.
            side: likewise.
            contents: the files; the list is emptied, so that a large one need not be held any longer.

        Raises:
            _BrokenError: no further answer will come.
        """
        self.sound = False
        if os.getpid() != self._owner:  # a fork, whose answers would come to the other one
            raise _BrokenError
        count = len(contents)
        lengths = [protocol.LENGTH.pack(len(content)) for content in contents]
        contents[:0] = [protocol.REQUEST.pack(kind, self._room, side, count), *lengths]
        start = time.perf_counter()
        try:
            if count > 1:
                contents[:] = [b"".join(contents)]
            while contents:
                self._exchange(self._connection.send, memoryview(contents.pop(0)))
            for _ in range(count):
                yield self._read(kind, side)
                self.answered += 1
                now = time.perf_counter()
                self.slowest, start = max(self.slowest, now - start), now
        except OSError:
            raise _BrokenError from None
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - start)
        self.sound = True

    def _read(self, kind: bytes, side: int) -> Answer:
        status, width, height, length, computed = protocol.ANSWER.unpack(self._exactly(protocol.ANSWER.size))
        self.computed = max(self.computed, computed)
        if status in (protocol.BAD, protocol.ROOM) and length <= _REASON:
            reason = one_line(self._exactly(length).decode("utf-8", "replace"))
            return (RoomError if status == protocol.ROOM else DecodeError)(reason)
        sides = {SQUARE: (side, side), PICTURE: (height, width), HEADER: (0, 0)}[kind]
        most = PICTURE_PIXELS if kind == PICTURE else MAX_PIXELS
        if status != protocol.OK or length != 3 * sides[0] * sides[1] or width * height > most:
            raise _BrokenError("the decoder gave an answer that is none")
        if kind == HEADER:
            return None, width, height
        pixels = np.empty((*sides, 3), np.uint8)
        self._exchange(self._connection.recv_into, pixels.data.cast("B"))
        return pixels, width, height

    def _exactly(self, length: int) -> bytearray:
        found = bytearray(length)
        self._exchange(self._connection.recv_into, memoryview(found))
        return found

    def _exchange(self, some: Callable[[memoryview], int], all_of_it: memoryview) -> None:
        """Sends or receives, until all is done or the worker sleeps over it."""
        asleep: list[bytes] = []
        while all_of_it:
            try:
                done = some(all_of_it)
            except TimeoutError:
                before, asleep = asleep, self._asleep()
                if asleep and asleep == before:
                    raise _BrokenError(f"the decoder hung: it slept for {ASLEEP:g} s", hung=True) from None
                continue
            if not done:
                raise _BrokenError
            all_of_it = all_of_it[done:]

    def _asleep(self) -> list[bytes]:
        """How long it has computed, if it does not now, nor waits for a processor or the disk."""
        with open(f"/proc/{self._number}/stat", "rb") as file:
            state, *facts = file.read().rpartition(b")")[2].split()
        return facts[10:12] if state in (b"S", b"T") else []

    def close(self) -> int:
        """Ends the process: the signal by which it had ended before, if it had."""
        self.sound = False
        self._connection.close()
        return self._end()


class _First:
    """The process that copies itself, one for all decoders; it ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.RLock()
        weakref.finalize(self, self.close)

    def open(self) -> None:
        """Starts the process, unless it is there.

        Raises:
            OSError: it cannot be.
        """
        with self._lock:
            if self._process is not None:
                return
            if not sys.executable:
                raise OSError("this Python does not know its own executable")
            path = [entry for entry in sys.path if isinstance(entry, str)]
            self._control, theirs = socket.socketpair()
            self._control.settimeout(START)
            try:
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-W", "ignore", "-c", _BOOT, *path],
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=os.environ | _ONE_THREAD,
                    )
                if not self._control.recv(1):
                    raise OSError(f"{sys.executable} does not run {protocol.__name__}")
            except BaseException:
                self.close()
                raise

    def start(self, room: int) -> _Worker:
        """A copy, for pictures that take `room` bytes.

        Raises:
            OSError: there can be none.
        """
        with self._lock:
            self.open()
            try:
                return self._copy(room)
            except (OSError, struct.error):  # the process was killed
                self.close()
                self.open()
                return self._copy(room)

    def _copy(self, room: int) -> _Worker:
        control = self._control
        assert control is not None
        control.sendall(protocol.ASKED.pack(protocol.START, room))
        told, handles, _, _ = socket.recv_fds(control, protocol.STARTED.size, 1)
        (number,) = protocol.STARTED.unpack(told)
        connection = socket.socket(fileno=handles[0])
        ended: list[int] = []

        def end() -> int:
            with self._lock:
                if not ended:
                    try:
                        control.sendall(protocol.ASKED.pack(protocol.END, number))
                        ended.extend(protocol.ENDED.unpack(control.recv(protocol.ENDED.size)))
                    except (OSError, struct.error):  # the first process has ended, and its copies with it
                        ended.append(signal.SIGKILL)
            return ended[0]

        return _Worker(number, connection, room, end)

    def close(self) -> None:
        """Ends the process and all its copies."""
        with self._lock:
            process, self._process = self._process, None
            if self._control is not None:
                self._control.close()
            if process is None:
                return
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def forget(self) -> None:
        """In a fork of this process, which must have its own: what is there belongs to the other one."""
        self._lock = threading.RLock()
        if self._process is not None and self._control is not None:
            self._process.returncode = 0  # nobody here can wait for it
            self._process = None
            self._control.close()


_FIRST: Final = _First()
os.register_at_fork(after_in_child=_FIRST.forget)
