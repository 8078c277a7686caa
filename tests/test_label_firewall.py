"""True labels change nothing in a run, wherever they lie beside the images; import contracts say who may read them."""

import json
from collections.abc import Callable, Iterator
from contextlib import chdir
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from spiceclust import pipeline
from spiceclust.data.sources import open_source
from spiceclust.outputs.evaluate import evaluate, read_truth, write_scores
from spiceclust.result import Result
from synthetic import shapes
from test_pipeline import contents, request


def comparable(run: Path) -> dict[str, Any]:
    """Every file of a run folder: its bytes, or what it says besides the seconds, and the checksum over them."""
    files: dict[str, Any] = {}
    for name, content in contents(run).items():
        files[name] = content
        if Path(name).name in ("run.json", "done.json"):
            files[name] = {
                key: value for key, value in json.loads(content).items() if key not in ("seconds", "checksum")
            }
    return files


def fit_npz(folder: Path, **labels: Any) -> Path:
    with chdir(folder):  # run.json says what the source was called
        np.savez("shapes.npz", images=shapes(10)[0], **labels)
        pipeline.fit(open_source("shapes.npz"), request(), Path("run"))
    return folder / "run"


def but_where_it_lies(run: Path) -> dict[str, Any]:
    files = comparable(run)
    assert files["run.json"].pop("source_root") == str(run.parent / "shapes.npz")
    return files


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_npz(tmp_path_factory.mktemp("unlabelled"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda classes: classes, id="true"),
        pytest.param(np.random.default_rng(0).permutation, id="shuffled"),
        pytest.param(lambda classes: np.array([{"not": "an array"}]), id="unreadable"),
    ],
)
def test_labels_in_an_npz_change_no_byte(change: Callable[[Any], Any], unlabelled: Path, tmp_path: Path) -> None:
    labelled = but_where_it_lies(fit_npz(tmp_path, labels=change(shapes(10)[1])))
    without = but_where_it_lies(unlabelled)
    assert labelled.keys() == without.keys()
    assert [name for name in without if labelled[name] != without[name]] == []


def fit_folders(root: Path, ends: list[int]) -> Path:
    """A run of the same 30 files in the order of their classes, parted into folders at `ends`."""
    images, classes = shapes(10)
    in_order = images[np.argsort(classes, kind="stable")]
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        folder = root / "photos" / f"folder {number}"
        folder.mkdir(parents=True)
        for i in range(start, end):
            Image.fromarray(in_order[i]).save(folder / f"{i:02}.png")
    pipeline.fit(open_source(root / "photos"), request(), root / "run")
    return root / "run"


def without_paths(run: Path) -> Iterator[tuple[str, bytes | list[str]]]:
    """The files of a run that hold no paths, or digests of them, and the rest of clusters.csv."""
    for name, content in contents(run).items():
        if name == "clusters.csv":
            yield name, [line.split(",", 1)[1] for line in content.decode().splitlines()]
        elif Path(name).name not in ("run.json", "done.json", "images.parquet"):
            yield name, content


def test_folders_named_after_classes_are_names_and_nothing_more(tmp_path: Path) -> None:
    """The order of the files is held fixed: it decides which images are drawn together, labels or not."""
    by_class = dict(without_paths(fit_folders(tmp_path / "classes", [10, 20, 30])))
    for layout, ends in {"others": [4, 23, 27, 30], "one": [30]}.items():
        other = dict(without_paths(fit_folders(tmp_path / layout, ends)))
        assert other.keys() == by_class.keys()
        assert [name for name in by_class if other[name] != by_class[name]] == [], layout


def test_the_built_in_digits_come_without_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_source("builtin:digits")
    bunch = sklearn.datasets.load_digits()
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: sklearn.utils.Bunch(images=bunch.images))
    blind = open_source("builtin:digits")
    np.testing.assert_array_equal(blind.array, plain.array)  # type: ignore[union-attr]


def test_evaluate_touches_the_scores_alone_and_a_later_fit_reads_none_of_them(tmp_path: Path) -> None:
    run = fit_npz(tmp_path, labels=shapes(10)[1])
    before = contents(run)
    result = Result.load(run)
    write_scores(run, result, *evaluate(result, read_truth(str(tmp_path / "shapes.npz"), result)))
    after = contents(run)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == ["metrics.json"]
    fit_npz(tmp_path, labels=shapes(10)[1])
    assert contents(run) == before
