import io
import tarfile
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiceclust.bulk import shards as module
from spiceclust.bulk.shards import FILES, LONGEST, Shard, find_shards, open_shard
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError


def write_tar(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2, unique=True))
def test_tables_of_different_shards_are_called_differently_and_plainly(names: list[str]) -> None:
    first, second = (Shard(name, [], "").table for name in names)
    assert first != second
    assert len(first) <= LONGEST + len(".parquet")
    assert first.isascii()
    assert not first.startswith((".", "_"))
    assert "/" not in first
    if len(first) < LONGEST:
        assert unquote(first.removesuffix(".parquet").replace("%", "?").replace("~", "%")) == names[0]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("shard-0_1.tar", "shard-0_1.tar.parquet"),
        ("a/b.pq", "a~2Fb.pq.parquet"),
        ("_x~.tar", "~5Fx~7E.tar.parquet"),
        (".é", "~2E~C3~A9.parquet"),
        ("files-00000003", "files-00000003.parquet"),
    ],
)
def test_what_a_table_is_called_follows_from_the_name_of_its_shard(name: str, table: str) -> None:
    assert Shard(name, [], "").table == table


def test_long_names_differ_at_their_ends() -> None:
    tables = {Shard("n" * 500 + end, [], "").table for end in "ab"}
    assert len(tables) == 2
    assert {len(table) for table in tables} == {LONGEST + len(".parquet")}


def test_tars_are_shards_and_say_what_the_whole_source_says(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/b.tar", ["1.png", "2.png"])
    write_tar(tmp_path / "in/deep/a.tar", ["3.png", "notes.json"])
    write_tar(tmp_path / "in/empty.tar", ["only.json"])
    (tmp_path / "in/README.md").write_text("about")
    (tmp_path / "in/out").mkdir()
    (tmp_path / "in/out/b.tar.parquet").write_text("ours")
    found = find_shards(str(tmp_path / "in"), exclude=[tmp_path / "in/out"])
    assert (found.kind, found.root) == ("tars", str(tmp_path / "in"))
    assert [shard.name for shard in found.shards] == ["b.tar", "empty.tar", "deep/a.tar"]
    told = [open_shard(shard, found.root, found.kind, "", tmp_path).paths for shard in found.shards]
    whole = open_source(tmp_path / "in", exclude=[tmp_path / "in/out"])
    assert [path for paths in told for path in paths] == whole.paths
    assert told[1] == []


def test_tables_are_shards_by_pattern_and_column(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": [b"1", b"2"], "y": [b"3", b"4"]}), tmp_path / f"{name}.parquet")
    found = find_shards(f"{tmp_path}/*.parquet#y")
    assert (found.kind, found.column) == ("tables", "y")
    assert [shard.table for shard in found.shards] == ["a.parquet.parquet", "b.parquet.parquet"]
    images = open_shard(found.shards[1], found.root, found.kind, found.column, tmp_path)
    assert images.paths == ["b.parquet:0", "b.parquet:1"]
    assert images.fetch(0) == b"3"


def test_files_of_a_folder_come_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES", 2)
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / "in" / name).write_text(name)
    found = find_shards(str(tmp_path / "in"))
    assert [(shard.name, shard.files) for shard in found.shards] == [
        ("files-00000000", ["a.png", "b.png"]),
        ("files-00000001", ["sub/c.png"]),
    ]
    last = open_shard(found.shards[1], found.root, found.kind, "", tmp_path)
    assert (last.paths, last.fetch(0)) == (["sub/c.png"], b"sub/c.png")
    assert FILES <= 5000


def test_the_stamp_tells_that_a_shard_has_changed(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ["1.png"])
    write_tar(tmp_path / "b.tar", ["1.png"])
    before = find_shards(f"{tmp_path}/*.tar").shards
    write_tar(tmp_path / "b.tar", ["1.png", "2.png" * 30000])
    after = find_shards(f"{tmp_path}/*.tar").shards
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize("source", ["builtin:digits", "embeddings:x.npy", "nothing", "memory://nothing/here"])
def test_what_has_no_shards_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match=r"no shards|holds no files"):
        find_shards(source)
