"""Whether the other processes are there: a host that vanishes closes no connection, and who waits for it waits on.

Each process says now and then, in the store that all have in common, that it lives. The leader listens to everyone, the
others listen to the leader; who hears nothing for long ends, so that torchrun can start anew.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

BEAT: Final = 5.0  # seconds between two signs of life
SILENCE: Final = 900.0  # seconds without one that mean it is gone; writing 100 GB may mute it for minutes
LEADER: Final = 0
PARTED: Final = "parted"  # of its own will


class Store(Protocol):
    """What torch.distributed calls so."""

    def set(self, key: str, value: str) -> None: ...

    def check(self, keys: list[str]) -> bool: ...

    def get(self, key: str) -> bytes: ...


def end(message: str) -> None:
    """Ends this process at once: its main thread waits for one that is gone, and hears nothing."""
    try:
        print(message, file=sys.stderr, flush=True)
    finally:
        os._exit(1)


@contextmanager
def heard(
    rank: int,
    size: int,
    store: Store,
    *,
    beat: float = BEAT,
    silence: float = SILENCE,
    lost: Callable[[str], None] = end,
) -> Iterator[None]:
    """Has this process heard by the others as long as the block runs, and listens to them.

    Args:
        rank: of this process.
        size: how many there are.
        store: that they have in common; no other thread may use this object.
        beat, silence: seconds, as the constants.
        lost: what is done about one that is gone, with a line that names it.
    """
    quiet = dict.fromkeys(range(1, size) if rank == LEADER else (LEADER,), 0)  # beats without a new sign, by process
    parting = threading.Event()

    def speak() -> None:
        last: dict[int, str] = {}
        count = 0
        with suppress(RuntimeError):  # the store is gone with its host: then nothing is heard any more
            while not parting.wait(beat if count else 0):
                count += 1
                store.set(_name(rank), str(count))
                for other in quiet:
                    if store.check([_name(other)]):
                        sign = store.get(_name(other)).decode()
                        if sign != last.get(other) or sign == PARTED:
                            last[other], quiet[other] = sign, 0
            store.set(_name(rank), PARTED)

    def listen() -> None:
        """Counts its own turns, and not the clock: a process that was stopped has not heard anyone meanwhile."""
        while not parting.wait(beat):
            for other in quiet:
                quiet[other] += 1
                if quiet[other] * beat > silence:
                    lost(
                        f"process {rank} of {size} has heard nothing of process {other} for {silence:g} s: it, "
                        "its host or the network is gone; the same command goes on from the last state that was kept"
                    )
                    return

    speaker = threading.Thread(target=speak, daemon=True)
    listener = threading.Thread(target=listen, daemon=True)  # of its own: the speaker may wait for a store that is gone
    speaker.start()
    listener.start()
    try:
        yield
    finally:
        parting.set()
        listener.join()  # who is done misses nobody
        speaker.join(2 * beat)  # not for ever: the store may be gone


def _name(rank: int) -> str:
    return f"pulse/{rank}"
