import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.outputs.table import Columns, Table

NASTY = ["a,b.png", 'quote".png', "two\nlines.png", "été/ü.png"]


def columns(paths: list[str], first: int = 0) -> Columns:
    numbers = list(range(first, first + len(paths)))
    return {"path": paths, "cluster": numbers, "confidence": [0.25] * len(paths), "novelty": [0.5] * len(paths)}


def rows_of(path: Path) -> list[tuple[str, int, float]]:
    if path.suffix == ".parquet":
        return [(row["path"], row["cluster"], row["confidence"]) for row in pq.read_table(path).to_pylist()]
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["path"], int(row["cluster"]), float(row["confidence"])) for row in csv.DictReader(file)]


@pytest.fixture(params=["t.csv", "t.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_parts_become_one_table_and_go(path: Path) -> None:
    table = Table(path, "key")
    for part in (columns(NASTY[:3]), columns([], 3), columns(NASTY[3:], 3)):  # of one part nothing could be read
        table.append(part)
        assert not path.exists()
    table.finish()
    assert rows_of(path) == [(name, number, 0.25) for number, name in enumerate(NASTY)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_table_is_taken_up_after_its_last_whole_part(path: Path) -> None:
    Table(path, "key").append(columns(NASTY[:3]))
    (path.parent / f"{path.name}.parts" / ".unfinished-x").write_bytes(b"killed")
    again = Table(path, "key")
    assert (len(again.parts), again.rows) == (1, 3)
    again.append(columns(NASTY[3:], 3))
    again.finish()
    assert [row[0] for row in rows_of(path)] == NASTY


def test_parts_of_another_table_are_refused_and_kept(path: Path) -> None:
    Table(path, "key").append(columns(NASTY))
    with pytest.raises(RunFolderError, match="beginning of another table"):
        Table(path, "other")
    assert Table(path, "key").rows == 4


def test_an_earlier_table_stays_until_the_new_one_is_whole(path: Path) -> None:
    path.write_text("earlier")
    table = Table(path, "key")
    table.append(columns(NASTY))
    assert path.read_text() == "earlier"
    table.finish()
    assert len(rows_of(path)) == 4


def test_what_could_not_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind of table '.xls': choose one of .csv, .parquet"):
        Table(tmp_path / "t.xls", "key")
    with pytest.raises(RunFolderError, match="make it first"):
        Table(tmp_path / "no" / "t.csv", "key")
    for name in ("a\0b.csv", "x" * 252 + ".csv", "x" * 400 + ".csv"):
        with pytest.raises(RunFolderError, match="give another file"):
            Table(tmp_path / name, "key")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_with_other_files_is_refused_and_kept(path: Path) -> None:
    parts = path.parent / f"{path.name}.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds other files"):
        Table(path, "key")
    (parts / "thesis.txt").rename(parts / f"00000000-3-{'0' * 64}{path.suffix}")  # a part, but of what?
    with pytest.raises(RunFolderError, match="holds other files"):
        Table(path, "key")
    assert [file.read_text() for file in parts.iterdir()] == ["years of work"]


def test_what_follows_a_part_that_is_lost_is_made_again(path: Path) -> None:
    table = Table(path, "key")
    for number, name in enumerate(NASTY):
        table.append(columns([name], number))
    table.parts[1].unlink()
    again = Table(path, "key")
    assert (len(again.parts), again.rows) == (1, 1)
    for number, name in enumerate(NASTY[1:], 1):
        again.append(columns([name], number))
    again.finish()
    assert [row[0] for row in rows_of(path)] == NASTY


def test_a_part_that_is_damaged_is_made_again_and_what_follows_it(path: Path) -> None:
    table = Table(path, "key")
    for number, name in enumerate(NASTY):
        table.append(columns([name], number))
    content = bytearray(table.parts[2].read_bytes())
    content[len(content) // 2] ^= 1
    table.parts[2].write_bytes(content)
    again = Table(path, "key")
    assert (len(again.parts), again.rows) == (2, 2)
    for number, name in enumerate(NASTY[2:], 2):
        again.append(columns([name], number))
    again.finish()
    assert [row[0] for row in rows_of(path)] == NASTY


def test_nothing_is_written_through_a_link(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (path.parent / f"{path.name}.parts").symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match="is a link"):
        Table(path, "key")
    (path.parent / f"{path.name}.parts").unlink()
    (elsewhere / "mine").write_text("mine")
    path.symlink_to(elsewhere / "mine")
    table = Table(path, "key")
    table.append(columns(NASTY))
    table.finish()
    assert (elsewhere / "mine").read_text() == "mine"
    assert not path.is_symlink()


def test_a_key_without_parts_protects_nothing(path: Path) -> None:
    Table(path, "key")
    Table(path, "other").append(columns(NASTY))
    with pytest.raises(RunFolderError, match="another table"):
        Table(path, "key")


@pytest.mark.parametrize("call", ["unlink", "rmdir"])
def test_parts_that_cannot_be_removed_are_one_line(call: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    table = Table(path, "key")
    table.append(columns(NASTY))
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, failing)
        with pytest.raises(RunFolderError, match=r"\.parts cannot be removed \(Input/output error\)") as caught:
            table.finish()
    assert "\n" not in str(caught.value)
    assert [row[0] for row in rows_of(path)] == NASTY  # the table itself is whole


def test_a_part_that_could_not_be_written_is_not_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(path, "key")

    def full(*_: object) -> None:
        raise RunFolderError("no space")

    with monkeypatch.context() as patched:
        patched.setattr("spiceclust.outputs.table.write_bytes", full)
        with pytest.raises(RunFolderError, match="no space"):
            table.append(columns(NASTY))
    assert table.parts == []
    table.append(columns(NASTY))
    table.finish()
    assert len(rows_of(path)) == 4
