import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spiceclust.data.images import load
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import ConfigError, RunFolderError, SourceError
from spiceclust.manifest import Row
from spiceclust.outputs import export as module
from spiceclust.outputs.export import export_images
from spiceclust.outputs.layouts import LAYOUTS
from spiceclust.progress import Silent
from spiceclust.result import Result

MakeResult = Callable[..., Result]
WITH_IMAGES = [kind for kind, layout in LAYOUTS.items() if layout.images]
# path -> cluster; the names are what people and other systems make of names
PICTURES = {
    "a/IMG_1.jpg": 0,
    "b/IMG_1.JPG": 1,
    "b/img_1.png": 0,
    "test.png": 2,
    "été/e\u0301te\u0301.png": 2,
    "a+b&c %20#1": 1,
    "train/val.webp": 0,
    "-rf *.png": 2,
    "CON.png": 1,
    "a\nb.png": 0,
}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The pictures, a copy of the first, and a text."""
    root = tmp_path / "photos"
    for i, name in enumerate(PICTURES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(Path(name).suffix.lower(), "PNG")
        picture(i).save(root / name, format=kind)
        os.utime(root / name, (1_000_000_000 + i, 1_000_000_000 + i))
    (root / "z").mkdir()
    shutil.copy(root / "a/IMG_1.jpg", root / "z/copy.jpg")
    (root / "notes.txt").write_text("no picture")
    return root


def result_of(source: Source, make_result: MakeResult, clusters: dict[str, int], n_clusters: int = 4) -> Result:
    """A run of the source, as fit would leave it; the second picture is not reliable."""
    rows = load(source, 8, None, Silent()).rows
    labels = [-1 if row.status == "quarantined" else clusters[row.path] for row in rows]
    reliable = [row.status != "quarantined" and i != 1 for i, row in enumerate(rows)]
    made = make_result(labels, n_clusters, reliable=reliable)
    return dataclasses.replace(
        made, rows=rows, run={"source_root": source.root, "source": source.description, "images": "f", "seed": 0}
    )


@pytest.fixture
def result(photos: Path, make_result: MakeResult) -> Result:
    return result_of(open_source(photos), make_result, {**PICTURES, "z/copy.jpg": 0})


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path: Path | str) -> list[Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).tolist()


# What each form holds, as its readers see it


def test_folders_open_in_torchvision(result: Result, photos: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    done = export_images(result, tmp_path / "out", "folders")
    seen = ImageFolder(str(tmp_path / "out"))
    assert seen.classes == ["cluster_00", "cluster_01", "cluster_02"]  # a folder without images would be refused
    names = {line["file"]: line for line in table(tmp_path / "out/files.csv")}
    assert len(seen) == done.images == len(names) == 11
    for path, label in seen.samples:
        line = names[Path(path).relative_to(tmp_path / "out").as_posix()]
        assert label == int(line["cluster"])
        assert Path(path).read_bytes() == (photos / line["path"]).read_bytes()
        assert os.stat(path).st_mtime == os.stat(photos / line["path"]).st_mtime
    assert {line["path"]: int(line["cluster"]) for line in names.values()} == {**PICTURES, "z/copy.jpg": 0}
    assert [line["status"] for line in names.values() if line["path"] == "z/copy.jpg"] == ["duplicate"]


def test_every_row_is_exported_or_left_out_with_a_reason(result: Result, tmp_path: Path) -> None:
    done = export_images(result, tmp_path / "out", "folders", only="reliable")
    left = table(tmp_path / "out/left_out.csv")
    kept = {line["path"] for line in table(tmp_path / "out/files.csv")}
    assert {line["path"]: line["reason"] for line in left} == {
        "notes.txt": "not an image in a supported format",
        result.rows[1].path: "not reliable",
    }
    assert [(line["path"], line["reason"]) for line in left] == done.left_out
    assert kept | {line["path"] for line in left} == {row.path for row in result.rows}
    assert len(kept) + len(left) == len(result.rows)


def test_a_duplicate_that_is_not_reliable_is_left_out_as_such(result: Result, tmp_path: Path) -> None:
    doubtful = dataclasses.replace(result, reliable=np.array([row.path == "test.png" for row in result.rows]))
    done = export_images(doubtful, tmp_path / "out", "csv", only="reliable")
    assert done.images == 1
    assert dict(done.left_out)["z/copy.jpg"] == dict(done.left_out)["a/IMG_1.jpg"] == "not reliable"


def test_names_stay_as_near_to_the_originals_as_can_be(result: Result, tmp_path: Path) -> None:
    export_images(result, tmp_path / "out", "folders")
    names = {line["path"]: line["file"] for line in table(tmp_path / "out/files.csv")}
    assert names == {
        "-rf *.png": "cluster_02/_-rf _.png",
        "CON.png": "cluster_01/_CON.png",
        "a\nb.png": "cluster_00/a_b.png",
        "a/IMG_1.jpg": "cluster_00/IMG_1.jpg",
        "b/IMG_1.JPG": "cluster_01/IMG_1-2.JPG",
        "b/img_1.png": "cluster_00/img_1-3.png",
        "a+b&c %20#1": "cluster_01/a+b&c %20#1.png",
        "test.png": "cluster_02/test.png",
        "train/val.webp": "cluster_00/val.webp",
        "z/copy.jpg": "cluster_00/copy.jpg",
        "été/e\u0301te\u0301.png": "cluster_02/été.png",
    }


def test_imagefolder_opens_in_datasets(result: Result, photos: Path, tmp_path: Path) -> None:
    import datasets

    export_images(result, tmp_path / "out", "imagefolder")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]  # though there are pictures named test and val
    rows = {row["path"]: row for row in loaded["train"]}
    assert rows.keys() == {*PICTURES, "z/copy.jpg"}
    wanted = {row.path: (sure, safe) for row, sure, safe in zip(
        result.rows, result.confidence.tolist(), result.reliable.tolist(), strict=True
    )}  # fmt: skip
    for path, row in rows.items():
        assert row["cluster"] == PICTURES.get(path, 0)
        assert row["cluster_name"] == f"cluster_{row['cluster']:02}"
        assert row["reliable"] is wanted[path][1]
        assert row["confidence"] == pytest.approx(wanted[path][0], abs=1e-6)
        assert row["status"] == ("duplicate" if path == "z/copy.jpg" else "ok")
        assert np.asarray(row["image"].convert("RGB")).tolist() == pixels(photos / path)


def test_csv_is_a_line_for_each_image(result: Result, tmp_path: Path) -> None:
    done = export_images(result, tmp_path / "out", "csv")
    lines = table(tmp_path / "out/clusters.csv")
    assert list(lines[0]) == ["path", "cluster", "confidence", "reliable", "status", "cluster_name"]
    assert {line["path"]: int(line["cluster"]) for line in lines} == {**PICTURES, "z/copy.jpg": 0}
    assert sum(line["reliable"] == "false" for line in lines) == 1
    assert done.left_out == [("notes.txt", "not an image in a supported format")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clusters.csv", "export.json", "left_out.csv"]


def test_parquet_keeps_the_types(result: Result, tmp_path: Path) -> None:
    export_images(result, tmp_path / "out", "parquet")
    read = pq.read_table(tmp_path / "out/clusters.parquet")
    there = result.labels >= 0
    assert read.schema.field("cluster").type == pa.int32()
    assert read.schema.field("reliable").type == pa.bool_()
    assert read.schema.field("probabilities").type == pa.list_(pa.float32(), 4)
    assert read["path"].to_pylist() == [row.path for row in result.rows if row.status != "quarantined"]
    assert read["sha256"].to_pylist() == [row.sha256 for row in result.rows if row.status != "quarantined"]
    assert read["width"].to_pylist() == [12] * 11
    np.testing.assert_array_equal(read["cluster"].to_numpy(), result.labels[there])
    np.testing.assert_array_equal(read["reliable"].to_numpy(), result.reliable[there])
    np.testing.assert_array_equal(np.stack(read["probabilities"].to_numpy()), result.probabilities[there])


def test_coco_has_what_its_readers_look_up(result: Result, photos: Path, tmp_path: Path) -> None:
    """Reads it in the way of pycocotools: indices over ids, then an annotation, its image and its category."""
    export_images(result, tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    assert len(images) == len(content["annotations"]) == len({each["id"] for each in content["annotations"]}) == 11
    assert 0 not in {*images, *categories}
    assert [category["name"] for category in content["categories"]] == [f"cluster_{i:02}" for i in range(4)]
    for annotation in content["annotations"]:
        image, category = images[annotation["image_id"]], categories[annotation["category_id"]]
        file = tmp_path / "out/images" / image["file_name"]
        with Image.open(file) as opened:
            assert opened.size == (image["width"], image["height"]) == (12, 9)
        assert annotation["bbox"] == [0, 0, 12, 9]
        assert annotation["area"] == 108
        assert annotation["iscrowd"] == 0
        assert category["name"] == f"cluster_{PICTURES.get(image['path'], 0):02}"
        assert file.read_bytes() == (photos / image["path"]).read_bytes()


def test_label_studio_tasks_fit_their_set_up(result: Result, photos: Path, tmp_path: Path) -> None:
    export_images(result, tmp_path / "out", "labelstudio")
    view = ElementTree.parse(tmp_path / "out/config.xml").getroot()
    image, choices = view.find("Image"), view.find("Choices")
    assert image is not None
    assert choices is not None
    assert choices.get("toName") == image.get("name")
    offered = [choice.get("value") for choice in choices]
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    assert len(tasks) == 11
    for task in tasks:
        address = urlparse(task["data"][str(image.get("value")).removeprefix("$")])
        assert address.path == "/data/local-files/"
        file = tmp_path / "out" / parse_qs(address.query)["d"][0]
        assert file.read_bytes() == (photos / task["data"]["path"]).read_bytes()
        (prediction,) = task["predictions"]
        (region,) = prediction["result"]
        assert (region["from_name"], region["to_name"]) == (choices.get("name"), image.get("name"))
        assert region["type"] == "choices"
        assert region["value"]["choices"] == [offered[PICTURES.get(task["data"]["path"], 0)]]
        assert 0 < prediction["score"] <= 1


def test_fiftyone_finds_each_image_by_its_stem(result: Result, photos: Path, tmp_path: Path) -> None:
    export_images(result, tmp_path / "out", "fiftyone")
    content = json.loads((tmp_path / "out/labels.json").read_text())
    by_stem = {os.path.splitext(file.name)[0]: file for file in (tmp_path / "out/data").iterdir()}
    assert by_stem.keys() == content["labels"].keys()
    assert len(by_stem) == 11
    for stem, label in content["labels"].items():
        path = label["attributes"]["path"]
        assert by_stem[stem].read_bytes() == (photos / path).read_bytes()
        assert content["classes"][label["label"]] == f"cluster_{PICTURES.get(path, 0):02}"
        assert label["attributes"]["reliable"] is (path != result.rows[1].path)
        assert 0 < label["confidence"] <= 1


# Where the images come from


@pytest.mark.parametrize("link", ["hard", "symlink"])
def test_links_take_no_space(link: str, result: Result, photos: Path, tmp_path: Path) -> None:
    (photos / "linked.png").symlink_to(photos / "test.png")
    export_images(result, tmp_path / "out", "folders", link=link)
    for line in table(tmp_path / "out/files.csv"):
        file, original = tmp_path / "out" / line["file"], photos / line["path"]
        assert file.is_symlink() == (link == "symlink")
        assert os.path.samefile(file, original)


def test_a_hard_link_is_never_one_to_a_link(photos: Path, make_result: MakeResult, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "x.png").symlink_to(photos / "test.png")
    picture(99).save(folder / "y.png")
    result = result_of(open_source(folder), make_result, {"x.png": 0, "y.png": 1})
    export_images(result, tmp_path / "out", "folders", link="hard")
    file = tmp_path / "out/cluster_00/x.png"
    assert not file.is_symlink()
    assert os.path.samefile(file, photos / "test.png")


@pytest.mark.parametrize("kind", ["grey", "colour", "float"])
def test_pictures_of_an_array_are_written_as_png(kind: str, make_result: MakeResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array: np.ndarray[Any, Any] = rng.integers(0, 256, (6, 9, 7) if kind != "colour" else (6, 9, 7, 3), dtype=np.uint8)
    if kind == "float":
        array = array / np.float32(255)
    source = open_source(array)
    result = result_of(source, make_result, {str(i): i % 3 for i in range(6)}, 3)
    export_images(result, tmp_path / "out", "folders", source=source)
    again = open_source(tmp_path / "out/cluster_01")
    assert again.paths == ["1.png", "4.png"]
    for place, i in enumerate((1, 4)):
        np.testing.assert_array_equal(again.picture(place), source.picture(i))
    with Image.open(tmp_path / "out/cluster_01/1.png") as image:
        assert image.mode == ("RGB" if kind == "colour" else "L")


def test_an_array_must_be_given_again_and_be_the_same(make_result: MakeResult, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 9, 7), dtype=np.uint8)
    source = open_source(array)
    result = result_of(source, make_result, {str(i): i % 3 for i in range(6)}, 3)
    with pytest.raises(SourceError, match=r"array, 6 pictures of 7 x 9: give the same images again, with --source"):
        export_images(result, tmp_path / "out", "folders")
    with pytest.raises(ConfigError, match="files of their own"):
        export_images(result, tmp_path / "out", "folders", source=source, link="hard")
    other = array.copy()
    other[2] ^= 1
    done = export_images(result, tmp_path / "out", "coco", source=open_source(other))
    assert done.left_out == [("2", "changed since the fit")]
    with pytest.raises(SourceError, match="none of the 6 images can be exported: changed since the fit"):
        export_images(result, tmp_path / "none", "coco", source=open_source(255 - array))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("link", ["copy", "hard", "symlink"])
def test_a_file_that_changed_or_is_gone_is_not_exported(
    link: str, result: Result, photos: Path, tmp_path: Path
) -> None:
    picture(77).save(photos / "test.png")
    (photos / "CON.png").unlink()
    (photos / "a\nb.png").unlink()
    os.mkfifo(photos / "a\nb.png")  # must not block
    done = export_images(result, tmp_path / "out", "folders", link=link)
    reasons = dict(done.left_out)
    assert reasons["test.png"] == "changed since the fit"
    assert reasons["CON.png"] == "not in the source any more"
    assert reasons["a\nb.png"] == "a named pipe, not a file"
    assert done.images == 8
    assert not list((tmp_path / "out").rglob("test*"))


def test_a_folder_that_moved_is_given_with_source(result: Result, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="give them again, with --source"):
        export_images(result, tmp_path / "out", "folders")
    (tmp_path / "other").mkdir()
    picture(3).save(tmp_path / "other/x.png")
    with pytest.raises(SourceError, match="which should hold '-rf"):
        export_images(result, tmp_path / "out", "folders", source=open_source(tmp_path / "other"))
    assert not (tmp_path / "out").exists()
    assert export_images(result, tmp_path / "out", "folders", source=open_source(tmp_path / "moved")).images == 11


# Nothing outside, nothing twice


@pytest.mark.parametrize("kind", WITH_IMAGES)
def test_hostile_paths_stay_inside(kind: str, make_result: MakeResult, tmp_path: Path) -> None:
    """Paths of a list may be anything; a manifest that says them may be anybody's."""
    place = tmp_path / "place"
    place.mkdir()
    paths = ["../../evil.png", str(tmp_path / "absolute.png"), "..", "a/../../b.png", "x\0y", "C:\\Windows\\c.png", "~"]
    contents = []
    for i in range(len(paths)):
        picture(i).save(tmp_path / "p.png")
        contents.append((tmp_path / "p.png").read_bytes())
        (place / f"{i}.png").write_bytes(contents[-1])
    (tmp_path / "p.png").unlink()
    opened = open_source([place / f"{i}.png" for i in range(len(paths))])
    source = dataclasses.replace(opened, paths=paths)
    rows = [
        Row(path, "ok", "", 12, 9, hashlib.sha256(content).hexdigest())
        for path, content in zip(paths, contents, strict=True)
    ]
    result = dataclasses.replace(make_result([0] * len(paths), 2), rows=rows)
    before = files_below(tmp_path)
    done = export_images(result, tmp_path / "out", kind, source=source)
    assert done.images == len(paths)
    after = files_below(tmp_path)
    assert {name for name in after if not name.startswith("out/")} == set(before)
    found = [content for name, content in after.items() if name.endswith(".png")]
    assert sorted(found) == sorted([*contents, *contents])


