"""A few failing writes; `make faults` fails the first two hundred in turn."""

from pathlib import Path

import pytest
from _faults import child, writes
from _faults.child import Fault


def test_no_failed_write_is_taken_for_done(tmp_path: Path) -> None:
    found = writes.run(4, 3, tmp_path)
    assert found["calls that failed"] == 4
    assert writes.wrong(found) == 0
    assert writes.wrong({**found, "did not load": 2}) == 2


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
