import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spiceclust import pipeline
from spiceclust.cli import main
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.errors import RunFolderError
from spiceclust.locks import locked, refuse_locked
from spiceclust.outputs.evaluate import evaluate, write_scores
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.run_folder import look_at, sweep

# Holds the lock of the folder that is named until it is told to go on.
HOLD = """
import sys
from pathlib import Path
from spiceclust.errors import RunFolderError
from spiceclust.progress import Silent
from spiceclust.locks import locked
sys.stdin.readline()
try:
    with locked(Path(sys.argv[1]), Silent()):
        print("held", flush=True)
        sys.stdin.readline()
except RunFolderError as error:
    print(error, flush=True)
"""


class Writer:
    """Another process, which tries to lock a folder when it is told to, and holds it until it is told again."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-c", HOLD, str(folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def take(folder: Path) -> None:
    with locked(folder, Silent()):
        pass


def test_a_second_writer_is_refused_at_once_and_told_by_whom(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    try:
        writer.tell()
        assert writer.says() == "held"
        start = time.monotonic()
        with pytest.raises(RunFolderError) as caught:
            take(tmp_path / "run")
        assert time.monotonic() - start < 1
        pid, host = writer.process.pid, os.uname().nodename
        assert f"run is being written by process {pid} on {host} since 2" in str(caught.value)
        assert "wait for it, or choose another folder" in str(caught.value)
        writer.tell()
        writer.process.wait()
        take(tmp_path / "run")
    finally:
        writer.end()
    assert list(tmp_path.iterdir()) == []  # nothing came into the folder


def test_a_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    writer = Writer(folder)
    writer.tell()
    assert writer.says() == "held"
    os.kill(writer.process.pid, signal.SIGKILL)
    writer.end()
    assert (folder / ".lock").exists()
    assert look_at(folder, ()) is None  # no other file
    take(folder)
    assert not (folder / ".lock").exists()


def test_of_writers_that_race_for_a_new_folder_one_wins(tmp_path: Path) -> None:
    for attempt in range(3):
        writers = [Writer(tmp_path / f"deep/{attempt}") for _ in range(3)]
        try:
            for writer in writers:
                writer.tell()
            said = [writer.says() for writer in writers]
        finally:
            for writer in writers:
                writer.end()
        assert said.count("held") == 1
        assert sum("is being written by" in text for text in said) == 2


def test_a_thread_of_the_same_process_is_refused_too(tmp_path: Path) -> None:
    raised: list[str] = []

    def second() -> None:
        try:
            take(tmp_path)
        except RunFolderError as error:
            raised.append(str(error))

    with locked(tmp_path, Silent()):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert (tmp_path / ".lock").exists()
    assert len(raised) == 1
    assert f"process {os.getpid()}" in raised[0]


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    with locked(tmp_path, Silent()):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        take(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_was_made_for_nothing_goes_again_and_what_was_there_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "a/b", Silent()):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    take(tmp_path / "empty")
    assert (tmp_path / "empty").is_dir()
    with locked(tmp_path / "c/d", Silent()):
        (tmp_path / "c/d/run.json").write_text("{}")
    assert [path.name for path in (tmp_path / "c/d").iterdir()] == ["run.json"]


def test_a_lock_that_another_has_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking it: who holds a file that is gone holds nothing."""
    flock, removed = fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path, Silent()):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(RunFolderError, match="is being written"):
            take(tmp_path)


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path, Heard()):
        pass
    assert said == [f"{tmp_path} is on a file system without locks: let no other process write there meanwhile"]


@pytest.mark.parametrize("way", ["link", "file above", "long", "failing"])
def test_a_folder_that_cannot_be_locked_is_one_line(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    if way == "link":
        folder.mkdir()
        (folder / ".lock").symlink_to(tmp_path / "elsewhere")
    elif way == "file above":
        folder.write_text("mine")
        folder = folder / "below"
    elif way == "long":
        folder = tmp_path / ("x" * 300)
    else:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunFolderError, match="choose another folder") as caught:
        take(folder)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "elsewhere").exists()
    if way == "failing":
        assert not folder.exists()
        take(folder)  # nothing is held


def test_fit_and_evaluate_write_where_nobody_else_does(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    run = tmp_path / "run"
    with locked(run, Silent()), pytest.raises(RunFolderError, match="is being written"):
        pipeline.fit(open_source(images), make_request(n_clusters=2), run)
    assert not run.exists()


def test_a_fit_is_refused_before_its_source_is_scanned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["spiceclust", "fit", str(tmp_path / "nothing here"), "--clusters", "2", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", words)
    with locked(tmp_path / "run", Silent()), pytest.raises(SystemExit, match="2"):
        main()
    assert "run is being written by process" in capsys.readouterr().err


def test_a_lock_that_a_crash_left_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1")
    refuse_locked(tmp_path, Silent())
    refuse_locked(tmp_path / "nowhere", Silent())
    assert not (tmp_path / "nowhere").exists()


def test_evaluate_waits_for_nobody(tmp_path: Path, make_result: object) -> None:
    result: Result = make_result([0, 0, 1, 1, 1], 2)  # type: ignore[operator]
    result.save(tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    scores = evaluate(result, {"0.png": "a", "1.png": "a", "2.png": "b"})
    with locked(tmp_path, Silent()), pytest.raises(RunFolderError, match="is being written"):
        write_scores(tmp_path, result, *scores)
    assert (tmp_path / "metrics.json").read_bytes() == before
    write_scores(tmp_path, result, *scores)
    assert json.loads((tmp_path / "metrics.json").read_text())["acc"] == 1


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-2-embed").mkdir()
    (tmp_path / ".unfinished-2-embed/tensors.safetensors").write_bytes(b"half")
    (tmp_path / "model").mkdir()
    for name in (".unfinished-ab", "model/.unfinished-cd", "run.json"):
        (tmp_path / name).write_bytes(b"half")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "run.json"]


def test_what_a_review_is_writing_is_not_swept(tmp_path: Path) -> None:
    half = tmp_path / "review/exports/.unfinished-cats"
    with locked(tmp_path / "review", Silent()):
        half.mkdir(parents=True)
        sweep(tmp_path)
        assert half.is_dir()
    sweep(tmp_path)
    assert not half.exists()
