import hashlib
import os
import stat
from pathlib import Path

import pytest

from spiceclust import files
from spiceclust.errors import RunFolderError


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new\x00\xff")
    assert path.read_bytes() == b"new\x00\xff"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(RunFolderError if isinstance(error, OSError) else KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_temporary_file_lies_beside_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[tuple[str, Path]] = []
    monkeypatch.setattr(files.os, "replace", lambda source, target: renamed.append((source, target)))
    files.write_text(tmp_path / "a.txt", "x")
    ((source, target),) = renamed
    assert Path(source).parent == target.parent == tmp_path  # a rename across file systems would not be atomic


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_file_gets_the_rights_that_the_umask_leaves(
    umask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patched:
            patched.delattr(os, "umask")  # to look at it would change it for other threads meanwhile
            files.write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_json_round_trip_keeps_text_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = {"path": "Übung/猫.png", "loss": 0.1, "none": None}
    files.write_json(path, content)
    assert files.read_json(path) == content
    assert "猫" in path.read_text("utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_say(number: float, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"loss": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"loss": number})
    assert files.read_json(path) == {"loss": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b'{"a": ', "is damaged"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[1, 2]", "expected a JSON object, found list"),
    ],
)
def test_unreadable_json_is_a_run_folder_error_that_names_the_file(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFolderError, match=message) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_json_is_a_run_folder_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is damaged"):
        files.read_json(tmp_path)


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_sha256_of_json_follows_values_and_not_the_order_of_keys() -> None:
    assert files.sha256_json({"a": 1, "b": [1, 2]}) == files.sha256_json({"b": [1, 2], "a": 1})
    assert files.sha256_json({"a": 1, "b": [1, 2]}) != files.sha256_json({"a": 1, "b": [2, 1]})
