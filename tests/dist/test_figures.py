"""What benchmarks/ranks.py tells of runs; the runs themselves are in test_ranks.py."""

from pathlib import Path

import ranks


def test_a_run_is_in_the_phase_whose_stage_is_not_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    seen = [ranks.phase_of(run)]
    (run / "run.json").write_text("{}")
    for stage in ranks.STAGES:
        seen.append(ranks.phase_of(run))
        assert ranks.reached(run, stage)
        assert not ranks.reached(run, ranks.AFTER)
        (run / stage).mkdir()
        (run / stage / "done.json").write_text("{}")
    assert [*seen, ranks.phase_of(run)] == [ranks.BEFORE, *ranks.STAGES, ranks.AFTER]


def test_scores_are_told_by_layout_and_kills_by_phase_and_rank() -> None:
    seconds = dict.fromkeys((*ranks.TIMED, "all"), 7.0)
    fits = [{"acc": acc, "nmi": 0.5, "ari": 0.25, "seconds": seconds} for acc in (0.9, 0.8)]
    hit = {"phases": {"2-embed": 1, "1-pretrain": 2}, "ranks": {"0": 2, "1": 1}}
    text = ranks.report("# Head", {"2": fits}, [{"processes": 2, "ended": 3, "same": 2, **hit}])
    assert "| 2 | 0.850 ± 0.050 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.800 | 2 | 7 | 7 | 7 | 7 | 7 |" in text
    assert "3 runs of 2 processes had a rank killed, by phase: 1-pretrain 2, 2-embed 1; by rank: 0 2, 1 1." in text
    assert "3 ended well, 2 with the bytes of a run that was never killed" in text
