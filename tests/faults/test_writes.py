"""A few failing writes; `make faults` fails two hundred."""

from itertools import pairwise
from pathlib import Path

import pytest
from _faults import child, writes
from _faults.child import Fault


def test_no_failed_write_is_taken_for_done(tmp_path: Path) -> None:
    found = writes.run(4, 3, tmp_path)
    assert found["calls that failed"] == 4
    assert found["calls"] > 200
    assert writes.wrong(found) == 0
    assert writes.wrong({**found, "did not load": 2}) == 2


@pytest.mark.parametrize(("length", "count"), [(172, 172), (300, 200), (1000, 7), (5, 9), (5, 1)])
@pytest.mark.parametrize("start", [0, 0.5, 0.999])
def test_failures_are_spread_evenly_from_the_first_call_to_the_last(length: int, count: int, start: float) -> None:
    places = writes.spread(length, count, start)
    count = min(length, count)
    assert len(set(places)) == len(places) == count
    assert 0 <= places[0] < length / count
    assert length - length / count - 1 < places[-1] < length
    gaps = {after - before for before, after in pairwise(places)}
    assert gaps <= {length // count, -(-length // count)}


@pytest.mark.parametrize(("what", "on"), [(28, False), (5, True)])
def test_a_fault_happens_at_its_call_and_is_noted(what: int, on: bool, tmp_path: Path) -> None:
    """The first is that which makes the run folder."""
    child.make_place(tmp_path)
    assert child.run(child.FIT, tmp_path, every=1, fault=Fault(1, what, 0.5, on)) == 2
    noted = child.note(tmp_path)
    assert (noted["call"], Path(noted["path"]).name) == ("mkdir", "run")
    said = (tmp_path / child.LOG).read_text()
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
