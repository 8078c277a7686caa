"""A few kills; `make faults` does a hundred."""

from pathlib import Path

from _faults import kill


def test_killed_runs_end_as_the_unbroken_one(tmp_path: Path) -> None:
    found = kill.run(2, 1, tmp_path)
    assert found["kills"] == 2
    assert found["runs"] == found["same results"] >= 1
    assert kill.wrong(found) == 0
    assert kill.wrong({**found, "same results": 0}) == found["runs"]
