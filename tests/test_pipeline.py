import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spiceclust import course, pipeline, prediction
from spiceclust.config import Request, make_request
from spiceclust.data.images import load
from spiceclust.data.sources import open_source
from spiceclust.embeddings import EMBEDDINGS, read_embeddings
from spiceclust.errors import ConfigError, RunFolderError, SourceError, TrainingError
from spiceclust.files import read_sealed, write_sealed
from spiceclust.functional.metrics import score_clusters
from spiceclust.manifest import read_manifest
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.run_folder import write_record
from spiceclust.shipped import MODEL_FORMAT
from spiceclust.training import snapshots
from spiceclust.training.checkpoint import Artefact, load_tensors
from spiceclust.training.distributed import World
from spiceclust.training.pixels import HostPixels
from spiceclust.training.snapshots import Snapshots
from synthetic import shapes

TINY = {
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 2},
    "self_label": {"rounds": 12},
    "graph_label": {"steps": 12},
    "semi": {"steps": 4},
    "scan": {"steps": 12},
    "confident": {"steps": 3},
}
SHORT = {"pretrain": {"epochs": 80}, "self_label": {"rounds": 60}}
STAGES = ["1-pretrain", "2-embed", "3-self", "4-select", "5-semi"]


def request(overrides: dict[str, Any] = TINY, **asked: Any) -> Request:
    return make_request(**{"n_clusters": 3, "overrides": overrides, **asked})


