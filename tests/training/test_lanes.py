import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.datasets import digits
from spiceclust.data.sources import open_source
from spiceclust.training.lanes import Ahead, Lane, in_lanes, one_thread, open_lanes

CPU = torch.device("cpu")
BRIEF = {
    "pretrain": {"epochs": 2, "neighbor_share": 0.5},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 5},
    "graph_label": {"steps": 5},
    "scan": {"steps": 5},
    "semi": {"steps": 5},
    "confident": {"steps": 5},
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "each", "lanes"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (8, 4, 2)])
def test_threads_are_divided_and_given_back(threads: None, given: int, each: int, lanes: int) -> None:
    torch.set_num_threads(given)

    def fail() -> None:
        with open_lanes(CPU) as found:
            assert (found, torch.get_num_threads()) == (lanes, each)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == given


def test_one_thread_is_given_back(threads: None) -> None:
    torch.set_num_threads(3)

    @one_thread()
    def within() -> int:
        return torch.get_num_threads()

    assert (within(), torch.get_num_threads(), within()) == (1, 3, 1)


def test_a_gpu_has_one_lane(threads: None) -> None:
    torch.set_num_threads(4)
    with open_lanes(torch.device("meta")) as lanes:
        assert (lanes, torch.get_num_threads()) == (1, 4)


@pytest.mark.parametrize("method", ["spice", "scan"])
def test_one_thread_and_more_give_the_same_bytes(threads: None, method: str, tmp_path: Path) -> None:
    made = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        request = make_request(n_clusters=10, method=method, views="natural", overrides=BRIEF)
        pipeline.fit(open_source(digits()[:120]), request, tmp_path / str(count))
        files = "clusters.csv", "result.safetensors", "model/model.safetensors", "5-semi/tensors.safetensors"
        made[count] = [(tmp_path / str(count) / file).read_bytes() for file in files]
    assert made[1] == made[2]


def test_two_lanes_work_at_once_and_in_order() -> None:
    both = threading.Barrier(2, timeout=20)

    def double(item: int) -> int:
        both.wait()  # breaks unless two are here together
        return 2 * item

    assert list(in_lanes(double, range(6), 2)) == [0, 2, 4, 6, 8, 10]


def test_a_single_lane_stays_in_its_thread() -> None:
    assert list(in_lanes(lambda _: threading.current_thread(), range(2), 1)) == [threading.current_thread()] * 2
    with Lane(1) as lane:
        assert lane.begin(threading.current_thread)() is threading.current_thread()


def test_a_single_lane_works_only_when_it_is_asked() -> None:
    done: list[int] = []
    with Lane(1) as lane:
        result = lane.begin(lambda: done.append(1))
        assert done == []
        result()
    assert done == [1]


def test_a_second_lane_works_beside_the_first() -> None:
    begun = threading.Event()
    with Lane(2) as lane:
        result = lane.begin(begun.set)
        assert begun.wait(20)  # nobody has asked for the result
        result()


def test_what_goes_wrong_in_a_lane_is_raised_where_its_result_is_wanted() -> None:
    def wrong() -> None:
        raise ValueError("wrong")

    with Lane(2) as lane:
        result = lane.begin(wrong)
        with pytest.raises(ValueError, match="wrong"):
            result()


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_step_gets_its_own_whether_it_was_begun_or_not(lanes: int) -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    with Lane(lanes) as lane:
        ahead = Ahead(make, 5, lane)
        found = []
        for number in (2, 3, 4):  # as after a snapshot
            found.append(ahead.of(number))
            if number != 3:
                ahead.begin(number + 1)
    assert found == [4, 9, 16]
    assert made == [2, 3, 4]  # none twice, and none beyond the last
