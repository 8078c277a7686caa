import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from spiceclust import doctor, pipeline
from spiceclust.cli import main
from spiceclust.data.sources import open_source
from spiceclust.doctor import examine, report
from spiceclust.errors import ConfigError, SourceError
from stand_ins import write_stl
from synthetic import shapes
from test_cli import command
from test_pipeline import TINY, contents, request


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 noisy pictures; of two of them another size or quality, of one a copy; two blank ones, a text, a cut file."""
    root = tmp_path_factory.mktemp("doctor") / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((60, 48), Image.Resampling.BICUBIC).save(root / f"{i:02}.png")
    with Image.open(root / "03.png") as picture:
        picture.save(root / "03 resaved.jpg", quality=80)
    with Image.open(root / "07.png") as picture:
        picture.resize((90, 72)).filter(ImageFilter.GaussianBlur(0.5)).save(root / "07 larger.png")
    (root / "copy.png").write_bytes((root / "00.png").read_bytes())
    for grey in (100, 200):
        Image.new("RGB", (40, 40), (grey,) * 3).save(root / f"blank {grey}.png")
    (root / "notes.txt").write_text("no picture")
    (root / "cut.png").write_bytes((root / "01.png").read_bytes()[:200])
    return root


def test_it_finds_what_is_there(photos: Path) -> None:
    before = contents(photos)
    found = examine(open_source(photos), request())
    status = [row.status for row in found.rows]
    assert (status.count("ok"), status.count("duplicate"), status.count("quarantined")) == (34, 1, 2)
    assert found.near == [("03 resaved.jpg", "03.png"), ("07 larger.png", "07.png")]
    assert found.compared == 34
    assert found.refusal == ""
    text = report(found, clusters_asked=True)
    assert "37: 34 distinct images, 1 duplicates, 2 unreadable" in text
    assert "1 x not an image in a supported format, such as 'notes.txt'" in text
    assert "2 pairs of images that are nearly the same" in text
    assert "shorter side 40 to 72 pixels, median 48; 3 different sizes" in text
    assert "clusters     3: 11 images in each" in text
    assert "natural" in text or "texture" in text
    assert contents(photos) == before


def test_of_many_images_a_sample_is_compared(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PAIRS", 34 * 10)
    found = examine(open_source(photos), request())
    assert found.compared == 10
    assert len(found.near) <= 2
    assert "of 10 images that were compared with all" in report(found, clusters_asked=True)


def test_where_memory_does_not_take_the_pixels_the_disk_is_told_and_the_plan_is_the_same(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    plain = doctor.load
    monkeypatch.setattr(doctor, "load", lambda source, size, *rest: sizes.append(size) or plain(source, size, *rest))
    found, expected = (examine(open_source(photos), request(), pixels=where) for where in ("disk", "memory"))
    assert sizes == [doctor.THUMB, 32]
    assert found.near == expected.near
    assert found.rows == expected.rows
    assert found.plan is not None
    assert expected.plan is not None
    assert found.plan.config == expected.plan.config
    assert found.plan.views == expected.plan.views
    assert (found.plan.disk, expected.plan.disk) == (34 * 3 * 32 * 32, 0)
    assert report(found, clusters_asked=True).splitlines()[-1] == (
        "disk         0.0 GB of pixels in the run folder until it is done"
    )


@pytest.mark.parametrize("method", ["spice", "spice-paper", "scan"])
def test_the_plan_is_what_fit_does(method: str, photos: Path, tmp_path: Path) -> None:
    asked = request(method=method)
    plan = examine(open_source(photos), asked).plan
    assert plan is not None
    pipeline.fit(open_source(photos), asked, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert plan.config.model_dump() == record["config"]
    assert plan.views == f"{record['config']['views']}, {record['views']}"
    assert plan.costs.steps["1-pretrain"] == json.loads((tmp_path / "run/1-pretrain/facts.json").read_text())["steps"]
    assert plan.costs.seconds.keys() == {"1-pretrain", "2-embed", "3-self", "5-semi"}
    assert all(seconds > 0 for seconds in plan.costs.seconds.values())
    assert 2**27 < plan.costs.memory < 2**34


@pytest.fixture(scope="module")
def encoders(photos: Path, timm: ModuleType) -> Path:
    """The folder of the photos, with weights of a model of timm, embeddings, and a finished run."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), photos.parent / "timm.safetensors")
    np.save(photos.parent / "embeddings.npy", np.random.default_rng(0).normal(size=(35, 6)).astype(np.float32))
    pipeline.fit(open_source(photos), request(), photos.parent / "run")
    return photos.parent


