import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spiceclust.errors import RunFolderError
from spiceclust.manifest import Row, read_manifest, write_manifest

ROWS = [
    Row("a/eins.png", "ok", "", 640, 480, "0" * 64),
    Row('b/"zwei", 猫.jpg', "quarantined", "truncated:\nline two, with comma", 0, 0, ""),
    Row("c/drei.png", "duplicate", "same content as a/eins.png", 640, 480, "0" * 64),
]


def test_round_trip(tmp_path: Path) -> None:
    write_manifest(tmp_path, ROWS)
    assert read_manifest(tmp_path) == ROWS


def test_round_trip_of_no_rows(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    assert read_manifest(tmp_path) == []
    assert (tmp_path / "quarantine.csv").read_text() == "path,reason\n"


def test_parquet_has_the_promised_columns(tmp_path: Path) -> None:
    write_manifest(tmp_path, ROWS)
    schema = pq.read_schema(tmp_path / "images.parquet")
    assert schema.names == ["path", "status", "reason", "width", "height", "sha256"]
    assert schema.field("width").type == pa.int32()


def test_quarantine_lists_only_what_is_quarantined(tmp_path: Path) -> None:
    write_manifest(tmp_path, ROWS)
    with (tmp_path / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["path", "reason"], [ROWS[1].path, ROWS[1].reason]]


def test_a_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is missing: run `spiceclust fit`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "columns", "folder"])
def test_a_damaged_manifest_is_a_run_folder_error(damage: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, ROWS)
    path = tmp_path / "images.parquet"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "columns":
        pq.write_table(pa.table({"path": ["a"]}), path)
    else:
        path.unlink()
        path.mkdir()
        (path / "x").write_text("not parquet")
    with pytest.raises(RunFolderError, match="is damaged") as caught:
        read_manifest(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
