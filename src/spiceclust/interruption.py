"""Ctrl-C and SIGTERM: they end a command at once, or, in a training, before its next step, when its state is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_patient = 0  # blocks that choose their moment
_asked = False


def install() -> None:
    """Makes SIGTERM raise KeyboardInterrupt as Ctrl-C does, and both wait for `patient` blocks; for a command alone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells ask for work in the background
            signal.signal(number, _interrupt)


@contextmanager
def patient() -> Iterator[Callable[[], bool]]:
    """A block that an interruption does not cut: it is told of it, and ends it itself with KeyboardInterrupt.

    A second interruption does not wait, and neither does the first where `install` was not called.

    Returns:
        What tells whether an interruption waits.
    """
    global _patient, _asked
    _patient += 1
    try:
        yield lambda: _asked
    finally:
        _patient -= 1
        waiting, _asked = _asked, False
    if waiting:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _asked
    if not _patient or _asked:
        raise KeyboardInterrupt
    _asked = True
