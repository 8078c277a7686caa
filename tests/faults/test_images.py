from pathlib import Path

from _faults import images


def test_hostile_files_are_accepted_or_refused_and_nothing_else(tmp_path: Path) -> None:
    found = images.run(60, 0, tmp_path)
    assert found["files"] == found["accepted"] + found["quarantined"] == 60
    assert found["accepted"] >= 10
    assert found["quarantined"] >= 10
    assert (found["unaccounted"], found["crashed"], found["exit code of a fit"]) == (0, 0, 0)
    assert 10**8 < max(found["peak, bytes"], found["peak of a fit, bytes"]) < 1.5e9
