"""Pickles run what they hold. None is read or written but CIFAR's, by a reader that runs nothing."""

import ast
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spiceclust
from spiceclust import pipeline, prediction
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.exports import export
from synthetic import shapes

SOURCE = Path(spiceclust.__file__).parent
READER = SOURCE / "data/pickles.py"
FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BRIEF = {
    "backbone": "resnet_small",
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 2, "passes": 1},
    "graph_label": {"steps": 2},
    "scan": {"steps": 2},
    "semi": {"steps": 2, "unlabelled_ratio": 2},
}


def offences(code: str) -> list[str]:
    """What in a file could read or write a pickle: imports, torch.save, loads that do not say otherwise."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found += [alias.name for alias in node.names if alias.name != "UnpicklingError"]  # what a load may raise
        if not isinstance(node, ast.Call):
            continue
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        called = ast.unparse(node.func)
        if called == "torch.save" or said.get("allow_pickle") == "True":
            found.append(called)
        if called == "torch.load" and said.get("weights_only") != "True":
            found.append(called)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "import torch\ntorch.save({}, 'x')",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_an_offence_is_found(code: str) -> None:
    assert len(offences(code)) == 1


def test_one_file_reads_pickles_and_no_other() -> None:
    found = {path: offences(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")}
    assert [path for path, what in found.items() if what] == [READER]
    assert found[READER] == ["pickle"]


def test_a_run_its_predictions_and_its_exports_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps"):  # the classes have heirs in packages that are imported late
        monkeypatch.setattr(pickle, name, refused)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refused)
    (tmp_path / "photos").mkdir()
    images, _ = shapes(4)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"photos/{i}.png")
    run, source = tmp_path / "run", open_source(tmp_path / "photos")
    for _ in range(2):  # what was written is read again
        fitted = pipeline.fit(source, make_request(n_clusters=3, overrides=BRIEF, image_size=8), run)
    np.testing.assert_array_equal(prediction.predict(run, source).labels, fitted.labels)
    for kind in ("folders", "parquet", "safetensors"):
        export(run, tmp_path / kind, kind)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".png", ".json", ".csv", ".parquet", ".safetensors", ".md"}
