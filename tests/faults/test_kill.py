"""A few kills; `make faults` does a hundred."""

from pathlib import Path

from _faults import child, kill


def test_killed_runs_end_as_the_unbroken_one(tmp_path: Path) -> None:
    found = kill.run(2, 1, tmp_path)
    assert found[kill.KILLS] == 2
    assert found[kill.AT_A_MOMENT] + found[kill.AT_A_CALL] == 2
    assert found[kill.AT_A_CALL] >= found[kill.AT_A_STAGE] >= 1
    assert found[kill.RUNS] == found[kill.SAME] >= 1
    assert kill.wrong(found) == 0
    assert kill.wrong({**found, kill.SAME: 0}) == found[kill.RUNS]


def test_too_few_kills_at_stages_are_wrong() -> None:
    found = {kill.KILLS: 100, kill.AT_A_STAGE: 15, kill.RUNS: 60, kill.SAME: 60}
    assert kill.wrong(found) == 0
    assert kill.wrong({**found, kill.AT_A_STAGE: 13}) == 2


def test_two_threads_compute_in_two_lanes_to_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for threads in (1, 2):
        place = tmp_path / str(threads)
        child.make_place(place)
        assert child.run(child.FIT, place, every=1000, threads=threads) == 0
        assert f'"threads": {threads},' in (place / "run/run.json").read_text()
        made.append([(place / "run" / name).read_bytes() for name in child.RESULTS])
    assert made[0] == made[1]
