import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spiceclust.errors import RunFolderError
from spiceclust.staging import copy_folder, new_folder

ABOUT = {"kind": "folders", "n": 3}


def fill(target: Path, about: dict[str, object] = ABOUT, *, stop: bool = False, name: str = "a.txt") -> None:
    with new_folder(target, about) as folder:
        assert not target.exists() or not any(target.iterdir())
        (folder / name).write_text("whole")
        if stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("there", ["no", "empty", "deep"])
def test_the_folder_is_there_when_it_is_whole(there: str, tmp_path: Path) -> None:
    target = tmp_path / ("a/b/new" if there == "deep" else "new")
    if there == "empty":
        target.mkdir()
    fill(target)
    assert sorted(path.name for path in target.iterdir()) == ["a.txt", "export.json"]
    assert json.loads((target / "export.json").read_text()) == ABOUT
    assert [path.name for path in target.parent.iterdir()] == ["new"]


def test_an_interrupted_call_is_gone_on_with(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        fill(target, stop=True)
    assert not target.exists()
    fill(target, name="b.txt")
    assert sorted(path.name for path in target.iterdir()) == ["a.txt", "b.txt", "export.json"]


def test_what_is_left_of_another_call_is_not_mixed_in(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        fill(target, stop=True)
    fill(target, {**ABOUT, "n": 4}, name="b.txt")
    assert sorted(path.name for path in target.iterdir()) == ["b.txt", "export.json"]


def test_a_call_that_was_killed_at_its_start_is_in_nobody_s_way(tmp_path: Path) -> None:
    """Before it said what it is: an empty folder, or a file that was cut off in it."""
    (tmp_path / ".unfinished-new").mkdir()
    (tmp_path / ".unfinished-new/.unfinished-q1w2").write_text('{"kin')
    fill(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "export.json"]


def test_an_error_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing"), new_folder(tmp_path / "new", ABOUT):
        raise RunFolderError("nothing")
    assert list(tmp_path.iterdir()) == []


def test_two_calls_at_once_for_one_folder_are_refused(tmp_path: Path) -> None:
    with new_folder(tmp_path / "new", ABOUT) as folder:
        (folder / "a.txt").write_text("a")
        with pytest.raises(RunFolderError, match=r"new is being written by process \d+"):
            fill(tmp_path / "new")
        assert (folder / "a.txt").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "export.json"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 250, "x" * 400])
def test_names_that_no_file_system_takes_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for make in (fill, lambda target: copy_folder(tmp_path / "mine", target)):
        with pytest.raises(RunFolderError, match="choose another folder"):
            make(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/b/c.txt", "a/d.txt", "a/.lock"):
        (tmp_path / name).write_text(name)
    copy_folder(tmp_path / "a", tmp_path / "deep/copy")
    found = {path.relative_to(tmp_path / "deep").as_posix() for path in (tmp_path / "deep").rglob("*")}
    assert found == {"copy", "copy/b", "copy/b/c.txt", "copy/d.txt"}
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        copy_folder(tmp_path / "a/b", tmp_path / "deep/copy")

    def full(source: str, target: str, **_: object) -> None:
        Path(target).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copystat", full)
    with pytest.raises(RunFolderError, match="cannot be written"):
        copy_folder(tmp_path / "a", tmp_path / "deep/other")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_what_a_killed_copy_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    others = [f".unfinished-co[p]y-{os.getppid()}", ".unfinished-co[p]y-x", f".unfinished-copy-{ended.pid}", "mine"]
    for name in (f".unfinished-co[p]y-{ended.pid}", *others):
        (tmp_path / name / "b").mkdir(parents=True)
    copy_folder(tmp_path / "a", tmp_path / "co[p]y")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "co[p]y", *others}


@pytest.mark.parametrize("kind", ["file", "full", "link to nowhere"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "new"
    if kind == "file":
        target.write_text("mine")
    elif kind == "full":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    else:
        target.symlink_to(tmp_path / "new/nowhere/at/all")
    with pytest.raises(RunFolderError, match="choose"):
        fill(target)
    if kind == "file":
        assert target.read_text() == "mine"
    if kind == "full":
        assert (target / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_in_the_way_and_not_ours_stays(kind: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "export.json").write_text(json.dumps(ABOUT))
    way = tmp_path / ".unfinished-new"
    if kind == "folder":
        way.mkdir()
        (way / "mine.txt").write_text("mine")
    else:
        way.symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match="remove it"):
        fill(tmp_path / "new")
    assert not (elsewhere / "a.txt").exists()
    assert kind == "link" or (way / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be made") as caught:
        fill(Path("/proc/nowhere/new"))
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="choose another folder"):
        fill(tmp_path / "file/new")


def test_a_device_that_fails_at_last_leaves_the_next_call_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(folder: Path) -> None:
        raise RunFolderError(f"{folder} cannot be written (Input/output error): free it and go on")

    def make() -> None:
        with new_folder(tmp_path / "out", {"a": 1}) as growing:
            (growing / "file").write_text("content")

    with monkeypatch.context() as patched:
        patched.setattr("spiceclust.staging.sync_folder", failing)
        with pytest.raises(RunFolderError, match="Input/output error"):
            make()
        assert not (tmp_path / "out").exists()
        patched.setattr(os, "rename", once(os.rename))
        with pytest.raises(RunFolderError, match="is there, and whole"):
            make()
    assert (tmp_path / "out/file").read_text() == "content"
    (tmp_path / "out").rename(tmp_path / ".unfinished-out")
    make()
    assert (tmp_path / "out/file").read_text() == "content"


def once(rename: Callable[..., None]) -> Callable[..., None]:
    """The first call renames, those after it fail."""
    calls = iter([rename])

    def renaming(*given: object) -> None:
        for call in calls:
            return call(*given)
        raise OSError(5, "Input/output error")

    return renaming
