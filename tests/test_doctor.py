import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from spiceclust import doctor, pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.doctor import examine, report
from spiceclust.errors import ConfigError, SourceError
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


@pytest.mark.parametrize("method", ["spice", "spice-paper", "scan"])
def test_the_plan_is_what_fit_does(method: str, photos: Path, tmp_path: Path) -> None:
    asked = request(method=method)
    plan = examine(open_source(photos), asked).plan
    assert plan is not None
    pipeline.fit(open_source(photos), asked, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert plan.config.model_dump() == record["config"]
    assert plan.views == record["views"]
    assert plan.steps["1-pretrain"] == json.loads((tmp_path / "run/1-pretrain/facts.json").read_text())["steps"]
    assert plan.seconds.keys() == {"1-pretrain", "2-embed", "3-self", "5-semi"}
    assert all(seconds > 0 for seconds in plan.seconds.values())
    assert 2**27 < plan.memory < 2**34


def test_steps_and_seconds_by_hand() -> None:
    """1,000 images, 10 clusters: 100 steps of 10 images, 40 forward passes each, that take a second."""
    from spiceclust.config import Facts, resolve

    overrides = {
        "pretrain": {"epochs": 1, "batch_size": 10, "neighbor_share": 0.5, "neighbor_start": 0.6},
        "embed": {"cached_views": 4},
        "self_label": {"meta_batch": 300, "batch_size": 100, "rounds": 5, "passes": 2},
        "graph_label": {"steps": 7},
        "scan": {"steps": 11},
        "semi": {"steps": 20, "batch_size": 5, "unlabelled_ratio": 3},
        "confident": {"steps": 30, "batch_size": 8},
    }
    facts = Facts(n_images=1000, native_size=16, channels=1, domain="natural")
    config = resolve(make_request(n_clusters=10, overrides=overrides), facts)
    steps = doctor._steps(config, 1000)
    assert steps == {"1-pretrain": 100, "3-self": 5 * 2 * 3 + 7 + 11, "5-semi": 40}
    seconds = doctor._seconds(config, 1000, steps, step=1.0, head_step=0.5)
    one = 1 / 40
    assert seconds["1-pretrain"] == pytest.approx(100 + one * 4 * 1000)
    assert seconds["2-embed"] == pytest.approx(one * 9 * 1000)
    assert seconds["3-self"] == pytest.approx(24)
    assert seconds["5-semi"] == pytest.approx(one * (40 * (15 + 3 * 20) + 6 * 1000))
    scan = resolve(make_request(n_clusters=10, method="scan", overrides=overrides), facts)
    steps = doctor._steps(scan, 1000)
    assert steps == {"1-pretrain": 100, "3-self": 11, "5-semi": 30}
    assert doctor._seconds(scan, 1000, steps, 1.0, 0.5)["5-semi"] == pytest.approx(one * (30 * 8 * 4 + 6 * 1000))


def test_the_stopwatch_leaves_out_the_first_step_and_ends_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])
    watch = doctor._Stopwatch()
    with watch.task("reading images", 10) as task:
        task.advance()
    assert watch.steps == 0
    with watch.task("1 pretrain (MoCo v2)", 200) as task:
        for seconds in (30, 0.25, 0.25, 0.25):
            now[0] += seconds
            task.advance()
        now[0] += 0.25
        with pytest.raises(doctor._EnoughError):
            task.advance()
    assert watch.steps == 4
    assert watch.per_step == pytest.approx(0.25)


def test_the_stopwatch_ends_with_stage_1(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = doctor._Stopwatch()
    with watch.task("1 pretrain (MoCo v2)", 3) as task:
        for _ in range(3):
            task.advance()
    with pytest.raises(doctor._EnoughError), watch.task("2 embed", 3):
        pass
    assert watch.steps == 2


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
