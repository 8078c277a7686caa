"""Signs of life: threads stand in for processes, with one store among them."""

import threading
import time
from collections.abc import Callable

import pytest
from torch.distributed import HashStore  # noqa: TID251  # a store among threads

from spiceclust.training.pulse import heard

BEAT = 0.05
SILENCE = 0.5
LONG = 3 * SILENCE


class Broken(HashStore):
    """The store of a process whose network is down."""

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("connection reset")


class Stuck(HashStore):
    """The store of a process whose network was cut: it waits for an answer."""

    def set(self, key: str, value: str) -> None:
        time.sleep(LONG)


def lost_in(store: HashStore, size: int, absent: set[int], seconds: float = LONG) -> dict[int, list[str]]:
    """What processes that meet for a while, all but some of them, are told of the others."""
    told: dict[int, list[str]] = {rank: [] for rank in range(size) if rank not in absent}

    def process(rank: int) -> None:
        with heard(rank, size, store, beat=BEAT, silence=SILENCE, lost=told[rank].append):
            time.sleep(seconds)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_who_lives_is_heard() -> None:
    assert lost_in(HashStore(), 3, set()) == {0: [], 1: [], 2: []}


def test_the_leader_misses_one_that_is_gone() -> None:
    told = lost_in(HashStore(), 3, {1})
    assert told[2] == []  # the leader is there
    (line,) = told[0]
    assert line.startswith(f"process 0 of 3 has heard nothing of process 1 for {SILENCE} s")


def test_all_miss_a_leader_that_is_gone() -> None:
    told = lost_in(HashStore(), 3, {0})
    assert [len(lines) for lines in told.values()] == [1, 1]
    assert "process 1 of 3 has heard nothing of process 0" in told[1][0]


def test_nobody_is_missed_at_once() -> None:
    assert lost_in(HashStore(), 2, {1}, SILENCE / 2) == {0: []}


@pytest.mark.parametrize("kind", [Broken, Stuck])
def test_without_a_store_nothing_is_heard(kind: Callable[[], HashStore]) -> None:
    told = lost_in(kind(), 2, {1})
    assert len(told[0]) == 1


def test_who_parted_is_not_missed() -> None:
    store = HashStore()
    with heard(1, 2, store, beat=BEAT, silence=SILENCE, lost=pytest.fail):
        pass
    assert lost_in(store, 2, {1}) == {0: []}


def test_who_is_done_waits_neither_for_the_store_nor_for_the_others() -> None:
    start = time.monotonic()
    with heard(0, 2, Stuck(), beat=BEAT, silence=0.0, lost=pytest.fail):
        pass
    assert time.monotonic() - start < LONG
