"""The benchmarks' scripts: what they measure is measured elsewhere, here is that they measure it rightly."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import accuracy
import end_to_end
import gpu_cifar
import larger_than_memory
import localisation
import neighbors
import numpy as np
import predict
import pytest
import reviewer
import scan
import self_label
import startup
import torch
from _datasets import load, long_tail
from PIL import Image

from spiceclust import course
from spiceclust.config import make_request
from spiceclust.errors import ConfigError
from spiceclust.manifest import Row
from spiceclust.result import Result
from spiceclust.training import snapshots
from spiceclust.training.checkpoint import Artefact
from synthetic import shapes
from test_pipeline import TINY

NINTHS = [100, 77, 60, 46, 36, 28, 22, 17, 13, 10]  # 100 * 10^(-c / 9)


def write_archive(file: Path, pictures: list[tuple[str, int]]) -> None:
    """Grey 4 x 4 pictures at the given names."""
    with tarfile.open(file, "w:xz") as archive:
        for name, grey in pictures:
            content = io.BytesIO()
            Image.new("L", (4, 4), grey).save(content, format="PNG")
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))


def test_a_long_tail_falls_tenfold_from_the_first_class_to_the_last() -> None:
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    kept = long_tail(classes)
    assert np.bincount(classes[kept]).tolist() == NINTHS
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(kept, long_tail(classes))
    assert set(kept) != set(long_tail(classes, seed=1))


def test_a_class_too_small_for_its_share_lowers_all_others() -> None:
    classes = np.repeat(np.arange(3), [100, 100, 5])  # 5 is a tenth of 50
    assert np.bincount(classes[long_tail(classes)]).tolist() == [50, 16, 5]


def test_digits_tail_is_a_part_of_the_digits(tmp_path: Path) -> None:
    images, classes = load("digits_tail", tmp_path)
    counts = np.bincount(classes)
    assert (counts[0], counts[9], len(images)) == (178, 18, 729)
    known = {image.tobytes(): name for image, name in zip(*load("digits", tmp_path), strict=True)}
    assert [known[image.tobytes()] for image in images] == classes.tolist()


def test_parts_of_a_set_are_read_as_one_with_the_same_classes(tmp_path: Path) -> None:
    write_archive(tmp_path / "pets_train.tar.xz", [("train/cat/0.png", 10), ("train/dog/0.png", 20)])
    with pytest.raises(FileNotFoundError, match="nor pets_train and pets_test"):
        load("pets", tmp_path)
    write_archive(tmp_path / "pets_test.tar.xz", [("test/dog/0.png", 30), ("test/ox/0.png", 40)])
    images, classes = load("pets", tmp_path)
    assert images.shape == (4, 4, 4, 3)
    assert (images[:, 0, 0, 0].tolist(), classes.tolist()) == ([10, 20, 30, 40], [0, 1, 1, 2])
    (tmp_path / "pets_coarse.json").write_text('{"cat": "carnivore", "dog": "carnivore", "ox": "cattle"}')
    assert load("pets_20", tmp_path)[1].tolist() == [0, 0, 0, 1]


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small set and a tiny config."""
    images, classes = shapes(10)
    twice = np.concatenate([images, images[:3]])  # three duplicates
    np.savez(tmp_path / "shapes.npz", images=twice, labels=np.concatenate([classes, classes[:3]]))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    monkeypatch.setattr(accuracy, "SPECTRAL_LIMIT", 0)  # its warnings on 30 images are none of ours
    return tmp_path


def run_accuracy(folder: Path, *words: str) -> dict[str, Any]:
    paths = {"--data": ".", "--config": "tiny.json", "--runs": "runs", "--out": "results"}
    given = [word for name, path in paths.items() for word in (name, str(folder / path))]
    accuracy.main([*given, "--sets", "shapes", "--commit", "c0ffee", "--name", "test", *words])
    read: dict[str, Any] = json.loads((folder / "results/test.json").read_text())
    return read


