"""The benchmarks' scripts: what they measure is measured elsewhere, here is that they measure it rightly."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import pytest
from _datasets import load, long_tail
from PIL import Image

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.errors import ConfigError
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
    plain = pipeline.pretrain.run

    def counted(*arguments: Any) -> Artefact:
        pretrained.append(1)
        return plain(*arguments)

    monkeypatch.setattr("spiceclust.pipeline.pretrain.run", counted)
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

    monkeypatch.setattr("spiceclust.pipeline.pretrain.run", None)
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