def tensors_of(stage: Path) -> dict[str, torch.Tensor]:
    return load_tensors(stage / "tensors.safetensors", torch.device("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 readable images in nested folders, one copy, one broken file, one text."""
    root = tmp_path_factory.mktemp("source") / "photos"
    images, _ = shapes(10)
    for i, image in enumerate(images):
        folder = root / ("été" if i % 2 else "a/b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    shutil.copy(root / "a/b/00.png", root / "z copy.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    pipeline.fit(open_source(photos), request(), folder)
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_ends_in_clusters_or_in_quarantine(photos: Path, run: Path) -> None:
    found = {path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.is_file()}
    clustered = {row["path"] for row in rows_of(run / "clusters.csv")}
    quarantined = {row["path"]: row["reason"] for row in rows_of(run / "quarantine.csv")}
    assert quarantined.keys() == {"broken.jpg", "notes.txt"}
    assert all(quarantined.values())
    assert clustered == found - quarantined.keys()
    assert {row.path for row in read_manifest(run)} == found


def test_a_duplicate_shares_its_original_s_cluster(run: Path) -> None:
    (copy,) = [row for row in read_manifest(run) if row.status == "duplicate"]
    by_path = {row["path"]: row for row in rows_of(run / "clusters.csv")}
    assert {copy.path, copy.reason.removeprefix("same content as ")} == {"a/b/00.png", "z copy.png"}
    first, second = by_path["a/b/00.png"], by_path["z copy.png"]
    assert (first["cluster"], first["confidence"]) == (second["cluster"], second["confidence"])


def test_every_image_has_a_place_in_the_plane(run: Path) -> None:
    result = Result.load(run)
    assert result.positions is not None
    assert (result.positions.shape, result.positions.dtype) == ((len(result.rows), 2), np.float32)
    by_path = dict(zip((row.path for row in result.rows), result.positions.tolist(), strict=True))
    assert by_path["broken.jpg"] == by_path["notes.txt"] == [0, 0]
    assert by_path["a/b/00.png"] == by_path["z copy.png"] != [0, 0]
    assert np.isfinite(result.positions).all()
    assert np.ptp(result.positions, axis=0).min() > 0.01
    assert result.run["positions"] == "PCA"


def test_the_run_folder_is_complete_and_says_what_was_done(run: Path) -> None:
    expected = {
        "run.json",
        "images.parquet",
        "clusters.csv",
        "quarantine.csv",
        "metrics.json",
        EMBEDDINGS,
        "model",
        *STAGES,
    }
    assert expected <= {path.name for path in run.iterdir()}
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "done"
    assert record["config"]["n_clusters"] == 3
    assert record["config"]["semi"]["steps"] == 4
    assert list(record["seconds"]) == STAGES
    assert "uprightness" in record["views"]
    metrics = json.loads((run / "metrics.json").read_text())
    went_on = metrics["3-self"].keys()
    assert len(went_on) in (1, 2)
    assert went_on <= {"prototypes", "cuts", "neighbors"}
    assert metrics["4-select"].keys() == metrics["5-semi"].keys() == went_on
    for name in went_on:
        assert len(metrics["3-self"][name]["consistency"]) == 10
        scores, shipped = metrics["guard"][name]["scores"], metrics["guard"][name]["shipped"]
        margin = 0.0 if name == "prototypes" else 0.1
        assert shipped == ("3-self" if scores["3-self"] > scores["5-semi"] + margin else "5-semi")
        doubt = 1 - metrics["5-semi"][name]["used"]
        views = -math.log((doubt if shipped == "5-semi" else 1) + 0.01)
        heads = -math.log(1 - metrics["guard"][name]["agreement"] + 0.01)
        expected = metrics["guard"][name]["by_stage_1"] + views + heads
        assert metrics["guard"]["together"][name] == pytest.approx(expected)
    together = metrics["guard"]["together"]
    assert record["clustering"] == max(together, key=together.get)
    assert record["shipped"] == metrics["guard"][record["clustering"]]["shipped"]
    assert not list(run.rglob("*.pkl")) + list(run.rglob("*.pt"))


def test_a_training_that_breaks_keeps_what_is_finished_and_the_run_goes_on_elsewhere(
    photos: Path, run: Path, tmp_path: Path
) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for stage in pipeline.SHARED:
        shutil.copytree(run / stage, broken / stage)
    steep = request({**TINY, "semi": {"steps": 4, "learning_rate": 1e30}})
    for _ in range(2):  # the same command again says the same
        with pytest.raises(TrainingError, match=r"at step \d of 4; semi\.learning_rate=1e\+30 is the likely cause"):
            pipeline.fit(open_source(photos), steep, broken)
        assert [stage for stage in STAGES if (broken / stage).exists()] == STAGES[:4]
    for stage in STAGES[:4]:
        assert all(tensor.isfinite().all() for tensor in tensors_of(broken / stage).values())
    with pytest.raises(RunFolderError, match=r"semi\.learning_rate 1e\+30 there, 0\.01 now.*another folder"):
        pipeline.fit(open_source(photos), request(), broken)
    for stage in pipeline.SHARED:  # what the message says can be done
        shutil.copytree(broken / stage, whole / stage)
    pipeline.fit(open_source(photos), request(), whole)
    assert (whole / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()


def test_images_that_stay_in_host_memory_change_no_byte(
    photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiceclust.course.place", HostPixels)
    pipeline.fit(open_source(photos), request(), tmp_path / "run")
    for stage in STAGES:
        assert (tmp_path / "run" / stage / "tensors.safetensors").read_bytes() == (
            run / stage / "tensors.safetensors"
        ).read_bytes()
    assert (tmp_path / "run" / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()


def test_pixels_on_disk_change_no_byte_and_are_gone_at_the_end(photos: Path, run: Path, tmp_path: Path) -> None:
    said = Heard()
    pipeline.fit(open_source(photos), request(), tmp_path / "run", pixels="disk", progress=said)
    assert any(line.startswith("pixels: up to 0.0 GB, of ") for line in said.lines)
    before, now = contents(run), contents(tmp_path / "run")
    assert now.keys() == before.keys()
    different = {name for name in now if now[name] != before[name]}
    assert {Path(name).name for name in different} <= {"run.json", "done.json"}  # which hold seconds
    assert not (tmp_path / "run" / pipeline.KEPT).exists()


def test_a_run_that_is_taken_up_again_has_its_pixels(
    photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*given: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    for place, keep in (
        ("pipeline.choose_domain", "disk"),
        ("stages.embed.run", "auto"),
    ):  # before it is a run, and in it
        with monkeypatch.context() as patched:
            patched.setattr(f"spiceclust.{place}", dies)
            with pytest.raises(KeyboardInterrupt):
                pipeline.fit(open_source(photos), request(), folder, pixels=keep)
        assert (folder / pipeline.KEPT).is_dir()
        assert (folder / "run.json").exists() == (keep == "auto")
    said = Heard()
    pipeline.fit(open_source(photos), request(), folder, progress=said)  # without a word about the disk
    assert f"reading images: all of 33 are in {folder / pipeline.KEPT}" in said.lines
    assert "reading images" not in said.tasks
    assert (folder / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()
    assert not (folder / pipeline.KEPT).exists()


def test_processes_that_follow_map_the_leader_s_file_where_all_find_it_and_are_sent_pixels_otherwise(
    photos: Path, tmp_path: Path
) -> None:
    images = load(open_source(photos), 8, None, Silent(), tmp_path / "pixels")
    own = {pipeline.PIXELS: torch.from_numpy(images.pixels)}
    sent = {pipeline.PIXELS: torch.zeros(1)}

    class Here(World):
        """One of two processes, whose other one misses the file or does not."""

        other_misses = False

        def any(self, *flags: bool) -> tuple[bool, ...]:
            return (flags[0] or self.other_misses,)

        def led(self, make: Any, device: torch.device) -> Artefact:
            return make() if self.leads else Artefact(sent)

    leader, follower = Here(0, 2), Here(1, 2)
    files = {pipeline.PIXELS: (str(tmp_path / "pixels"), images.fingerprint)}
    assert pipeline._handed_on(leader, own, files) is own
    (found,) = pipeline._handed_on(follower, {}, files).values()
    assert torch.equal(found, own[pipeline.PIXELS])
    elsewhere = {pipeline.PIXELS: (str(tmp_path / "nowhere"), images.fingerprint)}
    others = {pipeline.PIXELS: (str(tmp_path / "pixels"), "of others")}
    for given in ({}, elsewhere, others):
        assert pipeline._handed_on(follower, {}, given) is sent
    Here.other_misses = True
    assert pipeline._handed_on(follower, {}, files) is sent
    assert pipeline._handed_on(leader, own, files) is own


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def task(self, name: str, total: int) -> Any:
        if total:
            self.tasks.append(name)
        return super().task(name, total)


def test_networks_are_compiled_where_that_is_asked_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: modes.append(how["mode"]) or module)
    pipeline.fit(open_source(photos), request(), tmp_path / "run", compile=True)
    assert set(modes) == {"default", "reduce-overhead"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["compile"] is True
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        pipeline.fit(open_source(photos), request(), tmp_path / "other", compile=True)


def test_clusters_csv_says_what_the_result_says(run: Path) -> None:
    result = Result.load(run)
    table = rows_of(run / "clusters.csv")
    kept = result.labels >= 0
    assert [int(row["cluster"]) for row in table] == result.labels[kept].tolist()
    assert [row["reliable"] == "true" for row in table] == result.reliable[kept].tolist()
    assert result.reliable.any()
    np.testing.assert_array_equal(result.probabilities[kept].argmax(1), result.labels[kept])
    np.testing.assert_allclose(result.probabilities[kept].sum(1), 1, rtol=1e-5)
    assert (result.probabilities[~kept] == 0).all()


def test_predict_on_the_training_images_gives_their_clusters_exactly(photos: Path, run: Path) -> None:
    fitted, predicted = Result.load(run), prediction.predict(run, open_source(photos))
    np.testing.assert_array_equal(predicted.labels, fitted.labels)
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities)


def test_predict_on_some_images_gives_what_it_gives_on_all(photos: Path, run: Path) -> None:
    fitted = Result.load(run)
    place = {row.path: i for i, row in enumerate(fitted.rows)}
    some = sorted((photos / "été").iterdir())[3:8]
    predicted = prediction.predict(run, open_source(some))
    expected = [place[path.relative_to(photos).as_posix()] for path in some]
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities[expected])


def test_transform_is_unit_length_and_zero_where_nothing_could_be_read(photos: Path, run: Path) -> None:
    lengths = np.linalg.norm(prediction.transform(run, open_source(photos)), axis=1)
    np.testing.assert_allclose(lengths, Result.load(run).labels >= 0, atol=1e-5)


def test_a_run_keeps_what_transform_gives_of_its_images(photos: Path, run: Path) -> None:
    result = Result.load(run)
    there = [row.status == "ok" for row in result.rows]
    kept = read_embeddings(run, result.run)
    assert len(kept) == sum(there) == 30
    np.testing.assert_allclose(kept, prediction.transform(run, open_source(photos))[there], atol=1e-3)


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(photos: Path, run: Path, tmp_path: Path) -> None:
    pipeline.fit(open_source(photos), request(), tmp_path / "again")
    pipeline.fit(open_source(photos), request(seed=1), tmp_path / "other")
    for name in ("clusters.csv", "model/model.safetensors", "result.safetensors", "images.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name
    assert (tmp_path / "other" / "model/model.safetensors").read_bytes() != (
        run / "model/model.safetensors"
    ).read_bytes()


def test_global_random_state_neither_matters_nor_changes(photos: Path, run: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    pipeline.fit(open_source(photos), request(), tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (tmp_path / "run/clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()


def test_fit_again_skips_every_stage(photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    for stage in ("pretrain", "embed", "self_label", "graph_label", "semi"):
        monkeypatch.setattr(f"spiceclust.course.{stage}.run", None)
    pipeline.fit(open_source(photos), request(), run)
    assert contents(run) == before


def test_a_new_run_takes_over_the_stages_of_another_that_fit(photos: Path, run: Path, tmp_path: Path) -> None:
    asked = {"overrides": {**TINY, "self_label": {"rounds": 6}}}
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    pipeline.fit(open_source(photos), request(**asked), alone)
    for stage in pipeline.SHARED:
        shutil.copytree(run / stage, shared / stage)
    copied = contents(shared)
    pipeline.fit(open_source(photos), request(**asked), shared)
    after = contents(shared)
    assert all(after[name] == content for name, content in copied.items())
    for name in ("clusters.csv", "model/model.safetensors", "result.safetensors"):
        assert after[name] == (alone / name).read_bytes(), name


@pytest.mark.parametrize(
    ("asked", "stage"),
    [
        ({"n_clusters": 4}, "2-embed"),  # of 30 images in 4 clusters other numbers of neighbours are kept
        ({"seed": 1}, "1-pretrain"),
    ],
)
def test_stages_that_do_not_fit_are_another_run_s_and_stay(
    asked: dict[str, Any], stage: str, photos: Path, run: Path, tmp_path: Path
) -> None:
    for name in pipeline.SHARED:
        shutil.copytree(run / name, tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=rf"{stage} is of another run, .+: choose another folder"):
        pipeline.fit(open_source(photos), request(**asked), tmp_path)
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def scan_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "scan"
    pipeline.fit(open_source(photos), request(method="scan"), folder)
    return folder


def test_scan_goes_through_all_stages_and_predicts_its_clusters(photos: Path, scan_run: Path) -> None:
    fitted, predicted = Result.load(scan_run), prediction.predict(scan_run, open_source(photos))
    np.testing.assert_array_equal(predicted.labels, fitted.labels)
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities)
    assert len(rows_of(scan_run / "clusters.csv")) == 31
    assert fitted.run["request"]["method"] == fitted.run["config"]["method"] == "scan"
    facts = json.loads((scan_run / "3-self/facts.json").read_text())["neighbors"]
    assert facts["scores"][facts["kept"]] == min(facts["scores"])
    assert fitted.metrics["3-self"]["neighbors"]["kept"] == facts["kept"]
    assert (
        len(json.loads((scan_run / "5-semi/facts.json").read_text())["neighbors"]["loss"]) == TINY["confident"]["steps"]
    )


def test_the_published_schedule_keeps_no_views_and_clusters_all_the_same(
    photos: Path, run: Path, tmp_path: Path
) -> None:
    asked = request({**TINY, "embed": {"cached_views": 0}})
    for folder in (tmp_path / "one", tmp_path / "two"):
        pipeline.fit(open_source(photos), asked, folder)
    one, two, kept = (tensors_of(folder / "3-self") for folder in (tmp_path / "one", tmp_path / "two", run))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert tensors_of(tmp_path / "one/2-embed").keys() == {"plain", "neighbors"}
    assert len(rows_of(tmp_path / "one/clusters.csv")) == 31
    # What the heads learned from is not what the cached views would have taught.
    assert any(not torch.equal(tensor, kept[name]) for name, tensor in one.items() if name in kept)


class Cut(BaseException):
    """The power goes."""


LONGER = {
    **TINY,
    "pretrain": {"epochs": 6, "batch_size": 10, "neighbor_share": 0.5},  # 18 steps, neighbours from the 11th on
    "semi": {"steps": 6},
    "confident": {"steps": 6},
}


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    pipeline.fit(open_source(photos), request(LONGER), folder)
    pipeline.fit(open_source(photos), request(LONGER, method="scan"), folder.with_name("unbroken-scan"))
    return folder


@pytest.mark.parametrize(
    ("method", "training", "step"),
    [
        ("spice", "1 pretrain", 3),
        ("spice", "1 pretrain", 10),
        ("spice", "1 pretrain", 11),
        ("spice", "1 pretrain", 16),
        ("spice", "3 self-label (SPICE)", 5),
        ("spice", "3 self-label (graph)", 5),
        ("spice", "3 cluster (SCAN)", 5),
        ("spice", "5 semi", 3),
        ("scan", "5 confident", 3),
    ],
)
def test_a_run_that_is_cut_off_within_a_stage_ends_as_if_it_had_not_been(
    method: str, training: str, step: int, photos: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", -1.0)
    monkeypatch.setattr(snapshots, "SHARE", float("inf"))
    save, restore, taken_up = Snapshots.save, Snapshots.restore, []

    def cut(self: Snapshots, name: str, number: int, *given: Any) -> None:
        save(self, name, number, *given)
        if name.startswith(training) and number == step:
            raise Cut

    def watched(self: Snapshots, name: str, parts: Any) -> Any:
        found = restore(self, name, parts)
        taken_up.append((name, found[0]))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Snapshots, "save", cut)
        with pytest.raises(Cut):
            pipeline.fit(open_source(photos), request(LONGER, method=method), tmp_path)
    monkeypatch.setattr(Snapshots, "restore", watched)
    pipeline.fit(open_source(photos), request(LONGER, method=method), tmp_path)
    assert next(number for name, number in taken_up if name.startswith(training)) == step
    assert not (tmp_path / "snapshots").exists()
    expected = unbroken if method == "spice" else unbroken.with_name("unbroken-scan")
    for name in ("clusters.csv", "model/model.safetensors", *(f"{stage}/tensors.safetensors" for stage in STAGES)):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_stage_of_an_earlier_layout_is_made_again(photos: Path, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(course, "LAYOUTS", {"3-self": 1})
        pipeline.fit(open_source(photos), request(), folder)
    before = (folder / "3-self/done.json").read_text()
    pipeline.fit(open_source(photos), request(), folder)
    assert (folder / "3-self/done.json").read_text() != before
    assert (folder / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()


def test_two_clusterings_go_through_stage_3_and_resume(
    photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiceclust.training.head_choice.BEHIND", math.inf)
    for stage in pipeline.SHARED:
        shutil.copytree(run / stage, tmp_path / "two" / stage)
    result = pipeline.fit(open_source(photos), request(), tmp_path / "two")
    metrics = result.metrics
    went_on = list(metrics["3-self"])
    assert went_on[0] == "prototypes"
    assert len(went_on) == len(metrics["guard"]["together"]) == 2
    assert list(json.loads((tmp_path / "two/5-semi/facts.json").read_text())) == went_on
    tensors = tensors_of(tmp_path / "two/5-semi")
    first, second = (tensors[f"{name}.head.0.weight"] for name in went_on)
    assert not torch.equal(first, second)
    before = contents(tmp_path / "two/model")
    shutil.rmtree(tmp_path / "two/5-semi")
    again = pipeline.fit(open_source(photos), request(), tmp_path / "two")
    np.testing.assert_array_equal(again.probabilities, result.probabilities)
    assert contents(tmp_path / "two/model") == before


def test_the_methods_share_stages_1_and_2_and_no_others(run: Path, scan_run: Path) -> None:
    keys = [[json.loads((folder / s / "done.json").read_text())["key"] for s in STAGES] for folder in (run, scan_run)]
    assert [one == other for one, other in zip(*keys, strict=True)] == [True, True, False, False, False]


def test_a_method_s_keys_do_not_depend_on_the_other_s_fields(photos: Path, run: Path, tmp_path: Path) -> None:
    other = {**TINY, "confident": {"steps": 5}}
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"]["confident"]["steps"] = 5
    write_record(
        tmp_path / "run", {name: value for name, value in record.items() if name not in ("format", "checksum")}
    )
    pipeline.fit(open_source(photos), request(other), tmp_path / "run")
    for stage in STAGES:
        assert (tmp_path / "run" / stage / "done.json").read_bytes() == (run / stage / "done.json").read_bytes(), stage


def test_fit_again_skips_every_stage_of_scan(photos: Path, scan_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(scan_run)
    for stage in ("pretrain", "embed", "scan", "confident"):
        monkeypatch.setattr(f"spiceclust.course.{stage}.run", None)
    pipeline.fit(open_source(photos), request(method="scan"), scan_run)
    assert contents(scan_run) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_stopped_before_a_stage_goes_on_there(
    stage: str, photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted run leaves: whole stages, one without its done.json, no results."""
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    (stopped / stage / "done.json").unlink()
    for later in STAGES[STAGES.index(stage) + 1 :]:
        shutil.rmtree(stopped / later)
    shutil.rmtree(stopped / "model")
    for name in ("clusters.csv", "metrics.json", "result.safetensors"):
        (stopped / name).unlink()
    if stage != "1-pretrain":
        monkeypatch.setattr("spiceclust.course.pretrain.run", None)
    pipeline.fit(open_source(photos), request(), stopped)
    assert (stopped / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()
    assert (stopped / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()


def test_a_damaged_stage_is_made_again(photos: Path, run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    file = damaged / "2-embed/tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    pipeline.fit(open_source(photos), request(), damaged)
    assert file.read_bytes() == (run / "2-embed/tensors.safetensors").read_bytes()
    assert (damaged / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_clusters": 4}, "n_clusters 3 there, 4 now"),
        ({"seed": 7}, "seed 0 there, 7 now"),
        ({"method": "scan"}, "method 'spice' there, 'scan' now"),
        ({"overrides": {**TINY, "semi": {"steps": 5}}}, "semi.steps 4 there, 5 now"),
        ({"image_size": 24}, "image_size 16 there, 24 now"),
        ({"views": "texture"}, "views '[a-z]+' there, 'texture' now"),
    ],
)
def test_another_config_is_refused_and_nothing_is_touched(
    asked: dict[str, Any], message: str, photos: Path, run: Path
) -> None:
    before = contents(run)
    with pytest.raises(RunFolderError, match=message):
        pipeline.fit(open_source(photos), request(**asked), run)
    assert contents(run) == before


def test_other_images_are_refused(photos: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    (other / "a/b/02.png").unlink()
    before = contents(run)
    with pytest.raises(RunFolderError, match="its images were others"):
        pipeline.fit(open_source(other), request(), run)
    assert contents(run) == before


def test_a_folder_with_other_files_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"holds other files \(thesis.txt"):
        pipeline.fit(open_source(photos), request(), tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_half_written_run_json_is_refused_and_kept(photos: Path, run: Path, tmp_path: Path) -> None:
    half = tmp_path / "run"
    shutil.copytree(run, half)
    (half / "run.json").write_bytes((run / "run.json").read_bytes()[:100])
    before = contents(half)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        pipeline.fit(open_source(photos), request(), half)
    assert contents(half) == before


@pytest.mark.parametrize("missing", ["model/config.json", "model/model.safetensors"])
def test_predict_with_half_a_model_is_refused(missing: str, photos: Path, run: Path, tmp_path: Path) -> None:
    half = tmp_path / "run"
    shutil.copytree(run, half)
    (half / missing).unlink()
    with pytest.raises(RunFolderError, match="again to finish it"):
        prediction.predict(half, open_source(photos))


def test_a_model_of_another_version_or_shape_is_refused(photos: Path, run: Path, tmp_path: Path) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    config = changed / "model/config.json"
    facts = read_sealed(config, MODEL_FORMAT)
    for version, message in (
        (99, "format 99, this version reads 3: update"),
        (1, "no checksum.*fit into a new folder"),
        (MODEL_FORMAT, "damaged"),
    ):
        config.write_text(json.dumps({**facts, "format": version}))
        with pytest.raises(RunFolderError, match=message):
            prediction.predict(changed, open_source(photos))
    write_sealed(config, {**facts, "n_clusters": 5}, MODEL_FORMAT)
    with pytest.raises(RunFolderError, match="is damaged"):
        prediction.predict(changed, open_source(photos))
    del facts["weights"]
    config.write_text(json.dumps({**facts, "format": 2}))  # of the time before there were checksums
    prediction.predict(changed, open_source(photos))


def test_weights_that_are_not_those_of_the_config_are_refused(photos: Path, run: Path, tmp_path: Path) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    file = changed / "model/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # within a weight: as readable as before
    file.write_bytes(content)
    for use in (prediction.predict, prediction.transform):
        with pytest.raises(RunFolderError, match=r"model\.safetensors is damaged"):
            use(changed, open_source(photos))


def test_too_few_images_leave_no_folder_behind(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"30 distinct readable images are too few for 16 clusters: at least 32"):
        pipeline.fit(open_source(photos), request(n_clusters=16, overrides={}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_below_a_file_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="choose another folder"):
        pipeline.fit(open_source(photos), request(), tmp_path / "file" / "run")


def test_an_unknown_device_is_one_line(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose auto, cpu or cuda") as caught:
        pipeline.fit(open_source(photos), request(), tmp_path / "run", device="quantum")
    assert "\n" not in str(caught.value)


def test_a_run_folder_inside_the_source_is_not_clustered(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    run = source / "run"
    for _ in range(2):
        pipeline.fit(open_source(source, exclude=[run]), request(), run)
        Image.new("RGB", (40, 40)).save(run / "contact_sheet.png")
    assert not any(row.path.startswith("run/") for row in read_manifest(run))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_fit_and_predict_on_a_gpu(photos: Path, tmp_path: Path) -> None:
    fitted = pipeline.fit(open_source(photos), request(), tmp_path / "run", device="cuda")
    predicted = prediction.predict(tmp_path / "run", open_source(photos), device="cuda")
    np.testing.assert_array_equal(predicted.labels, fitted.labels)


def test_what_follows_a_remade_stage_is_made_again(
    photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may remake stage 1 with other weights: no later stage may keep what it made from the old ones."""
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "1-pretrain/done.json").unlink()
    plain = course.pretrain.run

    def elsewhere(*arguments: Any) -> Artefact:
        made = plain(*arguments)
        return Artefact({name: tensor * 1.001 for name, tensor in made.tensors.items()}, made.facts)

    monkeypatch.setattr("spiceclust.course.pretrain.run", elsewhere)
    pipeline.fit(open_source(photos), request(), other)
    for stage in STAGES[1:]:
        keys = [json.loads((folder / stage / "done.json").read_text())["key"] for folder in (run, other)]
        assert keys[0] != keys[1], stage


def test_another_version_makes_every_stage_again(
    photos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    monkeypatch.setattr("spiceclust.course.VERSION", "9.9.9")
    pipeline.fit(open_source(photos), request(), other)
    for stage in STAGES:
        keys = [json.loads((folder / stage / "done.json").read_text())["key"] for folder in (run, other)]
        assert keys[0] != keys[1], stage


def test_a_stray_file_makes_no_other_run(photos: Path, run: Path, tmp_path: Path) -> None:
    source, again = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, source)
    shutil.copytree(run, again)
    (source / "Thumbs.db").write_bytes(b"")
    pipeline.fit(open_source(source), request(), again)
    assert (again / "clusters.csv").read_bytes() == (run / "clusters.csv").read_bytes()
    assert "Thumbs.db" in {row.path for row in read_manifest(again)}


def test_what_a_kill_during_the_first_write_leaves_is_no_obstacle(photos: Path, tmp_path: Path) -> None:
    (tmp_path / ".unfinished-abc").write_bytes(b"half")
    assert pipeline.fit(open_source(photos), request(), tmp_path).run["state"] == "done"


@pytest.mark.parametrize("content", ['{"config": 3}', '{"config": null}', "{}"])
def test_a_run_json_without_a_config_is_refused(content: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"is damaged .* fit into a new folder"):
        pipeline.fit(open_source(photos), request(), tmp_path)


def test_a_folder_name_that_no_file_system_takes_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="choose another folder"):
        pipeline.fit(open_source(photos), request(), tmp_path / ("x" * 300))


@pytest.mark.parametrize("preset", ["standard", "paper"])
def test_the_larger_presets_run(preset: str, photos: Path, tmp_path: Path) -> None:
    result = pipeline.fit(open_source(photos), request(preset=preset), tmp_path / "run")
    assert result.run["config"]["backbone"] == {"standard": "resnet18", "paper": "resnet34"}[preset]
    assert (np.bincount(result.labels[result.labels >= 0]).sum(), result.n_clusters) == (31, 3)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "wrn28_2"])
def test_every_backbone_goes_through_all_stages_and_predict(backbone: str, photos: Path, tmp_path: Path) -> None:
    fitted = pipeline.fit(open_source(photos), request({**TINY, "backbone": backbone}), tmp_path / "run")
    np.testing.assert_array_equal(prediction.predict(tmp_path / "run", open_source(photos)).labels, fitted.labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_easy_shapes_are_sorted(seed: int, tmp_path: Path) -> None:
    """The whole pipeline on images that any working one must sort; 0.33 is chance."""
    images, classes = shapes(40, seed)
    result = pipeline.fit(open_source(images), request(SHORT, seed=seed), tmp_path / "run")
    assert score_clusters(result.labels, classes).acc >= 0.97
    reliable = result.reliable
    assert reliable.mean() > 0.3
    assert score_clusters(result.labels[reliable], classes[reliable]).acc >= 0.99