def test_accuracy_measures_every_stage_and_methods_share_the_first_two(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = []
    plain = course.pretrain.run

    def counted(*arguments: Any) -> Artefact:
        pretrained.append(1)
        return plain(*arguments)

    monkeypatch.setattr("spiceclust.course.pretrain.run", counted)
    both = run_accuracy(benchmark, "--seeds", "2")["sets"]["shapes"]
    assert len(both) == len(pretrained) == 2  # once for each seed, not for each method
    for rows in both:
        assert list(rows) == [
            *("k-means on pixels", "k-means on embeddings"),
            *("SPICE, kept head", "SPICE, oracle head", "SPICE, whole"),
            *("SCAN, kept head", "SCAN, oracle head", "SCAN, whole"),
        ]
        assert [row["n"] for row in rows.values()] == [30, 30, 30, 30, 33, 30, 30, 33]
        assert rows["SPICE, kept head"]["acc"] <= rows["SPICE, oracle head"]["acc"]
        seconds = [rows[name]["seconds"] for name in ("k-means on embeddings", "SPICE, kept head", "SPICE, whole")]
        assert 0 < rows["k-means on pixels"]["seconds"] < min(seconds)
        assert seconds[1] < seconds[2]
        assert 0 < rows["SCAN, whole"]["reliable_share"] <= 1
    text = (benchmark / "results/test.md").read_text()
    accuracies = [rows["SPICE, whole"]["acc"] for rows in both]
    assert f"| shapes | SPICE, whole | {np.mean(accuracies):.3f} ± {np.std(accuracies):.3f} | " in text
    assert f" | {min(accuracies):.3f} | 33 | 2 | " in text
    assert "commit c0ffee" in text
    assert str(benchmark) not in text  # the figures are published
    assert capsys.readouterr().out.count("# Accuracy") == 2  # after each seed

    monkeypatch.setattr("spiceclust.course.pretrain.run", None)
    again = run_accuracy(benchmark, "--methods", "spice", "--no-baselines")["sets"]["shapes"]
    assert again == [{name: row for name, row in both[0].items() if name.startswith("SPICE")}]


def test_what_is_done_stays_when_a_later_seed_fails(benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(**values: Any) -> Any:
        if values["seed"] == 1:
            raise ConfigError("stop")
        return make_request(**values)

    monkeypatch.setattr(accuracy, "make_request", request)
    with pytest.raises(ConfigError, match="stop"):
        run_accuracy(benchmark, "--seeds", "2", "--methods", "spice", "--no-baselines")
    kept = json.loads((benchmark / "results/test.json").read_text())["sets"]["shapes"]
    assert [list(rows) for rows in kept] == [["SPICE, kept head", "SPICE, oracle head", "SPICE, whole"]]


def test_prototypes_alone_have_rows_of_their_own(benchmark: Path) -> None:
    (rows,) = run_accuracy(benchmark, "--methods", "spice-paper", "--no-baselines")["sets"]["shapes"]
    names = ["kept head", "oracle head", "whole"]
    assert list(rows) == [f"SPICE, prototypes alone, {name}" for name in names]
    assert rows["SPICE, prototypes alone, whole"]["clustering"] == "prototypes"


def test_neighbours_are_measured_in_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    neighbors.main(["--scale", "0.02", "--out", str(tmp_path)])
    cases = json.loads((tmp_path / "neighbors.json").read_text())["cases"]
    assert [(case["method"], case["n"], case["dim"]) for case in cases] == [
        (method, n // 50, dim) for method, n, dim in neighbors.CASES
    ]
    assert all(case["seconds"] > 0 and case["recall"] >= 0.98 for case in cases)
    assert [case["differ"] for case in cases if case["method"] == "whole"] == [0, 0]
    assert not list(tmp_path.glob("*.pt"))


def test_heat_is_measured_against_boxes_and_between_two_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        digits = np.zeros((50, 28, 28), np.uint8)
        digits[:, 4:24, 4:24] = 120 + 30 * (np.arange(50)[:, None, None] % 5)
        names = np.array(localisation.CLASSES)[np.arange(50) % 5]
        np.savez(tmp_path / f"mnist_{part}.npz", images=digits, labels=names)
    few = ["--images", "64", "--tested", "8", "--epochs", "1"]
    localisation.main(["--data", str(tmp_path), "--out", str(tmp_path), *few])
    found = json.loads((tmp_path / "localisation.json").read_text())
    assert found["ways"]["the middle of the image"]["own"] == pytest.approx(0.5)
    assert len(found["ways"]) == 5
    assert all(0 <= value <= 1 for row in found["ways"].values() for value in row.values())


def test_peak_memory_is_that_of_what_was_entered() -> None:
    with neighbors.Peak() as peak:
        block = np.ones(30_000_000)  # 240 MB
        del block
    assert 200e6 < peak.most < 400e6
    with neighbors.Peak() as peak:
        np.ones(1_000_000)
    assert peak.most < 100e6


def test_labels_of_which_two_ways_say_otherwise_are_counted(tmp_path: Path) -> None:
    torch.save(torch.tensor([True, True, False]), tmp_path / "tiles-3.pt")
    torch.save(torch.tensor([True, False, True]), tmp_path / "whole-3.pt")
    assert neighbors.differences(tmp_path, "whole", 3) == 2
    assert neighbors.differences(tmp_path, "tiles", 3) is None
    assert neighbors.differences(tmp_path, "approximate", 3) is None


def test_start_up_is_measured_for_every_command(tmp_path: Path) -> None:
    startup.main(["--repeats", "1", "--out", str(tmp_path)])
    seconds = json.loads((tmp_path / "startup.json").read_text())["seconds"]
    assert seconds.keys() == startup.COMMANDS.keys()
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


def test_a_whole_run_is_timed_by_stage_beside_another_checkout_s(benchmark: Path) -> None:
    root = str(Path(__file__).parents[1])
    given = ["--data", str(benchmark), "--config", str(benchmark / "tiny.json"), "--out", str(benchmark / "results")]
    end_to_end.main([*given, "--set", "shapes", "--repeats", "1", "--against", root])
    runs = json.loads((benchmark / "results/end_to_end-shapes.json").read_text())["runs"]
    assert list(runs) == ["before", "now"]
    (now,), (before,) = runs["now"], runs["before"]
    stages = [name for name in now if name[0].isdigit()]
    assert len(stages) == 5
    assert sum(now[name] for name in (*stages, end_to_end.REST)) == pytest.approx(now["whole"])
    assert 0 < now[end_to_end.KEEPING] < now["whole"]
    assert now["accuracy"] == before["accuracy"] > 0.3
    text = (benchmark / "results/end_to_end-shapes.md").read_text()
    assert "| | before | now | ratio |" in text
    assert " % aten::" in text
    assert str(benchmark) not in text


def test_prediction_is_measured_beside_a_plain_loop(tmp_path: Path) -> None:
    large = np.ones(250_000_000)  # 2 GB here are no memory of the processes that are measured
    predict.main(["--images", "300", "600", "--rates", "300", "--repeats", "1", "--out", str(tmp_path)])
    del large
    found = json.loads((tmp_path / "predict.json").read_text())
    assert list(found["peaks"]) == ["300", "600"]
    assert all(1e8 < peak < 1.5e9 for peak in found["peaks"].values())
    ((pair,),) = found["runs"].values()
    mine, theirs = (pair[side]["seconds"] for side in ("ours", "plain"))
    assert min(mine, theirs) > 0
    # more than this process: what decodes takes processor time too
    assert all(0.05 < pair[side]["cpu"] < 60 for side in ("ours", "plain"))
    row = f"| 300 | {300 / mine:,.0f} | {300 / theirs:,.0f} | {theirs / mine:.2f} |"
    assert row in (tmp_path / "predict.md").read_text()


def test_the_command_and_the_plain_loop_say_the_same(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "images"
    predict.write_images(folder, 300)
    images = predict.open_source(folder)
    predict.pipeline.fit(images, predict.make_request(n_clusters=3, overrides=predict.BRIEF), run)
    tables = {}
    for name, side in predict.SIDES.items():
        side(run, folder, tmp_path / f"{name}.csv")
        with (tmp_path / f"{name}.csv").open() as file:
            tables[name] = [(Path(row["path"]).name, row["cluster"]) for row in csv.DictReader(file)]
    assert len(tables["ours"]) == 300
    assert tables["ours"] == tables["plain"]


def test_pixels_in_memory_and_on_disk_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: str, *words: Any, group: Path | None = None) -> dict[str, float]:
        return getattr(larger_than_memory, function)(*words)

    monkeypatch.setattr(larger_than_memory, "in_process", here)
    few = ["--images", "200", "--seconds", "0", "--repeats", "1", "--read", "20", "40"]
    larger_than_memory.main([*few, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "larger_than_memory.json").read_text())
    assert list(found["rates"]) == larger_than_memory.WAYS
    for way, runs in found["rates"].items():
        assert len(runs) == 1 or way.startswith("limited")  # where no control group can be made
        assert all(run["rate"] > 0 for run in runs)
    assert {way: run["n"] for way, run in found["read"].items()} == {
        f"{way} {n}": n for n in (20, 40) for way in ("memory", "file")
    }
    assert "| memory |" in (tmp_path / "larger_than_memory.md").read_text()


def test_finding_and_reading_are_measured_for_every_kind_of_source(tmp_path: Path) -> None:
    scan.main(["--images", "300", "--out", str(tmp_path)])
    kinds = json.loads((tmp_path / "scan.json").read_text())["kinds"]
    assert kinds.keys() == scan.KINDS.keys()
    for case in kinds.values():
        assert case["n"] == 300
        assert all(seconds > 0 for seconds in case["seconds"].values())
    assert (tmp_path / "scan.md").read_text().count("| 0.") >= 3


def test_self_labelling_is_measured_on_cached_and_fresh_views(benchmark: Path) -> None:
    paths = {"--data": ".", "--config": "tiny.json", "--runs": "runs", "--out": "results"}
    given = [word for name, path in paths.items() for word in (name, str(benchmark / path))]
    self_label.main([*given, "--sets", "shapes", "--seeds", "1", "--passes", "2"])
    (found,) = json.loads((benchmark / "results/self_label-shapes.json").read_text())["seeds"]
    assert list(found) == [str(views) for views in self_label.VIEWS]
    # 30 images go in batches that are filled up to 256: the passes of V views are (1 + 2 V) batches.
    for views in self_label.VIEWS[:-1]:
        assert found[str(views)]["passes"] == pytest.approx((1 + 2 * views) * 256 / 30)
    rounds = TINY["self_label"]["rounds"]
    assert found["0"]["passes"] == pytest.approx((1 + rounds * (1 + 2 * 1)) * 256 / 30)
    assert "| fresh | 1 | " in (benchmark / "results/self_label-shapes.md").read_text()
    self_label.main([*given, "--sets", "shapes", "--seeds", "1", "--views", "2"])
    text = (benchmark / "results/self_label-shapes.md").read_text()
    assert "| 2 cached | 1 | " in text
    assert "fresh |" not in text


def test_one_gpu_s_calls_end_by_the_clock_and_go_on_until_all_is_done(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", -1.0)
    monkeypatch.setattr(snapshots, "SHARE", float("inf"))
    small = {**TINY, "backbone": "resnet_small", "pretrain": {"batch_size": 10, "epochs": 4}}
    (benchmark / "small.json").write_text(json.dumps(small))
    paths = {"--data": ".", "--config": "small.json", "--runs": "runs", "--out": "results"}
    given = [word for name, path in paths.items() for word in (name, str(benchmark / path))]
    words = [*given, "--set", "shapes", "--batch-size", "10", "--device", "cpu", "--version", "c0ffee", "--looks", "4"]
    with monkeypatch.context() as patched:
        patched.setattr(gpu_cifar.Watch, "over", lambda watch: watch.name.startswith("1 ") and watch.done == 6)
        gpu_cifar.main([*words, "--minutes", "0"])
    printed = capsys.readouterr().out
    assert "minutes are over" in printed
    assert not (benchmark / "results").exists()
    gpu_cifar.main([*words, "--minutes", "9"])  # long enough for all that is left
    printed = capsys.readouterr().out
    assert "1 pretrain (MoCo v2): taken up again" in printed
    assert printed.endswith("done\n")
    found = json.loads((benchmark / "results/gpu-shapes.json").read_text())
    assert 0 <= found["rows"]["SPICE, whole"]["acc"] <= 1
    assert all(0 <= accuracy <= 1 for accuracy in found["knn"].values())
    assert "4" in found["knn"]  # the end of stage 1


def test_the_votes_of_the_nearest_tell_the_class() -> None:
    classes = torch.arange(3).repeat(40)
    embeddings = torch.eye(3)[classes]
    assert gpu_cifar.knn_accuracy(embeddings, classes) == 1
    wrong = classes.clone()
    wrong[-20:] = (wrong[-20:] + 1) % 3  # all that is asked for
    assert gpu_cifar.knn_accuracy(embeddings, wrong) == 0


def test_a_reviewer_s_answers_are_measured_and_drawn(benchmark: Path) -> None:
    paths = {"--data": ".", "--runs": "runs", "--out": "results", "--picture": "curve.svg"}
    given = [word for name, path in paths.items() for word in (name, str(benchmark / path))]
    words = [
        *given,
        "--sets",
        f"shapes@{benchmark / 'tiny.json'}",
        "--orders",
        "1",
        "--answers",
        "0",
        "10",
        "--batch",
        "10",
        "--commit",
        "c0ffee",
    ]
    reviewer.main(words)
    (found,) = json.loads((benchmark / "results/reviewer.json").read_text())["sets"]["shapes (tiny)"]
    for way in reviewer.CHOICES:
        (told,) = found[way]
        assert [at["answers"] for at in told] == [-1, 0, 10]
        assert told[-1]["alone"] >= 10 / 33 - 1e-9  # at least what was answered is right
        low, high = told[-1]["purity"][1:3]
        assert 0 <= low <= high <= 1
    text = (benchmark / "results/reviewer.md").read_text()
    assert f"{found['ours'][0][-1]['acc']:.3f}" in text
    assert str(benchmark) not in text
    picture = ElementTree.fromstring((benchmark / "curve.svg").read_text())
    assert len(picture.findall("{*}polyline")) == 4  # two curves, and two lines of the legend


def test_a_reviewer_does_what_a_person_would() -> None:
    classes = np.array([7] * 30 + [8] * 30 + [9] * 30)
    labels = np.array([0] * 15 + [1] * 15 + [2] * 60)  # 7 is in two clusters; 8 and 9 share one, in which 9 shows
    rows = [Row(str(i), "ok", "", 8, 8, str(i)) for i in range(90)]
    typicality = np.linspace(0, 1, 90, dtype=np.float32)
    probabilities = np.eye(3, dtype=np.float32)[labels]
    result = Result(rows, labels, probabilities, np.ones(90, dtype=bool), typicality, run={}, metrics={})
    person = reviewer.Reviewer(result, classes)
    assert person.accuracy(person.state.labels) == pytest.approx(45 / 90)
    person.look()
    assert person.cluster_of == {7: 0, 9: 2}
    assert person.state.merged == {1: 0}
    person.answer([0, 40, 70])
    assert person.state.n_clusters == 4
    assert person.state.labels[[0, 40, 70]].tolist() == [0, 3, 2]
    assert np.flatnonzero(person.state.fixed).tolist() == [0, 40, 70]
    assert person.true_purity() == pytest.approx((30 + 1 + 30) / 90)
