"""The same images from every kind of source: through all stages, and to the same clusters."""

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from pictures import write_tar
from spiceclust import course, pipeline, prediction
from spiceclust.cli import app
from spiceclust.data.benchmarks import IMAGENET_10, IMAGENET_DOGS
from spiceclust.data.sources import open_source
from spiceclust.training.checkpoint import Artefact
from stand_ins import draw, write_cifar10, write_cifar100, write_imagenet, write_stl, write_tiny_imagenet
from synthetic import shapes
from test_label_firewall import comparable
from test_pipeline import TINY, contents, request, rows_of

IMAGES, CLASSES = shapes(10)
NAMES = [f"{i:02}.png" for i in range(len(IMAGES))]


def png(folder: Path, i: int) -> bytes:
    path = folder / "one.png"
    Image.fromarray(IMAGES[i]).save(path)
    return path.read_bytes()


def as_folder(root: Path, contents: list[bytes], labels: list[int]) -> str:
    (root / "photos").mkdir()
    for name, content in zip(NAMES, contents, strict=True):
        (root / "photos" / name).write_bytes(content)
    return "photos"


def as_tars(root: Path, contents: list[bytes], labels: list[int]) -> str:
    for shard in range(3):
        rows = range(10 * shard, 10 * shard + 10)
        beside = [[(NAMES[i], contents[i]), (f"{i:02}.cls", str(labels[i]).encode())] for i in rows]
        write_tar(root / f"shard-{shard}.tar", [member for pair in beside for member in pair])
    return "shard-*.tar"


def as_parquet(root: Path, contents: list[bytes], labels: list[int]) -> str:
    pq.write_table(pa.table({"image": contents, "label": labels}), root / "photos.parquet", row_group_size=7)
    return "photos.parquet"


def as_hugging_face(root: Path, contents: list[bytes], labels: list[int]) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pairs = [{"bytes": content, "path": None} for content in contents]
    datasets.disable_progress_bars()
    found = datasets.Dataset.from_dict({"image": pairs, "label": labels}, features=features)
    datasets.DatasetDict({"train": found}).save_to_disk(root / "saved")
    return "hf:saved:train"


KINDS = {"folder": as_folder, "tars": as_tars, "Parquet": as_parquet, "Hugging Face": as_hugging_face}


def fit(root: Path, write: Callable[[Path, list[bytes], list[int]], str], labels: list[int]) -> Path:
    root.mkdir(exist_ok=True)
    given = write(root, [png(root, i) for i in range(len(IMAGES))], labels)
    with chdir(root):
        pipeline.fit(open_source(given), request(), Path("run"))
    return root / "run"


def but_where_it_lies(run: Path) -> dict[str, Any]:
    files = comparable(run)
    del files["run.json"]["source_root"]
    return files


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("folder"), as_folder, CLASSES.tolist())


@pytest.mark.parametrize("kind", ["tars", "Parquet", "Hugging Face"])
def test_every_source_gives_the_clusters_of_a_folder_and_its_labels_change_no_byte(
    kind: str, from_folder: Path, tmp_path: Path
) -> None:
    run = fit(tmp_path / "one", KINDS[kind], CLASSES.tolist())
    stages = [name for name in contents(run) if name.endswith("tensors.safetensors")]
    assert len(stages) == 5
    for name in [*stages, "model/model.safetensors", "result.safetensors"]:
        assert (run / name).read_bytes() == (from_folder / name).read_bytes(), name
    shuffled = fit(tmp_path / "other", KINDS[kind], np.random.default_rng(0).permutation(CLASSES).tolist())
    assert but_where_it_lies(shuffled) == but_where_it_lies(run)


