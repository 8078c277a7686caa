"""Data sets are written with the library `datasets`, to this machine's disk: nothing here reaches the net."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pictures import encoded, picture
from spiceclust.data.hub import HuggingFace
from spiceclust.data.images import Images, load
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError
from spiceclust.progress import Silent

datasets = pytest.importorskip("datasets")


def data_set(n: int, paths: Any = None, first: int = 0) -> Any:
    features = datasets.Features({"pic": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pairs = [{"bytes": encoded(first + i), "path": paths[i] if paths else None} for i in range(n)]
    return datasets.Dataset.from_dict({"pic": pairs, "label": [i % 2 for i in range(n)]}, features=features)


def read(source: Any) -> Images:
    return load(open_source(source), 8, None, Silent())


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_a_saved_data_set(tmp_path: Path) -> None:
    data_set(9).save_to_disk(tmp_path / "saved", num_shards=3)
    source = open_source(f"hf:{tmp_path}/saved")
    assert isinstance(source, HuggingFace)
    assert source.paths == [str(i) for i in range(9)]
    assert source.description == f"hf:{tmp_path}/saved, 9 rows, column pic"
    assert source.native_size() == 8
    images = load(source, 8, None, Silent())
    assert [row.status for row in images.rows] == ["ok"] * 9
    for i in range(9):
        assert np.array_equal(source.picture(i), picture(i))
        assert np.array_equal(images.pixels[i], picture(i)[:, 1:9].transpose(2, 0, 1))


def test_images_keep_their_paths_when_these_differ(tmp_path: Path) -> None:
    data_set(3, ["été.png", "猫.png", "c.png"]).save_to_disk(tmp_path / "one")
    assert open_source(f"hf:{tmp_path}/one").paths == ["été.png", "猫.png", "c.png"]
    data_set(3, ["a.png", "b.png", "a.png"]).save_to_disk(tmp_path / "two")
    assert open_source(f"hf:{tmp_path}/two").paths == ["0", "1", "2"]


def test_splits(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": data_set(4), "test": data_set(2, first=10)})
    both.save_to_disk(tmp_path / "both")
    assert np.array_equal(open_source(f"hf:{tmp_path}/both:test").picture(1), picture(11))
    assert len(open_source(f"hf:{tmp_path}/both:train")) == 4
    with pytest.raises(SourceError, match=r"several splits: choose one of train, test, as in hf:.*/both:train$"):
        open_source(f"hf:{tmp_path}/both")
    with pytest.raises(SourceError, match="there is no split val: choose one of train, test"):
        open_source(f"hf:{tmp_path}/both:val")
    datasets.DatasetDict({"all": data_set(4)}).save_to_disk(tmp_path / "alone")
    assert len(open_source(f"hf:{tmp_path}/alone")) == 4
    data_set(4).save_to_disk(tmp_path / "plain")
    with pytest.raises(SourceError, match="has no splits: leave out :train"):
        open_source(f"hf:{tmp_path}/plain:train")


def test_rows_that_cannot_be_read_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(encoded(5))
    pairs = [
        {"bytes": encoded(0), "path": None},
        {"bytes": b"no picture", "path": None},
        None,
        {"bytes": None, "path": str(tmp_path / "there.png")},
        {"bytes": None, "path": "https://example.org/a.png"},
        {"bytes": None, "path": "/dev/zero"},
    ]
    datasets.Dataset(pa.table({"pic": pairs})).with_format("arrow").save_to_disk(tmp_path / "saved")
    assert [row.reason for row in read(f"hf:{tmp_path}/saved").rows] == [
        "",
        "not an image in a supported format",
        "empty: the row holds no bytes",
        "",
        "cannot be opened: No such file or directory",
        "a device, not a file",
    ]


def test_selected_rows_stay_selected_and_labels_are_left_alone(tmp_path: Path) -> None:
    data_set(6).select([5, 1, 3]).save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path}/saved")
    assert isinstance(source, HuggingFace)
    assert source.dataset.column_names == ["pic"]
    assert np.array_equal(source.picture(0), picture(5))


def test_columns(tmp_path: Path) -> None:
    features = datasets.Features({name: datasets.Image() for name in ("left", "right")})
    rows = {name: [{"bytes": encoded(seed), "path": None}] for seed, name in enumerate(features)}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pairs")
    with pytest.raises(SourceError, match="2 columns that may hold the images: left, right"):
        open_source(f"hf:{tmp_path}/pairs")
    assert np.array_equal(open_source(f"hf:{tmp_path}/pairs#right").picture(0), picture(1))
    datasets.Dataset.from_dict({"raw": [encoded(3)]}).save_to_disk(tmp_path / "raw")
    assert np.array_equal(open_source(f"hf:{tmp_path}/raw").picture(0), picture(3))
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(SourceError, match=r"no column of images .*: text \(string\)"):
        open_source(f"hf:{tmp_path}/text")


def test_a_folder_that_the_library_can_load(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
    for i in range(3):
        (tmp_path / "set" / "train" / f"{i}.png").write_bytes(encoded(i))
    (tmp_path / "set" / "test" / "9.png").write_bytes(encoded(9))
    source = open_source(f"hf:{tmp_path}/set:train")
    assert len(source) == 3
    assert [row.status for row in load(source, 8, None, Silent()).rows] == ["ok"] * 3


def test_parquet_that_the_library_wrote_is_read_as_parquet(tmp_path: Path) -> None:
    data_set(5, [f"{i}.png" for i in range(5)]).to_parquet(tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.paths == [f"{i}.png" for i in range(5)]
    assert np.array_equal(source.picture(4), picture(4))


@pytest.mark.parametrize("name", ["no/such/folder", "nobody/nothing", "", ":", "a b", "../../etc"])
def test_what_cannot_be_loaded_is_one_line(name: str) -> None:
    with pytest.raises(SourceError, match=r"^hf:.* cannot be loaded \(.*\): give a saved data set") as caught:
        open_source(f"hf:{name}")
    assert "\n" not in str(caught.value)


def test_a_damaged_data_set_is_one_line(tmp_path: Path) -> None:
    data_set(5).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"noise")
    with pytest.raises(SourceError, match="cannot be loaded"):
        open_source(f"hf:{tmp_path}/saved")


def test_an_empty_data_set_says_so(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data_set(0).to_parquet(tmp_path / "set" / "a.parquet")
    with pytest.raises(SourceError, match="cannot be loaded"):
        open_source(f"hf:{tmp_path}/set")


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "datasets")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError, match=r"pip install 'spiceclust\[hf\]'$"):
        open_source("hf:anything")
