import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from spiceclust.errors import NewerFormatError, RunFolderError
from spiceclust.files import write_sealed
from spiceclust.manifest import write_manifest
from spiceclust.result import Result

MakeResult = Callable[..., Result]


@pytest.fixture
def result(make_result: MakeResult) -> Result:
    return make_result(
        [0, 1, -1, 1, 2],
        3,
        confidence=[0.5, 0.75, 0, 1, 0.6],
        reliable=[True, False, False, True, True],
        status={3: "duplicate"},
    )


def save(result: Result, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_manifest(folder, result.rows)
    result.save(folder)


def test_round_trip(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    loaded = Result.load(tmp_path)
    for name in ("labels", "probabilities", "reliable", "typicality"):
        before, after = getattr(result, name), getattr(loaded, name)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    assert (loaded.rows, loaded.run, loaded.metrics) == (result.rows, result.run, result.metrics)
    assert loaded.positions is None


def test_positions_come_back_where_there_are_any(result: Result, tmp_path: Path) -> None:
    placed = dataclasses.replace(result, positions=np.arange(10, dtype=np.float32).reshape(5, 2))
    save(placed, tmp_path)
    found = Result.load(tmp_path).positions
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, placed.positions)


def test_clusters_csv_has_a_line_for_each_image_that_was_clustered(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    assert (tmp_path / "clusters.csv").read_text() == (
        "path,cluster,confidence,reliable\n"
        "0.png,0,0.500000,true\n"
        "1.png,1,0.750000,false\n"
        "3.png,1,1.000000,true\n"
        "4.png,2,0.600000,true\n"
    )


def test_clusters_and_confidence(result: Result) -> None:
    assert result.n_clusters == 3
    assert result.confidence.dtype == np.float32
    np.testing.assert_allclose(result.confidence, [0.5, 0.75, 0, 1, 0.6])


def test_run_json_comes_last_so_that_it_vouches_for_the_rest(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = os.replace

    def recorded(source: str, target: Path) -> None:
        replace(source, target)
        written.append(target.name)

    monkeypatch.setattr(os, "replace", recorded)
    result.save(tmp_path)
    assert written[-1] == "run.json"
    others = {"images.parquet", "quarantine.csv", "metrics.json", "clusters.csv", "result.safetensors"}
    assert set(written) == {"run.json", *others}
    assert json.loads((tmp_path / "run.json").read_text())["sha256"].keys() == others - {"metrics.json"}


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        Result.load(tmp_path / "absent")


def test_a_run_that_is_not_finished(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    (tmp_path / "result.safetensors").unlink()
    with pytest.raises(RunFolderError, match="is not finished"):
        Result.load(tmp_path)


@pytest.mark.parametrize("name", ["result.safetensors", "images.parquet", "run.json", "metrics.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_file_is_named_in_one_line(name: str, damage: str, result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": b"\xff" * len(content)}[damage])
    with pytest.raises(RunFolderError, match="is damaged") as caught:
        Result.load(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["result.safetensors", "images.parquet", "run.json", "metrics.json", "clusters.csv", "quarantine.csv"]
)
def test_no_flipped_bit_goes_unnoticed(name: str, result: Result, tmp_path: Path) -> None:
    save(dataclasses.replace(result, run={**result.run, "state": "done", "versions": {}}), tmp_path)
    path, numbers = tmp_path / name, random.Random(0)
    content = path.read_bytes()
    places = set(numbers.sample(range(len(content)), min(60, len(content))))
    for key in (b"format", b"checksum"):  # without which a file could seem to be from before there were any
        places |= set(range(content.find(key), content.find(key) + len(key))) if key in content else set()
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << numbers.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(RunFolderError, match=name) as caught:
            Result.load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["result.safetensors", "images.parquet", "run.json", "metrics.json"])
def test_a_file_of_another_run_is_refused(name: str, result: Result, make_result: MakeResult, tmp_path: Path) -> None:
    save(result, tmp_path / "a")
    save(make_result([0, 0, -1, 1, 2], 3), tmp_path / "b")
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    if name != "images.parquet":  # which is the same in both
        with pytest.raises(RunFolderError):
            Result.load(tmp_path / "a")


def test_a_run_of_a_newer_version_is_refused(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    write_sealed(tmp_path / "run.json", result.run, 99)
    with pytest.raises(NewerFormatError, match=r"run.json has format 99, this version reads 1: update spiceclust"):
        Result.load(tmp_path)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace("99", "98"))
    with pytest.raises(RunFolderError, match=r"run.json is damaged \(its checksum is another\)"):
        Result.load(tmp_path)


def test_a_run_from_before_there_were_checksums_is_read(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    record = {**result.run, "state": "done", "versions": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "metrics.json").write_text(json.dumps(result.metrics))
    loaded = Result.load(tmp_path)
    assert (loaded.run, loaded.metrics) == (record, result.metrics)


def test_tables_for_people_may_be_moved_away(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    for name in ("clusters.csv", "quarantine.csv"):
        (tmp_path / name).unlink()
    assert Result.load(tmp_path).rows == result.rows


@pytest.mark.parametrize("name", ["images.parquet", "metrics.json"])
def test_a_missing_file_is_named(name: str, result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunFolderError, match="is missing") as caught:
        Result.load(tmp_path)
    assert name in str(caught.value)


def test_arrays_survive_whatever_their_layout_in_memory(result: Result, tmp_path: Path) -> None:
    transposed = dataclasses.replace(result, probabilities=np.asfortranarray(result.probabilities))
    save(transposed, tmp_path)
    np.testing.assert_array_equal(Result.load(tmp_path).probabilities, result.probabilities)


def test_arrays_that_are_not_those_of_a_result_are_damage(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    (tmp_path / "result.safetensors").write_bytes(safetensors.numpy.save({"labels": result.labels}))
    with pytest.raises(RunFolderError, match="is damaged"):
        Result.load(tmp_path)


def test_a_manifest_of_another_length_is_damage(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    write_manifest(tmp_path, result.rows[:-1])
    with pytest.raises(RunFolderError, match="is damaged"):
        Result.load(tmp_path)