@pytest.mark.parametrize(
    ("encoder", "stages", "chosen"),
    [
        ("timm:test_resnet@timm.safetensors", {"2-embed", "3-self", "5-semi"}, "32 x 32 pixels, colour, timm:test_"),
        ("checkpoint:run", {"2-embed", "3-self", "5-semi"}, "32 x 32 pixels, colour, checkpoint:run, method spice"),
        ("embeddings:embeddings.npy", {"2-embed", "3-self"}, "embeddings:embeddings.npy, method spice"),
    ],
)
def test_the_plan_of_a_given_encoder_is_what_fit_does_with_it(
    encoder: str, stages: set[str], chosen: str, encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoders)
    few = {name: part for name, part in TINY.items() if name != "pretrain"}
    size = 32 if encoder.startswith("timm") else None
    asked = request(few, encoder=encoder, image_size=size)
    found = examine(open_source("photos"), asked)
    assert found.near == [("03 resaved.jpg", "03.png"), ("07 larger.png", "07.png")]
    assert found.plan is not None
    pipeline.fit(open_source("photos"), asked, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert found.plan.config.model_dump() == record["config"]
    assert found.plan.costs.steps.keys() == stages - {"2-embed"}
    assert found.plan.costs.seconds.keys() == stages
    assert (found.plan.costs.seconds["2-embed"] > 0) == (size is not None or "checkpoint" in encoder)
    lines = report(found, clusters_asked=True).splitlines()
    assert any(line.startswith(f"chosen       {chosen}") for line in lines)
    assert any(line.startswith("views        none: ") for line in lines) == encoder.startswith("embeddings")


@pytest.mark.parametrize(
    ("encoder", "reported"),
    [
        ("embeddings:short.npy", True),
        ("timm:test_resnet@other.safetensors", True),
        ("checkpoint:nowhere.pth", False),
    ],
)
def test_an_encoder_that_fit_would_refuse_is_refused(
    encoder: str,
    reported: bool,
    encoders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(encoders)
    np.save("short.npy", np.ones((7, 6), np.float32))
    save_file({"conv.weight": torch.ones(2)}, "other.safetensors")
    told = []
    for words in (["doctor"], ["fit", "--out", str(tmp_path / "new")]):
        monkeypatch.setattr(sys, "argv", ["spiceclust", *words, "photos", "--clusters", "3", "--encoder", encoder])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        told.append(capsys.readouterr())
    assert told[0].err.splitlines()[-1] == told[1].err.splitlines()[-1]
    assert ("34 distinct images" in told[0].out) == reported


def test_a_data_set_of_the_paper_is_planned_with_its_encoder_and_its_unlabelled_images(tmp_path: Path) -> None:
    write_stl(tmp_path)  # 5 images, and 4 that only stage 1 sees
    plan = examine(open_source(f"stl10:{tmp_path}"), request(n_clusters=2, preset="paper", image_size=8)).plan
    assert plan is not None
    assert plan.config.backbone == "wrn37_2"
    assert (plan.config.pretrain.epochs, plan.config.pretrain.batch_size) == (1, 5)
    assert plan.costs.steps["1-pretrain"] == 9 // 5


def test_what_fit_refuses_is_refused_after_the_report(tmp_path: Path, photos: Path) -> None:
    done = command(photos.parent, "doctor", "photos", "--clusters", "18")
    assert done.returncode == 2
    assert "34 distinct images" in done.stdout
    assert "time" not in done.stdout
    assert "error: 34 distinct readable images are too few for 18 clusters: at least 36" in done.stderr
    refused = command(photos.parent, "fit", "photos", "--clusters", "18", "--out", str(tmp_path / "run"))
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        examine(open_source(tmp_path / "empty"), request())
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        examine(open_source(photos), request(), device="nonsense")


def test_the_command_says_it_all_and_leaves_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "shapes.npy", shapes(20)[0])
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    before = contents(tmp_path)
    done = command(tmp_path, "doctor", "shapes.npy", "--config", "tiny.json")
    assert done.returncode == 0, done.stderr
    heads = [line.split("  ")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["files", "near copies", "sizes", "clusters", "views", "chosen", "steps", "time", "memory"]
    assert "10 (an example: give --clusters)" in done.stdout
    assert contents(tmp_path) == before
    assert not [name for name in os.listdir(tmp_path) if name not in {"shapes.npy", "tiny.json"}]
