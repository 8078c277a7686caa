"""Parquet files are written with pyarrow, in the layouts that people have."""

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pictures import encoded, picture
from spiceclust.data import parquet as module
from spiceclust.data.decode import DecodeError
from spiceclust.data.images import Images, load, stamp
from spiceclust.data.parquet import Parquet, Recent
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError
from spiceclust.progress import Silent

PAIR = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], rows_in_group: int = 100) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_in_group)
    return path


def read(source: Any) -> Images:
    return load(open_source(source), 8, None, Silent())


def test_a_column_of_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"label": [7, 7, 8], "image": [encoded(i) for i in range(3)]}, 2)
    source = open_source(path)
    assert isinstance(source, Parquet)
    assert source.paths == ["a.parquet:0", "a.parquet:1", "a.parquet:2"]
    assert source.description == f"Parquet file {path}, 3 rows, column image"
    assert (source.native_size(), source.root) == (8, str(tmp_path))
    images = read(str(path))
    for i, row in enumerate(images.rows):
        assert (row.status, row.width, row.height) == ("ok", 10, 8)
        assert row.sha256 == hashlib.sha256(encoded(i)).hexdigest()
        assert np.array_equal(source.picture(i), picture(i))


KINDS = {
    "binary": pa.binary(),
    "large": pa.large_binary(),
    "pair": PAIR,
    "large pair": pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
    "other order": pa.struct([("path", pa.string()), ("bytes", pa.binary())]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_each_kind_of_bytes_in_each_compression(tmp_path: Path, kind: str, compression: str) -> None:
    contents = [encoded(0), None, b"", encoded(1), b"no picture", encoded(0)]
    values = contents if "pair" not in kind and kind != "other order" else [{"bytes": each} for each in contents]
    table = pa.table({"x.y": pa.array(values, KINDS[kind])})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4, compression=compression)
    images = read(tmp_path / "a.parquet")
    assert [row.reason for row in images.rows] == [
        "",
        "empty: the row holds no bytes",
        "empty file",
        "",
        "not an image in a supported format",
        "same content as a.parquet:0",
    ]
    assert images.index.tolist() == [0, -1, -1, 1, -1, 0]


@pytest.mark.parametrize("name", ["path", "file_name", "filename", "__key__"])
def test_a_column_of_names_names_the_rows(tmp_path: Path, name: str) -> None:
    names = ["猫/a.jpg", "été.jpg", "c"]
    columns = {"image": [encoded(i) for i in range(3)]}
    assert open_source(write(tmp_path / "a.parquet", {**columns, name: names})).paths == names
    assert open_source(write(tmp_path / "b.parquet", {**columns, name: ["x", "y", "x"]})).paths[0] == "b.parquet:0"
    assert open_source(write(tmp_path / "c.parquet", {**columns, name: ["x", None, "y"]})).paths[0] == "c.parquet:0"
    assert open_source(write(tmp_path / "d.parquet", {**columns, name: [3, 4, 5]})).paths[0] == "d.parquet:0"


def test_the_paths_of_pairs_name_the_rows(tmp_path: Path) -> None:
    pairs = pa.array([{"bytes": encoded(i), "path": f"p{i}.png"} for i in range(3)], PAIR)
    assert open_source(write(tmp_path / "a.parquet", {"image": pairs})).paths == ["p0.png", "p1.png", "p2.png"]
    columns = {"image": pairs, "file_name": ["a", "b", "c"]}
    assert open_source(write(tmp_path / "b.parquet", columns)).paths == ["a", "b", "c"]


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    names = pa.array([b"\xff\xfe", b"b"]).view(pa.string())
    images = read(write(tmp_path / "a.parquet", {"image": [encoded(0), encoded(1)], "path": names}))
    assert [(row.path, row.status) for row in images.rows] == [("a.parquet:0", "ok"), ("a.parquet:1", "ok")]


def test_several_files_are_one_source(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.parquet", {"image": [encoded(2 * number), encoded(2 * number + 1)]}, 1)
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    source = open_source(tmp_path)
    assert source.paths == [f"part-{i // 2}.parquet:{i % 2}" for i in range(6)]
    assert (
        source.description
        == f"3 Parquet files, {tmp_path}/part-0.parquet to {tmp_path}/part-2.parquet, 6 rows, column image"
    )
    assert open_source(f"{tmp_path}/*.parquet").paths == source.paths
    assert open_source(f"{tmp_path}/part-[01].parquet#image").paths == source.paths[:4]
    for i in range(6):
        assert np.array_equal(source.picture(i), picture(i))


def test_images_without_bytes_lie_in_files(tmp_path: Path) -> None:
    """As `datasets` writes those that it found in files."""
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    paths = [f"{tmp_path}/0.png", None, f"{tmp_path}/gone.png", "/dev/zero", "", f"{tmp_path}/1.png", "a\0b", "here"]
    pairs = pa.array([{"bytes": encoded(7) if path == "here" else None, "path": path} for path in paths], PAIR)
    images = read(write(tmp_path / "a.parquet", {"image": pairs}, 3))
    assert [row.reason for row in images.rows] == [
        "",
        "empty: the row holds no bytes",
        "cannot be opened: No such file or directory",
        "a device, not a file",
        "empty: the row holds no bytes",
        "",
        "cannot be opened: embedded null byte",
        "",
    ]
    source = open_source(tmp_path / "a.parquet")
    assert all(np.array_equal(source.picture(row), picture(seed)) for row, seed in ((0, 0), (5, 1), (7, 7)))
    noise = pa.StructArray.from_arrays(
        [pa.array([None, encoded(0)], pa.binary()), pa.array([b"\xff", b"b"]).view(pa.string())], ["bytes", "path"]
    )
    found = read(write(tmp_path / "b.parquet", {"image": noise})).rows
    assert found[0].reason == "the row holds no bytes, and a path that is no text"


def test_names_must_differ_over_all_files(tmp_path: Path) -> None:
    for number, names in enumerate((["a", "b"], ["c", "a"])):
        write(tmp_path / f"{number}.parquet", {"image": [encoded(0), encoded(1)], "path": names})
    assert open_source(tmp_path).paths[0] == "0.parquet:0"
    assert open_source(tmp_path / "1.parquet").paths == ["c", "a"]


# Which column


def test_files_beside_a_table_count_from_its_folder_and_belong_to_its_stamp(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = tmp_path / "a" / "x.png"
    image.write_bytes(encoded(0))
    table = write(tmp_path / "a" / "a.parquet", {"image": pa.array([{"bytes": None, "path": "x.png"}], PAIR)})
    assert np.array_equal(open_source(table).picture(0), picture(0))
    before = stamp(open_source(table))
    assert stamp(open_source(table)) == before
    image.write_bytes(encoded(0) + b"more")
    assert stamp(open_source(table)) != before


def test_several_columns_of_bytes_must_be_told_apart(tmp_path: Path) -> None:
    columns = {"left": [encoded(0), encoded(1)], "right": [encoded(2), encoded(3)], "n": [1, 2]}
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(SourceError, match=r"2 columns that may hold the images: left, right; name one .*SOURCE#left$"):
        open_source(path)
    assert np.array_equal(open_source(f"{path}#right").picture(1), picture(3))
    with pytest.raises(SourceError, match=r"no column 'n' of images .*left \(binary\), .* n \(int64\)$"):
        open_source(f"{path}#n")
    with pytest.raises(SourceError, match="no column 'middle' of images"):
        open_source(f"{path}#middle")


def test_the_note_of_hugging_face_tells_images_from_sounds(tmp_path: Path) -> None:
    pair = [{"bytes": encoded(0), "path": None}]
    table = pa.table({"audio": pa.array(pair, PAIR), "img": pa.array(pair, PAIR)})
    note = {"info": {"features": {"audio": {"_type": "Audio"}, "img": {"_type": "Image"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(note)}), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").description.endswith("column img")
    for broken in ("{", "[]", '{"info": {"features": {"img": 3}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": broken}), tmp_path / "a.parquet")
        with pytest.raises(SourceError, match="2 columns that may hold the images: audio, img"):
            open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize("columns", [{"n": [1]}, {"texts": ["a"]}, {"pixels": [[1, 2]]}, {"pair": [{"path": "a.jpg"}]}])
def test_a_table_without_bytes_lists_its_columns(tmp_path: Path, columns: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=rf"no column of images \(bytes\); its columns: {next(iter(columns))} \("):
        open_source(write(tmp_path / "a.parquet", columns))


def test_an_empty_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no rows"):
        open_source(write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())}))


# What is damaged


def test_a_damaged_file_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", {"image": [encoded(0)]})
    (tmp_path / "1.parquet").write_bytes(b"PAR1 no table")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-30])
    write(tmp_path / "3.parquet", {"picture": [encoded(1)]})
    (tmp_path / "4.parquet").mkdir()
    images = read(f"{tmp_path}/*.parquet")
    found = {row.path: row.reason for row in images.rows}
    assert found["0.parquet:0"] == ""
    assert found["1.parquet"].startswith("not a readable Parquet file: ")
    assert found["2.parquet"].startswith("not a readable Parquet file: ")
    assert found["3.parquet"] == "a Parquet file without the column image"
    assert found["4.parquet"] == "a folder; what it holds was not read"
    assert len(found) == 5


def test_a_file_alone_that_is_no_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no table")
    with pytest.raises(SourceError, match=r"none can be read; .* not a readable Parquet file"):
        read(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="No such file"):
        read(f"{tmp_path}/gone.parquet#image")


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [encoded(i) for i in range(6)]})
    pq.write_table(table, path, row_group_size=2, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    for at in range(start, start + 20):
        content[at] ^= 0xFF
    path.write_bytes(content)
    images = read(path)
    assert [row.status for row in images.rows] == ["ok", "ok", "quarantined", "quarantined", "ok", "ok"]
    assert images.rows[2].reason.startswith("its row group cannot be read: ")


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_a_file_ends_in_reasons(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    content = bytearray(write(tmp_path / "a.parquet", {"image": [encoded(i) for i in range(8)]}, 2).read_bytes())
    for at in draw.integers(0, len(content), 5):
        content[at] = draw.integers(256)
    (tmp_path / "a.parquet").write_bytes(content)
    try:
        images = read(tmp_path / "a.parquet")
    except SourceError:
        return  # any other error fails
    assert all(row.reason or row.status == "ok" for row in images.rows)


# Memory


def test_each_row_group_is_read_once_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": [encoded(i) for i in range(60)]}, 10)
    source = open_source(path, workers=4)
    groups: list[int] = []
    plain = module._column

    def count(group: module.Group, leaf: str) -> Any:
        groups.append(group.number)
        return plain(group, leaf)

    monkeypatch.setattr(module, "_column", count)
    images = load(source, 8, None, Silent())
    assert sorted(groups) == [0, 1, 2, 3, 4, 5]  # threads come to a group in any order
    assert images.pixels.shape == (60, 3, 8, 8)
    assert np.array_equal(images.pixels[33], picture(33)[:, 1:9].transpose(2, 0, 1))


def test_only_a_few_row_groups_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    asked: list[int] = []

    def group(number: int) -> Any:
        asked.append(number)
        return pa.array([b"x" * 400])

    recent = Recent(group)
    for number in (0, 1, 0, 1, 2, 0, 3, 2):
        assert recent.get(number)[0].as_py() == b"x" * 400
        assert sum(held.nbytes for held in recent._held.values()) < 1000 + 2 * 410
    assert asked == [0, 1, 2, 3]
    recent.get(0)
    assert asked[-1] == 0  # it had been let go


def test_a_failure_is_remembered_and_told_to_every_thread() -> None:
    calls: list[int] = []

    def fail(number: int) -> Any:
        calls.append(number)
        time.sleep(0.05)
        raise OSError("bad\nblock")

    recent, told = Recent(fail), []

    def ask() -> None:
        with pytest.raises(DecodeError, match="its row group cannot be read: bad block"):
            recent.get(0)
        told.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, told) == ([0], [1] * 4)


def test_sizes_are_learned_from_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": [encoded(i % 7) for i in range(600)]}, 10)
    source = open_source(path)
    groups: set[int] = set()
    plain = module._column
    monkeypatch.setattr(module, "_column", lambda group, leaf: groups.add(group.number) or plain(group, leaf))
    assert source.native_size() == 8
    assert len(groups) == module.SAMPLED_GROUPS
    assert max(groups) - min(groups) > 40


def test_a_row_group_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": [encoded(i) for i in range(4)]})
    monkeypatch.setattr(module, "GROUP_BYTES", 1000)
    with pytest.raises(
        SourceError, match=r"a\.parquet: row group 0 holds 1,\d\d\d bytes .*limit 1,000: write it again"
    ):
        open_source(path)
