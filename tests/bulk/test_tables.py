import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from spiceclust.bulk.places import Place
from spiceclust.bulk.shards import Shard
from spiceclust.bulk.tables import Done, Tables
from spiceclust.errors import RunFolderError
from spiceclust.manifest import Row
from spiceclust.prediction import Chunk

SHARDS = [Shard(name, [name], "stamp") for name in ("a.tar", "b.tar")]


def chunk(paths: list[str], bad: int = -1) -> Chunk:
    """An image for each path, of which one may be unreadable."""
    ok = [i != bad for i in range(len(paths))]
    rows = [
        Row(path, "ok" if good else "quarantined", "" if good else 'no, "image"', 1, 1, "")
        for path, good in zip(paths, ok, strict=True)
    ]
    n = len(paths)
    labels = np.where(ok, np.arange(n) % 3, -1)
    return Chunk(
        rows, labels, np.full((n, 3), 0.5, np.float32), np.full((n, 2), 0.25, np.float32), np.zeros(n, np.float32)
    )


def written(place: Path, features: int = 0) -> Tables:
    tables = Tables(Place(str(place)), "key", features)
    assert tables.open(SHARDS) == {}
    assert tables.write(SHARDS[0], [chunk(["a/0", "a/1"]), chunk(["a/2", "a/3"], bad=1)]) == Done("a.tar", 3, 1)
    assert tables.write(SHARDS[1], []) == Done("b.tar", 0, 0)
    return tables


@pytest.mark.parametrize("features", [0, 2])
def test_a_folder_is_read_as_one_table(tmp_path: Path, features: int) -> None:
    tables = written(tmp_path / "out", features)
    tables.finish([Done("a.tar", 3, 1), Done("b.tar")])
    table = ds.dataset(tmp_path / "out").to_table()
    assert table["path"].to_pylist() == ["a/0", "a/1", "a/2"]
    assert table["cluster"].to_pylist() == [0, 1, 0]
    assert table["confidence"].to_pylist() == [0.5] * 3
    assert ("embedding" in table.column_names) == bool(features)
    if features:
        assert table["embedding"].to_pylist() == [[0.25, 0.25]] * 3
    assert (tmp_path / "out/_unread/a.tar.csv").read_text() == 'path,reason\na/3,"no, ""image"""\n'
    told = json.loads((tmp_path / "out/_summary.json").read_text())
    assert {name: told[name] for name in ("shards", "rows", "unread", "failed")} == {
        "shards": 2,
        "rows": 3,
        "unread": 1,
        "failed": {},
    }


def test_whole_tables_are_found_again_and_the_summary_goes(tmp_path: Path) -> None:
    written(tmp_path).finish([])
    again = Tables(Place(str(tmp_path)), "key", 0).open(SHARDS)
    assert again == {"a.tar": Done("a.tar", 3, 1), "b.tar": Done("b.tar")}
    assert not (tmp_path / "_summary.json").exists()


def test_the_same_chunks_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name)
    assert (tmp_path / "one/a.tar.parquet").read_bytes() == (tmp_path / "two/a.tar.parquet").read_bytes()


def test_a_table_with_a_bit_flipped_anywhere_is_not_taken_for_whole(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "a.tar.parquet"
    whole = file.read_bytes()
    pages = pq.ParquetFile(file).metadata.row_group(0).column(0).total_compressed_size
    tables = Tables(Place(str(tmp_path)), "key", 0)
    for damaged in (
        whole[:-9],
        whole[: pages // 2],
        b"",
        whole[: pages - 2] + bytes([whole[pages - 2] ^ 1]) + whole[pages - 1 :],
    ):
        file.write_bytes(damaged)
        assert tables.find(SHARDS[0]) is None
    file.write_bytes(whole)
    assert tables.find(SHARDS[0]) == Done("a.tar", 3, 1)


def test_a_shard_that_has_changed_has_no_table_yet(tmp_path: Path) -> None:
    written(tmp_path)
    changed = [Shard("a.tar", ["a.tar"], "another"), SHARDS[1]]
    assert list(Tables(Place(str(tmp_path)), "key", 0).open(changed)) == ["b.tar"]


def test_tables_of_something_else_are_refused_and_kept(tmp_path: Path) -> None:
    written(tmp_path / "out")
    place = Place(str(tmp_path / "out"))
    with pytest.raises(RunFolderError, match="of another model, or of another form"):
        Tables(place, "other", 0).open(SHARDS)
    with pytest.raises(RunFolderError, match=r"1 tables of shards that are not in the source, such as b.tar.parquet"):
        Tables(place, "key", 0).open(SHARDS[:1])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/a.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds other files"):
        Tables(Place(str(tmp_path / "thesis")), "key", 0).open(SHARDS)
    assert len(list((tmp_path / "out").iterdir())) == 4
