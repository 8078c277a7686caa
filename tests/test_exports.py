"""The classifier of a real, tiny run, exported and used by others; and the one door to all exports."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor, nn

import spiceclust
from spiceclust import pipeline, prediction
from spiceclust.corrections import action_of
from spiceclust.data.sources import open_source
from spiceclust.data.vectors import open_inputs
from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.files import sha256_file
from spiceclust.given import Own
from spiceclust.journal import open_journal
from spiceclust.model_card import card_of
from spiceclust.models.heads import build_head
from spiceclust.models.resnet import ResNet
from spiceclust.outputs.evaluate import evaluate, write_scores
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.shipped import describe_model
from synthetic import shapes
from test_pipeline import TINY, contents
from test_pipeline import request as asked


@pytest.fixture(scope="module", params=["grey", "colour"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(request.param, tmp_path_factory.mktemp(request.param))


def make_run(colours: str, root: Path) -> Path:
    """A run of 30 photos of many sides, among them a large JPEG, a turned one, and one with transparency."""
    images, _ = shapes(10, size=24)
    (root / "photos").mkdir()
    for i, grey in enumerate(images):
        tint = np.array([1.0, 0.8, 0.5]) if colours == "colour" else np.ones(3)
        image = Image.fromarray((grey[..., None] * tint).astype(np.uint8))
        image = image.resize([(24, 24), (40, 30), (12, 20), (700, 500)][i % 4])
        exif = image.getexif()
        if i == 3:
            exif[0x0112] = 6
        if i == 4:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(root / f"photos/{i:02}.{'jpg' if i % 4 == 3 else 'png'}", exif=exif)
    pipeline.fit(open_source(root / "photos"), asked(), root / "run")
    return root / "run"


def test_onnx_equals_predict(run: Path, tmp_path: Path) -> None:
    """Decoded by the code block of the README that lies beside it."""
    done = spiceclust.export(run, tmp_path / "out", "onnx")
    assert done == (tmp_path / "out", 0, [])
    onnx.checker.check_model(str(tmp_path / "out/model.onnx"), full_check=True)
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    definitions, use = block.split("session = ")
    names: dict[str, Any] = {}
    exec(definitions, names)
    assert "onnxruntime.InferenceSession(" in use
    photos = open_source(run.parent / "photos")
    images = np.stack([names["prepare"](file) for file in photos.files])  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    wanted = prediction.predict(run, photos)
    for part in (slice(None), slice(4, 5)):  # any number at once
        probabilities, embeddings = session.run(None, {"images": images[part]})
        np.testing.assert_allclose(probabilities, wanted.probabilities[part], atol=1e-4)
        np.testing.assert_allclose(embeddings, prediction.transform(run, photos)[part], atol=1e-4)
    assert len(np.unique(wanted.probabilities.round(3), axis=0)) > 5  # images differ, so that equal means something


def test_onnx_says_how_images_are_prepared(run: Path, tmp_path: Path) -> None:
    spiceclust.export(run, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    config = json.loads((run / "model/config.json").read_text())
    (given,) = session.get_inputs()
    assert given.type == "tensor(uint8)"
    assert given.shape[1:] == [config["channels"], config["image_size"], config["image_size"]]
    assert facts["image_size"] == str(config["image_size"])
    assert facts["channels"] == str(config["channels"])
    assert facts["n_clusters"] == "3"
    assert json.loads(facts["cluster_names"]) == ["cluster_00", "cluster_01", "cluster_02"]
    assert "Lanczos" in facts["preprocessing"]
    assert [output.name for output in session.get_outputs()] == ["probabilities", "embeddings"]
    assert session.get_outputs()[0].shape[1] == 3


def test_safetensors_is_a_model_that_predict_takes(run: Path, tmp_path: Path) -> None:
    spiceclust.export(run, tmp_path / "out", "safetensors")
    photos = open_source(run.parent / "photos")
    moved = prediction.predict(tmp_path / "out", photos)
    wanted = prediction.predict(run, photos)
    np.testing.assert_array_equal(moved.probabilities, wanted.probabilities)
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert tensors["head.2.weight"].shape[0] == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "export.json",
    }  # fmt: skip


def test_the_model_card_is_read_by_the_hub_s_library(run: Path, tmp_path: Path) -> None:
    spiceclust.export(run, tmp_path / "out", "safetensors")
    text = (tmp_path / "out/README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "spiceclust"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license is None  # the user's to choose
    assert "# Clusters of 30 images" in text
    assert "accuracy" not in text
    result = Result.load(run)
    for cluster, size in enumerate(np.bincount(result.labels, minlength=3).tolist()):
        assert f"| {cluster} | {size} | " in text
    assert f"| reliable images | {result.reliable.mean():.3f} |" in text


def test_nothing_exported_tells_of_the_machine(run: Path, tmp_path: Path) -> None:
    for kind in ("onnx", "safetensors", "folders", "csv", "coco", "labelstudio", "fiftyone", "imagefolder"):
        spiceclust.export(run, tmp_path / kind, kind)
    found = contents(tmp_path)
    assert len(found) > 150
    assert not [name for name, content in found.items() if str(run.parent).encode() in content]


def test_the_card_tells_of_true_labels_once_they_were_compared_with(tmp_path: Path) -> None:
    run = make_run("grey", tmp_path)
    result = Result.load(run)
    scores, trust = evaluate(result, {row.path: str(i % 3) for i, row in enumerate(result.rows)})
    write_scores(run, result, scores, trust)
    text = card_of(Result.load(run), "moco", "resnet_small", 128)
    assert f"| accuracy, best match of clusters and classes | {scores.acc:.3f} |" in text
    assert f"| NMI | {scores.nmi:.3f} |" in text
    assert f"| calibration error | {trust.ece:.3f} |" in text
    assert "On the 30 images" in text


def largest_of(result: Result) -> int:
    return int(np.bincount(result.labels).argmax())


@pytest.fixture
def learned(run: Path, tmp_path: Path) -> Path:
    """A copy of a run whose clusters were named, and split, and from which a head of four clusters has learned."""
    copy = shutil.copytree(run, tmp_path / "learned")
    result = Result.load(copy)
    head = build_head(describe_model(copy).design.n_features, 4)
    (copy / "review/heads").mkdir(parents=True)
    save_file(dict(head.state_dict()), copy / "head")
    digest = sha256_file(copy / "head")
    (copy / "head").rename(copy / f"review/heads/{digest}.safetensors")
    largest = largest_of(result)
    leaving, moved = np.flatnonzero(result.labels == largest)[:2].tolist()
    with open_journal(copy, result, Silent()) as journal:
        for action in (
            {"do": "name", "cluster": largest, "name": "left | right <b>"},
            {"do": "split", "cluster": largest, "rows": [leaving]},
            {"do": "learn", "rows": [moved], "to": [3], "head": digest},
        ):
            journal.do(action_of(action))
    return copy


def test_a_head_that_learned_from_corrections_is_what_is_exported(learned: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 24, 24), dtype=np.uint8)
    embeddings = torch.from_numpy(prediction.transform(learned, open_source(images)))
    (file,) = (learned / "review/heads").iterdir()
    head = build_head(embeddings.shape[1], 4)
    head.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(file).items()})
    with torch.no_grad():
        wanted = head(embeddings).softmax(dim=1).numpy()

    spiceclust.export(learned, tmp_path / "out", "safetensors")
    found = prediction.predict(tmp_path / "out", open_source(images)).probabilities
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    card = (tmp_path / "out/README.md").read_text()
    assert "Sorts images into 4 clusters" in card
    assert "corrected by a person" in card
    largest = largest_of(Result.load(learned))
    assert f"| {largest} left &#124; right &#60;b&#62; |" in card
    spiceclust.export(learned, tmp_path / "onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape[1] == 4
    assert json.loads(session.get_modelmeta().custom_metadata_map["cluster_names"])[largest] == "left | right <b>"

    with open_journal(learned, Result.load(learned), Silent()) as journal:  # of which the head knows nothing
        (leaving,) = np.flatnonzero(journal.state.labels == largest)[:1].tolist()
        journal.do(action_of({"do": "split", "cluster": largest, "rows": [leaving]}))
    spiceclust.export(learned, tmp_path / "later", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "later/model.onnx"), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["n_clusters"], len(json.loads(facts["cluster_names"]))) == ("4", 4)

    spiceclust.export(learned, tmp_path / "found", "safetensors", corrections=False)
    assert prediction.predict(tmp_path / "found", open_source(images)).probabilities.shape == (9, 3)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunFolderError, match="is damaged: undo the learning"):
        spiceclust.export(learned, tmp_path / "new", "safetensors")


def test_corrections_become_folders_and_names(learned: Path, tmp_path: Path) -> None:
    spiceclust.export(learned, tmp_path / "out", "csv")
    lines = [line.split(",") for line in (tmp_path / "out/clusters.csv").read_text().splitlines()]
    largest = largest_of(Result.load(learned))
    assert {line[-1] for line in lines[1:] if line[1] == str(largest)} == {"left | right <b>"}
    assert sum(line[1] == "3" for line in lines[1:]) == 2


def test_every_kind_goes_through_one_door(run: Path, tmp_path: Path) -> None:
    done = spiceclust.export(str(run), str(tmp_path / "out"), "folders", link="symlink", source=run.parent / "photos")
    assert done.images == 30
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        spiceclust.export(run, tmp_path / "out", "onnx")
    with pytest.raises(ConfigError, match=r"unknown kind of export 'zip': choose one of folders, .*, safetensors"):
        spiceclust.export(run, tmp_path / "new", "zip")
    with pytest.raises(ConfigError, match="onnx holds no images: leave out only, link and source"):
        spiceclust.export(run, tmp_path / "new", "onnx", only="reliable")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        spiceclust.export(tmp_path, tmp_path / "new", "safetensors")
    assert not (tmp_path / "new").exists()


def test_without_the_extra_a_sentence_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ConfigError, match=r"onnx needs onnxscript: pip install 'spiceclust\[onnx\]'"):
        spiceclust.export(run, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


# Encoders that are given

PICTURES = shapes(10)[0]


class Mine(nn.Module):
    """Of one's own; what it does with `looks` cannot be followed by torch."""

    def __init__(self, looks: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, 2)
        self.looks = looks

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.convolution(images).relu()
        if self.looks and float(maps.mean()) > 7:
            maps = maps * 2
        return maps.flatten(2).amax(dim=2)


