import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from bulk_runs import make_run, write_source
from spiceclust import pipeline, prediction
from spiceclust.bulk import run as module
from spiceclust.bulk import work
from spiceclust.bulk.run import predict_shards
from spiceclust.bulk.tables import Tables
from spiceclust.cli import main
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.errors import ConfigError, EngineError, RunFolderError, SourceError
from spiceclust.progress import Silent
from synthetic import shapes
from test_pipeline import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    for name in list(system.store):
        system.rm(name)


def call(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["spiceclust", *map(str, words)])
    main()


@pytest.mark.parametrize("kind", ["tars", "tables", "files"])
def test_the_tables_together_are_the_one_table(
    kind: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    memory: Any,
) -> None:
    monkeypatch.setattr("spiceclust.bulk.shards.FILES", 6)
    write_source(tmp_path / "in", kind)
    call(monkeypatch, "predict", run, tmp_path / "in", "--out", tmp_path / "one.parquet")
    call(monkeypatch, "predict", run, tmp_path / "in", "--out", tmp_path / "many")
    assert "17 images in 3 tables in" in capsys.readouterr().out
    one, many = pq.read_table(tmp_path / "one.parquet"), ds.dataset(tmp_path / "many").to_table()
    assert many.equals(one)

    for file in (tmp_path / "in").rglob("*.*"):
        memory.pipe(f"/far/{file.relative_to(tmp_path)}", file.read_bytes())
    call(monkeypatch, "predict", run, "memory://far/in", "--out", "memory://far/out")
    capsys.readouterr()
    for file in (tmp_path / "many").glob("*.parquet"):
        assert pq.read_table(pa.BufferReader(memory.cat(f"/far/out/{file.name}"))).equals(pq.read_table(file))
    call(monkeypatch, "predict", run, "memory://far/in", "--out", "memory://far/out")
    assert "taken up again after 3 of 3 shards" in capsys.readouterr().err


def test_embeddings_are_those_of_transform(run: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "tars")
    predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent(), embeddings=True)
    found = np.array(ds.dataset(tmp_path / "out").to_table()["embedding"].to_pylist(), np.float32)
    expected = prediction.transform(run, open_source(tmp_path / "in"))
    np.testing.assert_array_equal(found, expected[np.abs(expected).sum(1) > 0])
    with pytest.raises(RunFolderError, match="another form"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())


def test_only_what_is_missing_damaged_or_changed_is_done_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "in", "tars")
    predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.parquet")}
    done: list[str] = []
    plain = Tables.write

    def spied(self: Tables, shard: Any, chunks: Any) -> Any:
        done.append(shard.name)
        return plain(self, shard, chunks)

    monkeypatch.setattr(Tables, "write", spied)
    (tmp_path / "out/s0.tar.parquet").unlink()
    (tmp_path / "out/s1.tar.parquet").write_bytes(before["s1.tar.parquet"][:-1])
    summary = predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())
    assert (done, summary[:3]) == (["s0.tar", "s1.tar"], (3, 17, 1))
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.parquet")} == before
    (tmp_path / "in/s2.tar").write_bytes((tmp_path / "in/s0.tar").read_bytes() + bytes(10240))
    predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())
    assert done[2:] == ["s2.tar"]


def test_a_shard_that_cannot_be_done_is_named_and_the_others_are_done(run: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "tars")
    (tmp_path / "in/s1.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(EngineError, match=r"1 of 3 shards have no table, such as s1.tar: .*compressed"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())
    assert sorted(file.name for file in (tmp_path / "out").glob("*.parquet")) == ["s0.tar.parquet", "s2.tar.parquet"]
    write_source(tmp_path / "in", "tars")
    assert predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent()).rows == 17


def test_a_place_that_is_away_for_a_moment_is_asked_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "in", "tars")
    monkeypatch.setattr(work, "PAUSES", (0.0, 0.0))
    away = iter([True, False, *[True] * 3, False])
    plain = work.open_shard

    def flaky(*given: Any) -> Any:
        if next(away):
            raise OSError(5, "Input/output error")
        return plain(*given)

    monkeypatch.setattr(work, "open_shard", flaky)
    with pytest.raises(EngineError, match=r"1 of 3 shards have no table, such as s1.tar: .*3 tries"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())


def test_nothing_readable_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no picture")
    with pytest.raises(SourceError, match="none of 1 images can be read"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())


def test_what_cannot_be_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path / "in", "tars")
    with pytest.raises(ConfigError, match="unknown engine 'spark': choose one of local, ray"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent(), engine="spark")
    for words in (("--engine", "ray"), ("--embeddings",)):
        with pytest.raises(SystemExit):
            call(monkeypatch, "predict", run, tmp_path / "in", "--out", tmp_path / "t.csv", *words)
        assert "give a folder in the place of" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'spiceclust\[ray\]'"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent(), engine="ray")
    assert not (tmp_path / "t.csv").exists()


def test_embeddings_models_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    request = make_request(n_clusters=3, encoder=f"embeddings:{tmp_path}/e.npy", overrides=TINY)
    pipeline.fit(open_source(shapes(20)[0]), request, tmp_path / "run")
    write_source(tmp_path / "in", "tars")
    with pytest.raises(SourceError, match="made of embeddings"):
        predict_shards(tmp_path / "run", str(tmp_path / "in"), str(tmp_path / "out"), Silent())


def test_two_do_not_write_into_one_folder(run: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "tars")
    with module.locked(tmp_path / "out", Silent()), pytest.raises(RunFolderError, match="is being written by"):
        predict_shards(run, str(tmp_path / "in"), str(tmp_path / "out"), Silent())
