import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spiceclust.corrections import action_of
from spiceclust.errors import ConfigError, NewerFormatError, RunFolderError
from spiceclust.journal import Journal, open_journal, read_corrections
from spiceclust.progress import Silent
from spiceclust.result import Result

MakeResult = Callable[..., Result]
MOVE = action_of({"do": "move", "rows": [0], "to": 2})
NAME = action_of({"do": "name", "cluster": 1, "name": "cats"})
SPLIT = action_of({"do": "split", "cluster": 1, "rows": [1]})


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def run(make_result: MakeResult, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    make_result([0, 1, 1, 2, 2], 3).save(folder)
    return folder


def log(run: Path) -> Path:
    return run / "review/corrections.jsonl"


def correct(run: Path, *actions: Any) -> None:
    with open_journal(run, Result.load(run), Silent()) as journal:
        for action in actions:
            journal.do(action)


def test_looking_leaves_nothing_behind(run: Path) -> None:
    with open_journal(run, Result.load(run), Silent()) as journal:
        assert journal.actions == []
    assert not (run / "review").exists()
    assert read_corrections(run, Result.load(run)) is None


def test_corrections_outlast_the_program(run: Path) -> None:
    correct(run, MOVE, NAME)
    correct(run, SPLIT)
    with open_journal(run, Result.load(run), Silent()) as journal:
        assert journal.actions == [MOVE, NAME, SPLIT]
        assert journal.state.labels.tolist() == [2, 3, 1, 2, 2]
        assert journal.state.names == {1: "cats"}
    state = read_corrections(run, Result.load(run))
    assert state is not None
    assert state.labels.tolist() == [2, 3, 1, 2, 2]


def test_the_result_is_not_touched(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    correct(run, MOVE, NAME)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_undo_and_redo_without_limit_and_beyond_the_end_of_the_program(run: Path) -> None:
    with open_journal(run, Result.load(run), Silent()) as journal:
        states = [journal.state, *(journal.do(action) for action in (MOVE, NAME, SPLIT))]
        for earlier in reversed(states[:-1]):
            assert same(journal.undo(), earlier)
        with pytest.raises(ConfigError, match="nothing to undo"):
            journal.undo()
        assert same(journal.redo(), states[1])
    with open_journal(run, Result.load(run), Silent()) as journal:
        assert same(journal.state, states[1])
        assert journal.redoable == NAME
        for later in states[2:]:
            assert same(journal.redo(), later)
        with pytest.raises(ConfigError, match="nothing to do again"):
            journal.redo()
        journal.undo()
        journal.do(MOVE)
        with pytest.raises(ConfigError, match="nothing to do again"):
            journal.redo()
    assert len(log(run).read_bytes().splitlines()) == 12  # with the first: nothing is ever taken out


def same(one: Any, other: Any) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "fixed"))
    return arrays and all(
        getattr(one, name) == getattr(other, name) for name in ("n_clusters", "names", "merged", "head")
    )


def test_random_corrections_undone_and_done_again_are_those_replayed(run: Path) -> None:
    numbers = np.random.default_rng(0)
    with open_journal(run, Result.load(run), Silent()) as journal:
        for _ in range(300):
            rows = numbers.choice(5, size=numbers.integers(1, 4), replace=False).tolist()
            cluster, other = (int(number) for number in numbers.integers(0, 6, 2))
            choices: list[Any] = [
                {"do": "move", "rows": rows, "to": cluster},
                {"do": "split", "cluster": cluster, "rows": rows},
                {"do": "merge", "clusters": [cluster], "into": other},
                {"do": "confirm", "rows": rows},
                {"do": "nowhere", "rows": rows},
                {"do": "name", "cluster": cluster, "name": f"name {other}"},
                "undo",
                "undo",
                "redo",
            ]
            chosen = choices[numbers.integers(len(choices))]
            try:
                getattr(journal, chosen)() if isinstance(chosen, str) else journal.do(action_of(chosen))
            except ConfigError:
                continue
        last, actions = journal.state, journal.actions
        assert len(log(run).read_bytes().splitlines()) > 100
        replayed = Journal(run / "nowhere", Result.load(run), "")
        for action in actions:
            replayed._take_on(action)
        assert same(replayed.state, last)
    state = read_corrections(run, Result.load(run))
    assert (state is None) == (not actions)
    if state is not None:
        assert same(state, last)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_a_crash_cut_off_is_left_out(run: Path, cut: int) -> None:
    correct(run, MOVE, NAME)
    log(run).write_bytes(log(run).read_bytes()[:-cut])
    told = Told()
    with open_journal(run, Result.load(run), told) as journal:
        assert journal.actions == [MOVE]
        journal.do(SPLIT)
    assert "was cut off" in told.lines[0]
    with open_journal(run, Result.load(run), Silent()) as journal:
        assert journal.actions == [MOVE, SPLIT]


def test_every_flipped_bit_is_refused_or_cuts_the_last_line_off(run: Path) -> None:
    correct(run, MOVE, NAME)
    whole, result = log(run).read_bytes(), Result.load(run)
    for at in range(len(whole)):
        log(run).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            journal = Journal(log(run), result, json.loads(whole.splitlines()[0])["result"])
        except RunFolderError:
            continue
        assert journal.actions == [MOVE]
        assert at == len(whole) - 1


def test_a_line_out_of_its_place_is_refused(run: Path) -> None:
    correct(run, MOVE, NAME)
    first, move, name = log(run).read_bytes().splitlines(keepends=True)
    for lines in ([first, name], [first, name, move], [first, move, move], [move, name], [name]):
        log(run).write_bytes(b"".join(lines))
        with pytest.raises(RunFolderError, match=r"is damaged|corrects another"):
            read_corrections(run, Result.load(run))


def test_corrections_of_another_result_are_refused(run: Path, make_result: MakeResult) -> None:
    correct(run, MOVE)
    make_result([0, 1, 2, 2, 2], 3).save(run)
    with pytest.raises(RunFolderError, match="corrects another result"):
        read_corrections(run, Result.load(run))


def test_a_newer_format_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spiceclust.journal.FORMAT", 2)
    correct(run, MOVE)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match="has format 2, this version reads 1"):
        read_corrections(run, Result.load(run))


def test_two_reviews_at_once_are_refused(run: Path) -> None:
    correct(run, MOVE)
    code = (
        "import sys, pathlib, spiceclust.journal as j; from spiceclust.progress import Silent; "
        "from spiceclust.result import Result; run = pathlib.Path(sys.argv[1])\n"
        "with j.open_journal(run, Result.load(run), Silent()): print('open')"
    )
    with open_journal(run, Result.load(run), Silent()):
        done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is being written by process" in done.stderr
    assert "open" not in done.stdout


def test_a_write_that_fails_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    correct(run, MOVE)
    before = log(run).read_bytes()
    with open_journal(run, Result.load(run), Silent()) as journal:

        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RunFolderError, match="No space left"):
            journal.do(NAME)
        assert log(run).read_bytes() == before
        assert (journal.actions, journal.state.names) == ([MOVE], {})
        monkeypatch.undo()
        journal.do(NAME)
    with open_journal(run, Result.load(run), Silent()) as journal:
        assert journal.actions == [MOVE, NAME]