def test_the_commands_take_a_pattern_of_tars(tmp_path: Path) -> None:
    given = as_tars(tmp_path, [png(tmp_path, i) for i in range(len(IMAGES))], CLASSES.tolist())
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))

    def call(*words: str) -> str:
        found = CliRunner().invoke(app, words, catch_exceptions=False)
        assert found.exit_code == 0
        return found.output

    with chdir(tmp_path):
        call("fit", given, "--clusters", "3", "--out", "run", "--config", "tiny.json")
        call("predict", "run", given, "--out", "again.csv")
        paths = [row["path"] for row in rows_of(Path("run/clusters.csv"))]
        lines = [f"{path},{label}" for path, label in zip(paths, CLASSES.tolist(), strict=True)]
        Path("truth.csv").write_text("\n".join(["path,label", *lines]))
        scores = json.loads(call("evaluate", "run", "--labels", "truth.csv"))
        again = [row["path"] for row in rows_of(Path("again.csv"))]
    assert (scores["n"], again) == (30, paths)
    assert (tmp_path / "run" / "contact_sheet.png").exists()


def test_labels_in_cifar_s_pickles_change_no_byte_and_evaluate_reads_them(tmp_path: Path) -> None:
    runs = []
    for name, shift in {"one": 0, "other": 3}.items():
        write_cifar10(tmp_path / name, labels=shift)
        with chdir(tmp_path / name):
            pipeline.fit(open_source("cifar10:."), request(), Path("run"))
        runs.append(tmp_path / name / "run")
    assert but_where_it_lies(runs[0]) == but_where_it_lies(runs[1])
    found = CliRunner().invoke(app, ["evaluate", str(runs[0]), "--labels", f"cifar10:{tmp_path}/one"])
    assert json.loads(found.output)["n"] == 30


PAPER = {
    "cifar10": (write_cifar10, "wrn28_2"),
    "cifar100-20": (write_cifar100, "wrn28_8"),
    "stl10": (write_stl, "wrn37_2"),
    "imagenet10": (lambda root: write_imagenet(root, IMAGENET_10), "resnet34"),
    "imagenet-dogs15": (lambda root: write_imagenet(root, IMAGENET_DOGS, 1), "resnet34"),
    "tiny-imagenet": (write_tiny_imagenet, "resnet34"),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_preset_paper_runs_on_each_data_set_of_the_paper(name: str, tmp_path: Path) -> None:
    write, backbone = PAPER[name]
    write(tmp_path)
    source = open_source(f"{name}:{tmp_path}")
    few = {**TINY, "semi": {"steps": 2, "batch_size": 4, "unlabelled_ratio": 2}}
    asked = request(few, n_clusters=2, preset="paper", image_size=8)  # the files have their true sizes
    result = pipeline.fit(source, asked, tmp_path / "run")
    config = result.run["config"]
    assert (config["backbone"], config["preset"], config["method"]) == (backbone, "paper", "spice-paper")
    assert len(result.rows) == len(source)
    assert (result.labels >= 0).all()


# STL-10's unlabelled images


def fit_stl(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images stage 1 was given; nothing if it was not run."""
    seen: list[int] = []
    plain = course.pretrain.run

    def watch(images: Any, *rest: Any) -> Artefact:
        seen.append(len(images))
        return plain(images, *rest)

    with monkeypatch.context() as patched, chdir(root):
        patched.setattr("spiceclust.course.pretrain.run", watch)
        pipeline.fit(open_source("stl10:."), request(n_clusters=2, overrides=TINY), Path("run"))
    return seen


def test_unlabelled_images_join_stage_1_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl(tmp_path)
    assert fit_stl(tmp_path, monkeypatch) == [9]  # 5 and 4 more
    run = tmp_path / "run"
    assert len(rows_of(run / "clusters.csv")) == 5
    record = json.loads((run / "run.json").read_text())
    assert record["only_in_stage_1"] == 4
    assert fit_stl(tmp_path, monkeypatch) == []  # it resumes
    other = draw(99, 4, 27_648).tobytes()
    (tmp_path / "stl10_binary" / "unlabeled_X.bin").write_bytes(other)
    assert fit_stl(tmp_path, monkeypatch) == [9]  # what stage 1 made of others does not stand
    assert len(prediction.predict(run, open_source(f"stl10:{tmp_path}")).rows) == 5
