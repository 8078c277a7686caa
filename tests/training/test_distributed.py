"""How processes meet; what they tell each other then is tested in tests/dist."""

import threading
import time

import pytest
import torch
from torch.distributed import HashStore  # noqa: TID251  # a store among threads

from spiceclust.errors import ConfigError
from spiceclust.progress import Silent
from spiceclust.training import distributed
from spiceclust.training.distributed import ALONE, Store, World, meeting_of, refuse_shared_gpu

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
    monkeypatch.setattr(distributed, "WORTH_SAYING", 0.3)
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
    time.sleep(0.9)
    come(2)
    for thread in threads:
        thread.join()
    assert leader.lines == ["waiting for 1 of 3 processes: 2"]


TWO = World(0, 2)


@pytest.mark.parametrize(
    ("world", "device", "here", "refusal"),
    [
        (TWO, "cuda:0", "1", "all 2 processes would compute on cuda:0: say cuda"),
        (TWO, "cuda", "3", "3 processes for 2 GPUs of this machine: start torchrun with --nproc-per-node 2"),
        (TWO, "cuda", "2", ""),
        (TWO, "cpu", "3", ""),
        (ALONE, "cuda:1", "1", ""),
    ],
)
def test_a_gpu_is_for_one_process(
    world: World, device: str, here: str, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if not refusal:
        refuse_shared_gpu(world, torch.device(device))
        return
    with pytest.raises(ConfigError, match=refusal):
        refuse_shared_gpu(world, torch.device(device))
