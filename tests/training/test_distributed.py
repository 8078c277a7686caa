"""How processes meet; what they tell each other then is tested in tests/dist."""

import threading
import time

import pytest
from torch.distributed import HashStore  # noqa: TID251  # a store among threads

from spiceclust.progress import Silent
from spiceclust.training import distributed
from spiceclust.training.distributed import Store, World, meeting_of

SIZE = 3


def meet(store: Store, start: str, late: int) -> list[list[str]]:
    """All ranks meet, one later than the others; what each finds that the others have left."""
    found: list[list[str]] = [[] for _ in range(SIZE)]

    def process(rank: int) -> None:
        time.sleep(0.2 * (rank == late))
        meeting = meeting_of(World(rank, SIZE), store, Silent())
        meeting.set(f"address of {rank}", start)
        found[rank] = [meeting.get(f"address of {other}").decode() for other in range(SIZE)]

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("late", range(SIZE))
def test_processes_that_are_started_again_find_nothing_that_was_left(late: int) -> None:
    store = HashStore()
    for start in ("first", "second"):
        assert meet(store, start, late) == [[start] * SIZE] * SIZE


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_the_leader_says_whom_it_has_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "WORTH_SAYING", 1.0)
    store, leader = HashStore(), Heard()

    def wait() -> None:
        meeting_of(World(0, 3), store, leader)

    def come(rank: int) -> None:
        meeting_of(World(rank, 3), store, Silent())

    threads = [threading.Thread(target=wait), threading.Thread(target=come, args=(1,))]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert leader.lines == []
    end = time.monotonic() + 60
    while not leader.lines and time.monotonic() < end:
        time.sleep(0.01)
    come(2)
    for thread in threads:
        thread.join()
    assert leader.lines == ["waiting for 1 of 3 processes: 2"]
