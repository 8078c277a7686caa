"""The parent's side of the processes that decode: the first one, which copies itself, and its copies, the workers."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np

from spiceclust.data import worker as protocol
from spiceclust.data.decode import MAX_PIXELS, DecodeError, RoomError
from spiceclust.data.wording import one_line
from spiceclust.data.worker import HEADER, PICTURE, SQUARE, Decoded

PICTURE_PIXELS: Final = 16_000_000  # of a picture for people to look at; a larger one is made smaller
DOZE: Final = 0.02  # seconds in which a worker may answer many small files before the answers are looked at
START: Final = 120.0  # seconds in which the first process must be ready, or have done what is asked of it
ASLEEP: Final = 5.0  # seconds in which a worker that owes an answer must compute or wait for a processor
REASON: Final = 1000  # bytes
BOOT: Final = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[1:]; "
    "from spiceclust.data.worker import main; main()"
)
# Libraries under numpy start a thread for each processor otherwise, with memory for each.
ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Answer: TypeAlias = Decoded | DecodeError


class BrokenError(Exception):
    """A worker has ended, hangs, or says what makes no sense; the message says so where its end does not."""

    def __init__(self, text: str = "", *, hung: bool = False) -> None:
        super().__init__(text)
        self.hung = hung


class Worker:
    """A process that decodes.

    Attributes:
        answered: how many files it has answered for.
        slowest: seconds by the clock, to some hundredths, that the slowest of them took, and the one that ended it.
        computed: seconds of processor time that the slowest took.
        sound: whether it can be asked again.
    """

    def __init__(
        self, number: int, requests: socket.socket, answers: socket.socket, room: int, end: Callable[[], int]
    ) -> None:
        self.answered = 0
        self.slowest = self.computed = 0.0
        self.sound = True
        self._room, self._end = room, end
        self._requests = _Line(number, requests)
        self._answers = io.BufferedReader(_Line(number, answers), protocol.QUIET)
        self._owner = os.getpid()

    def ask(self, kind: bytes, side: int, contents: list[bytes]) -> Iterator[Answer]:
        """Answers for each file as they come.

        Args:
            kind: as in `worker.work`.
            side: likewise.
            contents: the files; the list is emptied, so that a large one need not be held any longer.

        Raises:
            BrokenError: no further answer will come.
        """
        self.sound = False
        if os.getpid() != self._owner:  # a fork, whose answers would come to the other one
            raise BrokenError
        count = len(contents)
        lengths = [protocol.LENGTH.pack(len(content)) for content in contents]
        contents[:0] = [protocol.REQUEST.pack(kind, self._room, side, count), *lengths]
        start = time.perf_counter()
        try:
            if count > 1:
                contents[:] = [b"".join(contents)]
            while contents:
                self._requests.send(memoryview(contents.pop(0)))
            woken = count == 1 or self._requests.speaks_within(DOZE)
            for _ in range(count):
                yield self._read(kind, side)
                self.answered += 1
                now = time.perf_counter()
                self.slowest, start = max(self.slowest, now - start), now
            self.sound = woken or self._requests.speaks_within(ASLEEP)
        except OSError:
            raise BrokenError from None
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - start)

    def _read(self, kind: bytes, side: int) -> Answer:
        status, width, height, length, computed = protocol.ANSWER.unpack(self._exactly(protocol.ANSWER.size))
        self.computed = max(self.computed, computed)
        if status in (protocol.BAD, protocol.ROOM) and length <= REASON:
            reason = one_line(self._exactly(length).decode("utf-8", "replace"))
            return (RoomError if status == protocol.ROOM else DecodeError)(reason)
        sides = {SQUARE: (side, side), PICTURE: (height, width), HEADER: (0, 0)}[kind]
        most = PICTURE_PIXELS if kind == PICTURE else MAX_PIXELS
        if status != protocol.OK or length != 3 * sides[0] * sides[1] or width * height > most:
            raise BrokenError("the decoder gave an answer that is none")
        if kind == HEADER:
            return None, width, height
        pixels = np.empty((*sides, 3), np.uint8)
        if self._answers.readinto(pixels.data.cast("B")) < length:
            raise BrokenError
        return pixels, width, height

    def _exactly(self, length: int) -> bytes:
        found = self._answers.read(length)
        if len(found) < length:
            raise BrokenError
        return found

    def close(self) -> int:
        """Ends the process: the signal by which it had ended before, if it had; SIGKILL where that cannot be known."""
        self.sound = False
        self._requests.close()
        self._answers.close()
        return self._end()


class _Line(io.RawIOBase):
    """What a worker is told through, and says: waits for it, until it sleeps over that."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        super().__init__()
        self.number, self._connection = number, connection
        self._connection.settimeout(ASLEEP / 2)  # twice asleep, without a tick between, is asleep

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """What has come; 0 once the worker has ended."""
        return self._patiently(self._connection.recv_into, buffer)

    def speaks_within(self, seconds: float) -> bool:
        """Whether a byte comes in this time, which is taken; not where the worker ends."""
        patience = self._connection.gettimeout()
        self._connection.settimeout(seconds)
        try:
            return len(self._connection.recv(1)) == 1
        except OSError:
            return False
        finally:
            self._connection.settimeout(patience)

    def send(self, content: memoryview) -> None:
        """All of it."""
        while content:
            content = content[self._patiently(self._connection.send, content) :]

    def close(self) -> None:
        self._connection.close()
        super().close()

    def _patiently(self, some: Callable[[Any], int], part: Any) -> int:
        before: list[bytes] = []
        while True:
            try:
                return some(part)
            except TimeoutError:
                now = self._asleep()
                if now and now == before:
                    raise BrokenError(f"the decoder hung: it slept for {ASLEEP:g} s", hung=True) from None
                before = now

    def _asleep(self) -> list[bytes]:
        """How long it has computed, if it does not now, nor waits for a processor or the disk."""
        with open(f"/proc/{self.number}/stat", "rb") as file:
            state, *facts = file.read().rpartition(b")")[2].split()
        return facts[10:12] if state in (b"S", b"T") else []