def fit_given(encoder: str, folder: Path, own: nn.Module | None = None, size: int | None = None) -> Path:
    overrides = {name: part for name, part in TINY.items() if name != "pretrain"}
    wanted = asked(encoder=encoder, image_size=size, overrides=overrides)
    pipeline.fit(open_source(PICTURES), wanted, folder / "run", own=Own(own))
    return folder / "run"


def weights_of(kind: str, timm: ModuleType, folder: Path) -> str:
    """A file of weights, and the encoder that it makes."""
    torch.manual_seed(0)
    network = ResNet("resnet18") if kind == "resnet18" else timm.create_model(kind)
    save_file(network.state_dict(), folder / "secret place.safetensors")
    return f"{'checkpoint:' if kind == 'resnet18' else f'timm:{kind}@'}{folder / 'secret place.safetensors'}"


def assert_onnx_is(folder: Path, wanted: Result, size: int, channels: int) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [channels, size, size]
    source, images = open_source(PICTURES), []
    for i in range(len(PICTURES)):
        ((_, picture),) = source.read(range(i, i + 1), size)
        assert picture is not None
        images.append(picture.transpose(2, 0, 1))
    for part in (slice(None), slice(4, 5)):
        probabilities, _ = session.run(None, {"images": np.stack(images)[part]})
        np.testing.assert_allclose(probabilities, wanted.probabilities[part], atol=1e-4)