def test_nothing_is_overwritten(result: Result, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    before = files_below(tmp_path)
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        export_images(result, tmp_path / "out", "folders")
    assert files_below(tmp_path) == before


class Stop:
    """Progress that is interrupted after some images."""

    def __init__(self, after: int) -> None:
        self.after, self.done = after, 0

    def say(self, text: str) -> None: ...

    def task(self, name: str, total: int) -> "Stop":
        return self

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *error: object) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        if self.done == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("link", ["copy", "hard", "symlink"])
@pytest.mark.parametrize("kind", WITH_IMAGES)
def test_an_interrupted_export_goes_on_to_the_same_files(
    kind: str, link: str, result: Result, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_images(result, tmp_path / "whole", kind, link=link)
    with pytest.raises(KeyboardInterrupt):
        export_images(result, tmp_path / "out", kind, link=link, progress=Stop(after=4))
    assert not (tmp_path / "out").exists()
    copied = []
    put = module.put
    monkeypatch.setattr(module, "put", lambda *arguments: (copied.append(arguments), put(*arguments))[1])
    export_images(result, tmp_path / "out", kind, link=link)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")
    assert len(copied) == (11 if link == "symlink" else 7)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "whole", "out"}


def test_a_file_that_was_cut_off_is_made_again(result: Result, photos: Path, tmp_path: Path) -> None:
    """As a killed process leaves it: half of a file, under its working name."""
    with pytest.raises(KeyboardInterrupt):
        export_images(result, tmp_path / "out", "folders", progress=Stop(after=1))
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / ".unfinished-out/cluster_00/.unfinished-image").symlink_to(outside)
    (tmp_path / ".unfinished-out/cluster_01/.unfinished-image").write_bytes(b"half")
    (tmp_path / ".unfinished-out/.unfinished-x1y2").write_bytes(b"half a table")
    export_images(result, tmp_path / "out", "folders")
    assert not [name for name in files_below(tmp_path / "out") if ".unfinished" in name]
    assert outside.read_text() == "mine"