class First:
    """The process that copies itself, one for all decoders; it ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._control: socket.socket | None = None
        self._lock = threading.RLock()
        weakref.finalize(self, self.close)

    def begin(self) -> None:
        """Starts the process, unless it is there, without waiting: `open` tells what went wrong, if anything."""
        with contextlib.suppress(OSError), self._lock:
            self._launch()

    def open(self) -> None:
        """Starts the process, unless it is there, and waits until it is ready.

        Raises:
            OSError: it cannot be.
        """
        with self._lock:
            if self._ready:
                return
            begun = self._process is not None
            try:
                self._launch_and_wait()
            except OSError:
                if not begun:
                    raise
                self._launch_and_wait()  # the other may have been interrupted since, with what this process did

    def _launch_and_wait(self) -> None:
        self._launch()
        assert self._control is not None
        try:
            if not self._control.recv(1):
                raise OSError(f"{sys.executable} does not run {protocol.__name__}")
        except BaseException:
            self.close()
            raise
        self._ready = True

    def _launch(self) -> None:
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
                    [sys.executable, "-P", "-W", "ignore", "-c", BOOT, *path],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | ONE_THREAD,
                )
        except BaseException:
            self.close()
            raise

    def start(self, room: int) -> Worker:
        """A copy, for pictures that take `room` bytes.

        Raises:
            OSError: there can be none.
        """
        with self._lock:
            self.open()
            try:
                worker = self._copy(room)
            except OSError:  # the process was killed
                self.close()
                self.open()
                worker = self._copy(room)
        if worker is None:
            raise OSError("the limit of processes, open files or memory is met")
        return worker

    def _copy(self, room: int) -> Worker | None:
        """A copy; None where the process says that there can be none now.

        Raises:
            OSError: the process does not answer.
        """
        control = self._control
        assert control is not None
        control.sendall(protocol.ASKED.pack(protocol.START, room))
        told, handles, _, _ = socket.recv_fds(control, protocol.STARTED.size, 2)
        if len(told) < protocol.STARTED.size:
            raise ConnectionError("the process that copies itself was killed")
        (number,) = protocol.STARTED.unpack(told)
        sockets = [socket.socket(fileno=handle) for handle in handles]
        if len(sockets) < 2:  # none was sent, or this process has as many open as it may
            for each in sockets:
                each.close()
            return None
        ended: list[int] = []

        def end() -> int:
            with self._lock:
                if not ended:
                    try:
                        control.sendall(protocol.ASKED.pack(protocol.END, number))
                        ended.extend(protocol.ENDED.unpack(control.recv(protocol.ENDED.size)))
                    except (OSError, struct.error):  # the first process has ended, and nobody can tell
                        ended.append(signal.SIGKILL)
            return ended[0]

        return Worker(number, sockets[0], sockets[1], room, end)

    def close(self) -> None:
        """Ends the process and all its copies."""
        with self._lock:
            process, self._process = self._process, None
            self._ready = False
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
            self._process, self._ready = None, False
            self._control.close()


FIRST: Final = First()
os.register_at_fork(after_in_child=FIRST.forget)
