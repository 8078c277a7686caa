"""A few damaged files; `make faults` damages a thousand."""

from pathlib import Path

from _faults import artefacts


def test_no_damaged_file_is_taken_for_whole(tmp_path: Path) -> None:
    found = artefacts.run(20, 5, tmp_path)
    assert sum(value for name, value in found.items() if name.startswith("damaged: ")) == found["damaged"] == 20
    assert found["refused"] > 0 < found["made again or unharmed"]
    assert artefacts.wrong(found) == 0
    assert artefacts.wrong({**found, "silently": 1}) == 1
