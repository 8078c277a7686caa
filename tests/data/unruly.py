"""A decoder that does what a file tells it to, in the place of `spiceclust.data.worker`."""

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from spiceclust.data import decode, worker

HARM = False
plain = decode._load


def load(content: bytes, at_least: int | None, room: int) -> Any:
    global HARM
    order, argument = content.split()[0], content.split()[-1]
    if HARM:
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == b"signal":
        os.kill(os.getpid(), int(argument))
    if order == b"exit":
        os._exit(3)
    if order == b"exception":
        raise SystemExit(3)
    if order == b"sleep":
        time.sleep(1000)
    if order == b"memory":
        np.empty(int(argument), np.uint8)
    if order == b"compute":
        while True:
            pass
    if order == b"harm":  # as memory written out of bounds, of which another one dies
        HARM = True
        raise ValueError("harm")
    return plain(content, at_least, room)


def answer(*given: Any) -> Any:
    parts = honest(*given)
    instead = {
        b"long": [worker.ANSWER.pack(worker.BAD, 0, 0, 10**9, 0.0)],
        b"wide": [worker.ANSWER.pack(worker.OK, 10**5, 10**5, 3 * 5 * 5, 0.0)],
        b"what": [worker.ANSWER.pack(77, 0, 0, 0, 0.0)],
        b"half": [parts[0][:5]],
        b"lines": [worker.ANSWER.pack(worker.BAD, 0, 0, 11, 0.0), b"\xff one\n\x1b two"],
    }
    return instead.get(given[1].strip(), parts)


honest = worker._answer


def main() -> None:
    decode._load, worker._answer, worker.SECONDS = load, answer, float(os.environ["UNRULY_SECONDS"])
    worker.main()


assert "torch" not in sys.modules