def test_a_link_planted_in_an_unfinished_export_is_not_followed(result: Result, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export_images(result, tmp_path / "out", "folders", progress=Stop(after=1))
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(tmp_path / ".unfinished-out/cluster_02")
    (tmp_path / ".unfinished-out/cluster_02").symlink_to(outside)
    with pytest.raises(RunFolderError, match="cluster_02 is a link"):
        export_images(result, tmp_path / "out", "folders")
    assert not any(outside.iterdir())


def test_what_cannot_be_asked_for_is_refused(result: Result, make_result: MakeResult, tmp_path: Path) -> None:
    def refused(kind: str = "folders", **choices: str) -> str:
        with pytest.raises(ConfigError) as caught:
            export_images(result, tmp_path / "out", kind, **choices)  # type: ignore[arg-type]
        return str(caught.value)

    assert "unknown kind of export 'zip': choose one of folders, csv, parquet" in refused("zip")
    assert "unknown choice of images 'best': choose one of all, reliable" in refused(only="best")
    assert "unknown link 'soft': choose one of copy, hard, symlink" in refused(link="soft")
    doubtful = make_result([0, 1], 2, reliable=[False, False])
    with pytest.raises(SourceError, match="none of the 2 images is reliable"):
        export_images(doubtful, tmp_path / "out", "csv", only="reliable")
    assert not (tmp_path / "out").exists()