@pytest.mark.parametrize("kind", ["test_resnet", "test_vit", "resnet18"])
def test_a_classifier_on_an_encoder_of_others_is_exported(kind: str, timm: ModuleType, tmp_path: Path) -> None:
    encoder = weights_of(kind, timm, tmp_path)
    run = fit_given(encoder, tmp_path, size=32)
    spiceclust.export(run, tmp_path / "onnx", "onnx")
    assert_onnx_is(tmp_path / "onnx", Result.load(run), 32, 3)
    spiceclust.export(run, tmp_path / "safe", "safetensors")
    moved = prediction.predict(tmp_path / "safe", open_source(PICTURES))
    np.testing.assert_array_equal(moved.probabilities, Result.load(run).probabilities)
    text = (tmp_path / "safe/README.md").read_text()
    assert f"| network | {kind} |" in text
    assert f"| encoder, views | {encoder.partition(':')[0]}, " in text
    assert ("pip install 'spiceclust[timm]'" in text) == (kind != "resnet18")
    for folder in ("onnx", "safe"):
        assert not [name for name, content in contents(tmp_path / folder).items() if b"secret place" in content]


def test_one_s_own_module_is_exported_where_torch_can_follow_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = fit_given("module:Mine", tmp_path, Mine())
    spiceclust.export(run, tmp_path / "onnx", "onnx", encoder=Mine())  # its weights are those of the run
    assert_onnx_is(tmp_path / "onnx", Result.load(run), 16, 3)
    with pytest.raises(ConfigError, match="the module Mine of your own, which is in no file"):
        spiceclust.export(run, tmp_path / "new", "onnx")
    with pytest.raises(ConfigError, match=r"torch cannot write the encoder Mine as ONNX \(.*\): export it") as caught:
        spiceclust.export(run, tmp_path / "new", "onnx", encoder=Mine(looks=True))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "onnx"}  # nothing unfinished is left
    spiceclust.export(run, tmp_path / "safe", "safetensors")  # which needs no code
    moved = prediction.predict(tmp_path / "safe", open_source(PICTURES), own=Mine())
    np.testing.assert_array_equal(moved.probabilities, Result.load(run).probabilities)
    text = (tmp_path / "safe/README.md").read_text()
    assert "| network | Mine |" in text
    assert "own=module" in text


def test_a_classifier_of_ready_embeddings_is_no_onnx_and_its_card_says_what_it_takes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(PICTURES), 6))
    np.save(tmp_path / "mine.npy", vectors)
    run = fit_given(f"embeddings:{tmp_path / 'mine.npy'}", tmp_path)
    with pytest.raises(ConfigError, match=r"onnx takes images, and .* made of embeddings \(mine\.npy\)") as caught:
        spiceclust.export(run, tmp_path / "onnx", "onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "onnx").exists()
    spiceclust.export(run, tmp_path / "safe", "safetensors")
    moved = prediction.predict(tmp_path / "safe", open_inputs(vectors))
    np.testing.assert_array_equal(moved.probabilities, Result.load(run).probabilities)
    text = (tmp_path / "safe/README.md").read_text()
    assert "| read as | embeddings that were made elsewhere, 6 features |" in text
    assert "predict FOLDER embeddings:FILE.npy" in text
    assert "| network |" not in text


def test_a_damaged_model_is_not_passed_on(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    for kind in ("onnx", "safetensors"):
        with pytest.raises(RunFolderError, match=r"model\.safetensors"):
            spiceclust.export(tmp_path / "run", tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()
