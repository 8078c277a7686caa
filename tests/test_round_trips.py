"""Written by one library and read by another: what we export is a source again, and other readers see what we see."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torchvision
from PIL import Image

from pictures import encoded, picture, write_tar
from spiceclust.data.arrays import Array
from spiceclust.data.images import load
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import SourceError
from spiceclust.outputs.export import export_images
from spiceclust.outputs.layouts import LAYOUTS
from spiceclust.progress import Silent
from spiceclust.result import Result
from stand_ins import write_cifar10, write_cifar100, write_mnist, write_stl

N = 9
NAMES = ["a.png", "b/Ünï 猫.PNG", "c.jpeg", "d.webp", "e.tif", "f.bmp", "g.gif", "h.jp2", "i"]  # the last has no ending
FORMATS = ["PNG", "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PNG"]
WITH_IMAGES = [kind for kind, layout in LAYOUTS.items() if layout.images]
CONTENTS = [encoded(i, kind) for i, kind in enumerate(FORMATS)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def as_files(root: Path) -> Any:
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(content)
    return root / "photos"


def as_list(root: Path) -> Any:
    return [as_files(root) / name for name in reversed(NAMES)]


def as_tar(root: Path) -> Any:
    return write_tar(root / "shard.tar", zip(NAMES, CONTENTS, strict=True))


def as_parquet(root: Path) -> Any:
    """By pandas."""
    pd.DataFrame({"image": CONTENTS, "path": NAMES}).to_parquet(root / "photos.parquet")
    return root / "photos.parquet"


def as_hugging_face(root: Path) -> Any:
    pairs = [{"bytes": content, "path": name} for name, content in zip(NAMES, CONTENTS, strict=True)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": pairs}, features=features).save_to_disk(root / "saved")
    return f"hf:{root}/saved"


def as_array(root: Path) -> Any:
    np.save(root / "photos.npy", np.stack([picture(i) for i in range(N)]))
    return root / "photos.npy"


KINDS = [as_files, as_list, as_tar, as_parquet, as_hugging_face, as_array]


def result_of(source: Source, make_result: Callable[..., Result]) -> Result:
    """A run of the source, in which picture i is in cluster i modulo 3."""
    images = load(source, 8, None, Silent())
    made = make_result([i % 3 for i in range(len(images.rows))], 3)
    run = {"source_root": source.root, "source": source.description, "images": "f", "seed": 0}
    return Result(images.rows, made.labels, made.probabilities, made.reliable, made.typicality, run, {})


def seen(source: Source) -> dict[str, list[Any]]:
    """The pixels of each readable image of a source, by its name."""
    rows = load(source, 8, None, Silent()).rows
    return {row.path: source.picture(i).tolist() for i, row in enumerate(rows) if row.status == "ok"}


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("kind", WITH_IMAGES)
def test_what_is_exported_of_any_source_is_a_source_of_the_same_pixels(
    write: Callable[[Path], Any], kind: str, make_result: Callable[..., Result], tmp_path: Path
) -> None:
    source = open_source(write(tmp_path))
    before = sorted(seen(source).values())
    done = export_images(result_of(source, make_result), tmp_path / "out", kind, source=source)
    assert done.images == len(before) == N
    again = open_source(tmp_path / "out")  # with the tables beside the images, which are no images
    assert sorted(seen(again).values()) == before
    assert isinstance(source, Array) or {
        row.sha256 for row in load(again, 8, None, Silent()).rows if row.status == "ok"
    } == {hashlib.sha256(content).hexdigest() for content in CONTENTS}


def test_an_imagefolder_is_a_data_set_and_a_source_again(make_result: Callable[..., Result], tmp_path: Path) -> None:
    """By `datasets`, as a split of its own, saved by it, and as the Parquet that it writes."""
    source = open_source(as_files(tmp_path))
    before = sorted(seen(source).values())
    export_images(result_of(source, make_result), tmp_path / "out", "imagefolder")
    assert sorted(seen(open_source(f"hf:{tmp_path}/out:train")).values()) == before
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    theirs.save_to_disk(tmp_path / "saved")
    theirs.to_parquet(tmp_path / "saved.parquet")
    for given in (f"hf:{tmp_path}/saved", tmp_path / "saved.parquet"):
        assert sorted(seen(open_source(given)).values()) == before


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_read_by_pandas_and_by_datasets(
    kind: str, make_result: Callable[..., Result], tmp_path: Path
) -> None:
    source = open_source(as_files(tmp_path))
    result = result_of(source, make_result)
    export_images(result, tmp_path / "out", kind)
    file = tmp_path / f"out/clusters.{kind}"
    table = pd.read_csv(file) if kind == "csv" else pd.read_parquet(file)
    theirs = datasets.load_dataset(kind, data_files=str(file), split="train")
    for read in (table, theirs.to_pandas()):
        assert read["path"].tolist() == source.paths
        assert read["cluster"].tolist() == result.labels.tolist()
        assert read["reliable"].dtype == bool
        np.testing.assert_allclose(read["confidence"], result.confidence, atol=1e-6)


def test_a_table_of_clusters_given_for_images_says_what_it_holds(
    make_result: Callable[..., Result], tmp_path: Path
) -> None:
    source = open_source(as_files(tmp_path))
    export_images(result_of(source, make_result), tmp_path / "out", "parquet")
    with pytest.raises(SourceError, match=r"no column of images \(bytes\); its columns: path \(string\), cluster"):
        open_source(tmp_path / "out/clusters.parquet")


def test_what_we_read_of_a_tar_is_what_a_reader_of_webdataset_sees(tmp_path: Path) -> None:
    """`datasets` reads such tars too, by the keys and endings of their members."""
    members = []
    for i, ending in enumerate(("png", "jpg", "webp", "tiff", "bmp")):
        content = encoded(i, {"jpg": "JPEG"}.get(ending, ending.upper()))
        members += [(f"é{i}.{ending}", content), (f"é{i}.json", json.dumps({"class": i}).encode())]
    path = write_tar(tmp_path / "shard.tar", members)
    theirs: dict[str, list[Any]] = {}
    for i, ending in enumerate(("png", "jpg", "webp", "tiff", "bmp")):  # it wants one ending in a whole set
        one = write_tar(tmp_path / f"{ending}.tar", members[2 * i : 2 * i + 2])
        (row,) = datasets.load_dataset("webdataset", data_files=str(one), split="train")
        theirs[f"shard.tar/{row['__key__']}.{ending}"] = np.asarray(row[ending].convert("RGB")).tolist()
    assert seen(open_source(path)) == theirs


# The paper's data sets, as torchvision reads them


def both(kind: Any, root: Path, **asked: list[Any]) -> np.ndarray[Any, Any]:
    """The images of torchvision's reader for each choice of split."""
    (name, values), *_ = asked.items()
    return np.concatenate([np.asarray(kind(root, **{name: value}).data) for value in values])


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10", "MNIST", "FashionMNIST"])
def test_torchvision_reads_what_we_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(torchvision.datasets, name)
    if hasattr(kind, "_check_integrity"):  # a stand-in has other checksums
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    if name == "STL10":
        write_stl(tmp_path)
        (tmp_path / "stl10_binary/class_names.txt").write_text("bird\n")
        source = open_source(f"stl10:{tmp_path}")
        assert isinstance(source, Array)
        assert source.extra is not None
        wanted = both(kind, tmp_path, split=["train", "test", "unlabeled"]).transpose(0, 2, 3, 1)
        found = np.concatenate([source.array, source.extra.array])
    elif name.startswith("CIFAR"):
        (write_cifar10 if name == "CIFAR10" else write_cifar100)(tmp_path)
        monkeypatch.setattr(kind, "_load_meta", lambda self: None)
        source = open_source(f"{'cifar10' if name == 'CIFAR10' else 'cifar100-20'}:{tmp_path}")
        assert isinstance(source, Array)
        wanted, found = both(kind, tmp_path, train=[True, False]), source.array
    else:
        write_mnist(tmp_path / name / "raw", packed=False)
        source = open_source(f"{'mnist' if name == 'MNIST' else 'fashion-mnist'}:{tmp_path}")
        assert isinstance(source, Array)
        wanted, found = both(kind, tmp_path, train=[True, False]), source.array
    np.testing.assert_array_equal(found, wanted)


def test_an_imagefolder_of_torchvision_s_is_a_source_and_its_folders_are_labels(
    make_result: Callable[..., Result], tmp_path: Path
) -> None:
    """What is exported as folders, opened by torchvision, and its classes written as the labels of a table."""
    source = open_source(as_array(tmp_path))
    export_images(result_of(source, make_result), tmp_path / "out", "folders", source=source)
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "out"))
    again = open_source(tmp_path / "out")
    ours = seen(again)
    assert len(theirs) == len(ours) == N
    with (tmp_path / "out/files.csv").open(newline="") as file:
        clusters = {row["file"]: int(row["cluster"]) for row in csv.DictReader(file)}
    for path, label in theirs.samples:
        name = Path(path).relative_to(tmp_path / "out").as_posix()
        with Image.open(path) as image:
            assert np.asarray(image.convert("RGB")).tolist() == ours[name]
        assert clusters[name] == label
