"""The child processes that decode: one that has imported what decoding needs, and copies of it that do the work.

The parent asks the first one for a copy and is handed two sockets: one for requests, which the copy answers one after
the other, and one for answers, each of which is sent as soon as it is there. To be woken by each would take the parent
as long as a small picture takes to decode, so it waits for a byte in the first socket, once for each request. A copy
starts in milliseconds, so one that died, or that had much memory, is cheap to replace. Nothing that travels is executed
or unpickled: requests and answers are numbers, bytes and short texts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import time
from collections import deque
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin

from spiceclust.data.decode import SILENCE, DecodeError, RoomError, decode, decode_square, header_size

SECONDS: Final = 4.0  # of processor time for one file: no picture becomes unreadable because the machine is busy
SLACK: Final = 64_000_000  # bytes beside the estimate of a picture: what all copies have, and what they keep

START, END = b"s", b"e"  # a copy for pictures of so many bytes; an end to a copy, and how it died
ASKED: Final = struct.Struct("!cQ")
STARTED: Final = struct.Struct("!Q")  # the process number of the copy, whose socket comes along; 0 and no socket: none
ENDED: Final = struct.Struct("!i")  # the signal that ended it, 0 where none did

SQUARE, PICTURE, HEADER = b"q", b"p", b"h"  # what is wanted of files
REQUEST: Final = struct.Struct("!cQII")  # which, bytes of memory, side or most pixels, how many files
LENGTH: Final = struct.Struct("!Q")  # of each file; then all files
OK, BAD, ROOM = 0, 1, 2  # pixels follow; a reason in UTF-8; likewise, and that it takes more memory than given
BELL: Final = b"\n"
QUIET: Final = 2**16  # bytes of answers, which fit into a socket, after which the parent is woken
ANSWER: Final = struct.Struct("!BIIQd")  # status, width, height, bytes that follow, seconds of processor time

Decoded: TypeAlias = tuple[NDArray[np.uint8] | None, int, int]


def main() -> None:
    """Starts copies of this process for the parent, which holds the other end of standard input, until it hangs up."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # a machine without memory takes these first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a thread for each processor would take memory and time that are not ours
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    control.sendall(b"\n")  # everything is imported
    copies: set[int] = set()
    try:
        while message := control.recv(ASKED.size, socket.MSG_WAITALL):
            kind, number = ASKED.unpack(message)
            if kind == START:
                if copy := _start(control, number):
                    copies.add(copy)
            else:
                copies.remove(number)
                control.sendall(ENDED.pack(_end(number)))
    finally:
        for copy in copies:
            _end(copy)


def _start(control: socket.socket, room: int) -> int:
    """A copy, of which the parent is told: its process number, 0 where there can be none now."""
    try:
        (ours, theirs), (answers, to_read) = socket.socketpair(), socket.socketpair()
        process = os.fork()
    except OSError:  # no further process, file or memory is to be had: the copies that there are go on
        control.sendall(STARTED.pack(0))
        return 0
    if process == 0:
        try:
            control.close()
            theirs.close()
            to_read.close()
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + room + SLACK,) * 2)
            with contextlib.suppress(ConnectionError):  # the parent is gone
                serve(ours, answers)
        finally:
            os._exit(0)
    with ours, theirs, answers, to_read:
        socket.send_fds(control, [STARTED.pack(process)], [theirs.fileno(), to_read.fileno()])
    return process


def _end(process: int) -> int:
    """The signal by which a copy had died; if it had not, it does so now."""
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def serve(requests: socket.socket, answers: socket.socket) -> None:
    """Answers requests until the other end hangs up."""
    # silence once: to enter it takes longer than to read a small header
    with SILENCE, requests.makefile("rb") as asked, answers.makefile("wb") as told:
        while head := asked.read(REQUEST.size):
            kind, room, side, count = REQUEST.unpack(head)
            lengths = [LENGTH.unpack(asked.read(LENGTH.size))[0] for _ in range(count)]
            # All is read before anything is answered: the parent writes all before it reads.
            contents = deque([asked.read(length) for length in lengths])
            held = 0 if count > 1 else None  # bytes of answers; None once the parent is woken, as one answer alone does
            while contents:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)  # what it sends in the end kills this process
                parts = _answer(kind, contents.popleft(), side, room)
                signal.setitimer(signal.ITIMER_PROF, 0)
                if held is not None and (held := held + sum(map(len, parts))) > QUIET:
                    requests.sendall(BELL)
                    held = None
                for part in parts:
                    told.write(part)
                told.flush()
            if held is not None:
                requests.sendall(BELL)


def work(kind: bytes, content: bytes, side: int, room: int) -> Decoded:
    """What is wanted of one file.

    Args:
        kind: `SQUARE`, the centre with `side` pixels a side; `PICTURE`, all of it with `side` pixels at the most; or
            `HEADER`.
        content: the file.
        side: see `kind`.
        room: bytes of memory that it may take.

    Returns:
        (H, W, 3) uint8, or None for `HEADER`, and width and height; 0 for a header that cannot be read.

    Raises:
        RoomError, DecodeError: as `decode`.
    """
    if kind == SQUARE:
        return decode_square(content, side, room)
    if kind == PICTURE:
        pixels = decode(content, side, room)
        return pixels, pixels.shape[1], pixels.shape[0]
    return None, *(header_size(content) or (0, 0))


def _answer(kind: bytes, content: bytes, side: int, room: int) -> list[bytes | memoryview]:
    start = time.process_time()
    try:
        pixels, width, height = work(kind, content, side, room)
    except DecodeError as error:
        status, reason = ROOM if isinstance(error, RoomError) else BAD, str(error).encode("utf-8", "replace")
        return [ANSWER.pack(status, 0, 0, len(reason), time.process_time() - start), reason]
    length = 0 if pixels is None else pixels.nbytes
    head = ANSWER.pack(OK, width, height, length, time.process_time() - start)
    return [head] if pixels is None else [head, pixels.data.cast("B")]
