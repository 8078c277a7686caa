import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from spiceclust import pipeline, prediction
from spiceclust.cli import main
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError
from spiceclust.outputs.table import Table
from spiceclust.progress import Silent
from spiceclust.result import Result
from synthetic import shapes
from test_pipeline import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    images, _ = shapes(20)
    pipeline.fit(open_source(images), make_request(n_clusters=3, overrides=TINY), folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 images and two files that are none."""
    from PIL import Image

    (tmp_path / "new").mkdir()
    for i, image in enumerate(shapes(8, seed=1)[0][:23]):
        Image.fromarray(image).save(tmp_path / "new" / f"{i:02}.png")
    for name in ("05 bad.png", "zz.txt"):
        (tmp_path / "new" / name).write_text("no picture")
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["spiceclust", *map(str, words)])
    main()


def test_chunks_say_what_the_whole_says(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 7)
    source = open_source(folder / "new")
    model = prediction.open_model(run)
    chunks = list(prediction.stream(model, source, Silent()))
    assert [len(chunk.rows) for chunk in chunks] == [7, 7, 7, 4]
    whole = prediction.predict(run, source)
    assert [row.path for chunk in chunks for row in chunk.rows] == [row.path for row in whole.rows] == source.paths
    np.testing.assert_array_equal(np.concatenate([chunk.probabilities for chunk in chunks]), whole.probabilities)
    assert [row.status for row in whole.rows].count("quarantined") == (whole.labels == -1).sum() == 2
    (later,) = prediction.stream(model, source, Silent(), first=21)
    np.testing.assert_array_equal(later.embeddings, chunks[3].embeddings)


def test_novelty_tells_noise_from_images_like_those_of_the_training(run: Path) -> None:
    model = prediction.open_model(run)
    like, noise = shapes(20, seed=5)[0], np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
    found = [next(prediction.stream(model, open_source(images), Silent())).novelty for images in (like, noise)]
    assert np.median(found[0]) < 0.95
    assert np.median(found[1]) > np.median(found[0])
    assert all(((novelty >= 0) & (novelty <= 1)).all() for novelty in found)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_that_was_cut_off_is_taken_up_again(
    ending: str, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 7)
    call(monkeypatch, "predict", run, folder / "new", "--out", folder / f"whole.{ending}")
    assert "23 images in " in capsys.readouterr().out

    computed: list[int] = []
    plain = prediction.stream

    def cut(*arguments: Any, first: int) -> Iterator[prediction.Chunk]:
        for chunk in plain(*arguments, first=first):
            if len(computed) == 2:
                raise KeyboardInterrupt
            computed.append(len(chunk.rows))
            yield chunk

    monkeypatch.setattr(prediction, "stream", cut)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "predict", run, folder / "new", "--out", folder / f"cut.{ending}")
    monkeypatch.setattr(prediction, "stream", plain)
    assert caught.value.code == 130
    assert not (folder / f"cut.{ending}").exists()
    capsys.readouterr()

    call(monkeypatch, "predict", run, folder / "new", "--out", folder / f"cut.{ending}")
    told = capsys.readouterr()
    assert "taken up again after 14 of 25" in told.err
    assert "23 images in " in told.out
    assert "2 could not be read" in told.out
    if ending == "csv":
        assert (folder / "cut.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    else:
        assert pq.read_table(folder / "cut.parquet").equals(pq.read_table(folder / "whole.parquet"))


def test_nothing_readable_is_an_error_and_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no picture")
    with pytest.raises(SourceError, match="none of 1 can be read"):
        prediction.predict(run, open_source(tmp_path / "bad"))
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "predict", run, tmp_path / "bad", "--out", tmp_path / "t.csv")
    assert caught.value.code == 2
    assert "none of 1 can be read" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["bad"]


def test_the_fitted_images_lie_as_far_as_calibrated(run: Path) -> None:
    images, _ = shapes(20)
    novelty = next(prediction.stream(prediction.open_model(run), open_source(images), Silent())).novelty
    assert len(Result.load(run).rows) == len(novelty) == 60
    assert 0 < novelty.max() < 1  # each finds itself first, and so lies closer than the calibration says


def test_the_beginning_of_a_table_of_other_images_is_not_gone_on_with(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 7)
    model, source = prediction.open_model(run), open_source(folder / "new")
    first = next(prediction.stream(model, source, Silent()))
    Table(folder / "t.csv", prediction.key_of(model, source)).append(first.columns())
    (folder / "new" / "03.png").write_bytes((folder / "new" / "04.png").read_bytes() + b" ")  # the same name
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "predict", run, folder / "new", "--out", folder / "t.csv")
    assert caught.value.code == 2
    assert "beginning of another table" in capsys.readouterr().err


def test_a_table_inside_the_source_is_taken_up_again(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 7)
    call(monkeypatch, "predict", run, folder / "new", "--out", folder / "new" / "t.csv")
    assert "23 images in" in capsys.readouterr().out
    whole = (folder / "new" / "t.csv").read_bytes()
    model, source = prediction.open_model(run), open_source(folder / "new", exclude=[folder / "new" / "t.csv"])
    chunks = prediction.stream(model, source, Silent())
    Table(folder / "new" / "t.csv", prediction.key_of(model, source)).append(next(chunks).columns())
    call(monkeypatch, "predict", run, folder / "new", "--out", folder / "new" / "t.csv")
    assert "taken up again after 7 of 25" in capsys.readouterr().err
    assert (folder / "new" / "t.csv").read_bytes() == whole
