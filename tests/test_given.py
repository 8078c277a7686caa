"""Encoders that are given: what is opened, and whole runs with it."""

import json
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from spiceclust import pipeline, prediction
from spiceclust.config import Request, make_request
from spiceclust.data.sources import open_source
from spiceclust.data.vectors import open_inputs
from spiceclust.errors import ConfigError, RunFolderError, SourceError
from spiceclust.exports import export
from spiceclust.given import NOTHING, Given, open_encoder
from spiceclust.given import Own as Gift
from spiceclust.models.resnet import ResNet
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.training.checkpoint import load_tensors
from spiceclust.training.distributed import World
from synthetic import shapes
from test_pipeline import TINY

QUICK = {name: part for name, part in TINY.items() if name != "pretrain"}
IMAGES, CLASSES = shapes(10)
CPU = torch.device("cpu")


def request(encoder: str, **asked: Any) -> Request:
    return make_request(**{"n_clusters": 3, "overrides": QUICK, "encoder": encoder, **asked})


def fit(encoder: str, folder: Path, own: Gift = NOTHING, **asked: Any) -> Result:
    return pipeline.fit(open_source(IMAGES), request(encoder, **asked), folder, own=own)


def given(encoder: str, size: int | None = None, own: nn.Module | None = None) -> Given:
    found = open_encoder(request(encoder, image_size=size), 16, Gift(own))
    assert found is not None
    return found


def loaded(found: Given) -> nn.Module:
    encoder = found.build()
    encoder.load_state_dict(dict(found.weights()))
    return encoder.eval()


def tensors_of(stage: Path) -> dict[str, Tensor]:
    return load_tensors(stage / "tensors.safetensors", CPU)


def assert_predict_repeats_fit(fitted: Result, folder: Path, images: Any = IMAGES) -> None:
    predicted = prediction.predict(folder, open_inputs(images))
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities)


def test_moco_is_not_given() -> None:
    assert open_encoder(request("moco"), 16, Gift()) is None


# timm


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def timm_file(request: pytest.FixtureRequest, timm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real model of timm, built without weights and saved as timm saves its own, with the classifier."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model(request.param).state_dict(), file)
    return f"timm:{request.param}@{file}"


@pytest.mark.parametrize(("preset", "trained"), [("quick", False), ("standard", True)])
def test_a_model_of_timm_goes_through_fit_and_predict(
    timm_file: str, preset: str, trained: bool, tmp_path: Path
) -> None:
    fitted = fit(timm_file, tmp_path, preset=preset, image_size=32)
    assert_predict_repeats_fit(fitted, tmp_path)
    config = fitted.run["config"]
    assert (config["image_size"], config["channels"], config["semi"]["train_encoder"]) == (32, 3, trained)
    before, after = tensors_of(tmp_path / "1-pretrain"), tensors_of(tmp_path / "5-semi")
    assert any(".encoder." in name for name in after) == trained
    shipped = load_tensors(tmp_path / "model/model.safetensors", CPU)
    moved = [name for name, tensor in before.items() if not torch.equal(shipped[f"encoder.{name}"], tensor)]
    assert bool(moved) == (trained and fitted.run["shipped"] == "5-semi")


def test_what_stage_1_loads_is_what_the_file_holds(timm_file: str, timm: ModuleType) -> None:
    found = given(timm_file)
    assert found.design.image_size == 160  # its own
    name, _, file = timm_file.removeprefix("timm:").partition("@")
    theirs = timm.create_model(name, num_classes=1000)
    timm.models.load_checkpoint(theirs, file)
    theirs.reset_classifier(0)
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(loaded(found)(images), theirs.eval()((images - 0.5) / 0.5), rtol=1e-4, atol=1e-5)


def test_a_run_resumes_and_predicts_without_the_hub(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are fetched in stage 1 and never again."""
    torch.manual_seed(0)
    known, asked = timm.create_model("test_resnet").state_dict(), []

    def hub(*arguments: Any, **named: Any) -> dict[str, Tensor]:
        asked.append(arguments[0])
        if len(asked) > 1:
            raise OSError("offline")
        return dict(known)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hub)
    fitted = fit("timm:test_resnet", tmp_path, image_size=32)
    assert asked == ["timm/test_resnet.r160_in1k"]
    (tmp_path / "2-embed/done.json").unlink()
    again = fit("timm:test_resnet", tmp_path, image_size=32)
    np.testing.assert_array_equal(again.probabilities, fitted.probabilities)
    assert_predict_repeats_fit(fitted, tmp_path)
    assert len(asked) == 1
    with pytest.raises(ConfigError, match=r"cannot be loaded \(offline\): go online once, or .* timm:test_resnet@FILE"):
        fit("timm:test_resnet", tmp_path / "other", image_size=32)


def test_other_weights_make_another_run(timm_file: str, timm: ModuleType, tmp_path: Path) -> None:
    name, _, file = timm_file.removeprefix("timm:").partition("@")
    mine = tmp_path / "mine.safetensors"
    shutil.copy(file, mine)
    fit(f"timm:{name}@{mine}", tmp_path / "run", image_size=32)
    save_file(timm.create_model(name).state_dict(), mine)
    with pytest.raises(RunFolderError, match=r"holds another run .*encoder_digest"):
        fit(f"timm:{name}@{mine}", tmp_path / "run", image_size=32)


def test_a_size_that_the_model_does_not_take_is_one_line(timm: ModuleType) -> None:
    with pytest.raises(
        ConfigError, match=r"timm:vit_tiny_patch16_224.*(cannot be built|does not take images)"
    ) as caught:
        given("timm:vit_tiny_patch16_224", 8)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_before_anything_is_computed(timm: ModuleType, tmp_path: Path) -> None:
    for encoder in ("timm:test_resnet@none.pth", "checkpoint:none.pth"):
        with pytest.raises(ConfigError, match=r"none\.pth cannot be opened"):
            fit(encoder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Checkpoints


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    """A ResNet-18 with random weights and statistics."""
    torch.manual_seed(0)
    network = ResNet("resnet18").eval()
    for name, buffer in network.named_buffers():
        if "running" in name:  # means on either side of 0, or nothing comes out of the last ReLU
            buffer.copy_(torch.rand(buffer.shape) + (0.5 if "var" in name else -0.5))
    return network


def published(network: nn.Module, version: int) -> dict[str, Any]:
    """What MoCo's script saves: query and key network with their projection, the queue, the optimiser."""
    fc = {"fc": (128, 512)} if version == 1 else {"fc.0": (512, 512), "fc.2": (128, 512)}
    query = {**network.state_dict(), **{f"{name}.weight": torch.zeros(shape) for name, shape in fc.items()}}
    query.update({f"{name}.bias": torch.zeros(shape[0]) for name, shape in fc.items()})
    state = {f"module.encoder_q.{name}": tensor for name, tensor in query.items()}
    state.update({f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in query.items()})
    state.update({"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1).long()})
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
    }


def saved(layout: str, network: nn.Module, folder: Path) -> Path:
    file = folder / ("w.safetensors" if "safetensors" in layout else "w.pth.tar")
    if layout == "torchvision":
        torch.save({**network.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, file)
    elif layout == "safetensors":
        save_file(published(network, 2)["state_dict"], file)
    elif layout == "old safetensors":  # before batch norm counted its batches
        save_file({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, file)
    else:
        torch.save(published(network, int(layout[-1])), file)
    return file


@pytest.mark.parametrize("layout", ["moco v1", "moco v2", "safetensors", "old safetensors", "torchvision"])
def test_a_published_checkpoint_gives_the_features_of_the_network_it_came_from(
    layout: str, resnet: ResNet, tmp_path: Path
) -> None:
    found = given(f"checkpoint:{saved(layout, resnet, tmp_path)}")
    assert (found.design.name, found.design.image_size, found.design.n_features) == ("resnet18", 224, 512)
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = resnet((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean(dim=(2, 3))
        torch.testing.assert_close(loaded(found)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_network_is_known_by_its_names(name: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.encoder_q.{key}": v for key, v in ResNet(name).state_dict().items()}}, file)
    assert given(f"checkpoint:{file}").design.name == name


def test_a_published_checkpoint_goes_through_fit_and_predict(resnet: ResNet, tmp_path: Path) -> None:
    file = saved("moco v2", resnet, tmp_path)
    fitted = fit(f"checkpoint:{file}", tmp_path / "run", image_size=32)
    file.unlink()  # a finished run needs it no more
    assert_predict_repeats_fit(fitted, tmp_path / "run")
    stage = tensors_of(tmp_path / "run/1-pretrain")
    assert torch.equal(stage["backbone.layer4.1.conv2.weight"], resnet.state_dict()["layer4.1.conv2.weight"])


def test_a_checkpoint_that_does_not_fit_names_the_first_key_and_the_number(resnet: ResNet, tmp_path: Path) -> None:
    state = resnet.state_dict()
    file = tmp_path / "w.safetensors"
    save_file({name: tensor for name, tensor in state.items() if "layer4.1" not in name}, file)
    with pytest.raises(ConfigError, match=r"nearest to a resnet18, .* \(10 missing, first layer4\.1\.conv1\.weight\)"):
        given(f"checkpoint:{file}")
    save_file({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, file)
    with pytest.raises(
        ConfigError, match=r"1 of another shape, first conv1\.weight: \(64, 1, 7, 7\) instead of \(64, 3"
    ):
        given(f"checkpoint:{file}")
    save_file({"blocks.0.weight": torch.zeros(2)}, file)
    with pytest.raises(ConfigError, match=r"missing, first .*; 1 unexpected, first blocks\.0\.weight") as caught:
        given(f"checkpoint:{file}")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pipeline.fit(open_source(IMAGES), request("moco", overrides=TINY), folder)
    return folder


@pytest.mark.parametrize("part", ["", "model"])
def test_the_encoder_of_a_finished_run_serves_another(part: str, run: Path, tmp_path: Path) -> None:
    fitted = fit(f"checkpoint:{run / part}", tmp_path, seed=1)
    shipped = load_tensors(run / "model/model.safetensors", CPU)
    for name, tensor in tensors_of(tmp_path / "1-pretrain").items():
        assert torch.equal(tensor, shipped[f"encoder.{name}"]), name
    config = fitted.run["config"]
    assert (config["image_size"], config["channels"]) == (16, 1)  # as the run had them
    assert config["semi"]["train_encoder"]  # one of ours is affordable in any preset
    assert_predict_repeats_fit(fitted, tmp_path)


def test_an_exported_classifier_serves_as_the_run_does(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "safetensors")
    found, same = given(f"checkpoint:{tmp_path / 'out'}"), given(f"checkpoint:{run}")
    assert (found.design, found.digest) == (same.design, same.digest)
    assert all(torch.equal(tensor, same.weights()[name]) for name, tensor in found.weights().items())


def test_a_run_that_cannot_serve_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes images of 16 px, not image_size=32: leave that out"):
        given(f"checkpoint:{run}", 32)
    with pytest.raises(RunFolderError, match="has no finished model"):
        given(f"checkpoint:{tmp_path}")


# Embeddings


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that tell the three classes apart."""
    file = tmp_path_factory.mktemp("embeddings") / "e.npy"
    noise = np.random.default_rng(0).normal(0, 0.05, (len(IMAGES), 12))
    np.save(file, np.eye(12)[CLASSES] + noise)
    return file


@pytest.fixture(scope="module")
def embedded_run(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "embedded"
    overrides = {"self_label": {"rounds": 60}, "graph_label": {"steps": 60}, "scan": {"steps": 100}}
    fit(f"embeddings:{embeddings}", folder, overrides=overrides)
    return folder


def test_ready_embeddings_are_sorted_and_stage_3_says_why_it_is_skipped(embedded_run: Path) -> None:
    result = Result.load(embedded_run)
    table = np.zeros((3, 3))
    np.add.at(table, (result.labels, CLASSES), 1)
    assert (table.max(axis=1) == table.sum(axis=1)).all()
    assert (table.sum(axis=1) == 10).all()
    assert result.reliable.any()
    assert not (embedded_run / "5-semi").exists()
    assert "learns from views of images" in result.run["skipped"]["5-semi"]
    assert result.run["shipped"] == "3-self"
    assert result.run["state"] == "done"
    embedded = tensors_of(embedded_run / "2-embed")
    assert torch.equal(embedded["weak"], embedded["strong"])
    assert embedded["weak"].shape == (1, 30, 12)
    torch.testing.assert_close(embedded["weak"][0].float(), embedded["plain"], rtol=0, atol=1e-3)


def test_predict_takes_embeddings(embedded_run: Path, embeddings: Path) -> None:
    fitted = Result.load(embedded_run)
    assert_predict_repeats_fit(fitted, embedded_run, f"embeddings:{embeddings}")
    assert_predict_repeats_fit(fitted, embedded_run, np.load(embeddings) * 7)  # lengths do not count
    some = prediction.predict(embedded_run, open_inputs(np.load(embeddings)[[5, 3]]))
    np.testing.assert_array_equal(some.probabilities, fitted.probabilities[[5, 3]])
    assert [row.path for row in some.rows] == ["0", "1"]


def test_embeddings_are_streamed_as_images_are(
    embedded_run: Path, embeddings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 7)
    model, inputs = prediction.open_model(embedded_run), open_inputs(f"embeddings:{embeddings}")
    chunks = list(prediction.stream(model, inputs, Silent()))
    assert [len(chunk.rows) for chunk in chunks] == [7, 7, 7, 7, 2]
    assert [row.path for chunk in chunks for row in chunk.rows] == [str(i) for i in range(30)]
    assert {row.status for chunk in chunks for row in chunk.rows} == {"ok"}
    whole = Result.load(embedded_run).probabilities
    np.testing.assert_array_equal(np.concatenate([chunk.probabilities for chunk in chunks]), whole)
    (later,) = prediction.stream(model, inputs, Silent(), first=28)
    assert later.rows == chunks[4].rows
    np.testing.assert_array_equal(later.novelty, chunks[4].novelty)
    strange = next(prediction.stream(model, open_inputs(-np.load(embeddings)), Silent())).novelty
    assert strange.min() == 1 > np.median(chunks[0].novelty)


def test_inputs_of_the_wrong_kind_are_refused_before_the_first_chunk_is_asked_for(embedded_run: Path) -> None:
    with pytest.raises(SourceError, match="cannot look at images"):
        prediction.stream(prediction.open_model(embedded_run), open_source(IMAGES), Silent())


def test_predict_says_what_it_needs(embedded_run: Path, run: Path) -> None:
    with pytest.raises(
        SourceError, match=r"made of embeddings \(e\.npy\) and cannot look at images: .* floats \(n, 12\)"
    ):
        prediction.predict(embedded_run, open_inputs(IMAGES))
    with pytest.raises(SourceError, match=r"array has 5 features a row, .* was made with 12"):
        prediction.predict(embedded_run, open_inputs(np.ones((3, 5))))
    with pytest.raises(SourceError, match="was made of images, not of embeddings"):
        prediction.transform(run, open_inputs(np.ones((3, 5))))


def test_rows_find_their_images_among_copies_and_files_that_are_none(tmp_path: Path) -> None:
    """Row i is of the i-th file found; a copy shares its first one's cluster whatever its own row says."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    (folder / "03.png").write_text("no picture")
    shutil.copy(folder / "00.png", folder / "98.png")
    vectors = np.eye(12)[[*CLASSES, (CLASSES[0] + 1) % 3]] + np.random.default_rng(0).normal(0, 0.05, (31, 12))
    np.save(tmp_path / "e.npy", vectors)
    overrides = {"self_label": {"rounds": 60}, "graph_label": {"steps": 60}, "scan": {"steps": 100}}
    result = pipeline.fit(
        open_source(folder), request(f"embeddings:{tmp_path / 'e.npy'}", overrides=overrides), tmp_path / "run"
    )
    readable = np.delete(np.arange(30), 3)
    of_class = {int(CLASSES[i]): int(result.labels[i]) for i in readable}
    assert sorted(of_class.values()) == [0, 1, 2]
    assert [of_class[int(CLASSES[i])] for i in readable] == result.labels[readable].tolist()
    assert result.labels[3] == -1
    assert result.labels[30] == result.labels[0]
    np.save(tmp_path / "e.npy", vectors[:-2])
    with pytest.raises(SourceError, match="has 29 rows for 31 images, 30 of them readable"):
        pipeline.fit(open_source(folder), request(f"embeddings:{tmp_path / 'e.npy'}"), tmp_path / "other")


def test_embeddings_serve_scan_and_resume_but_not_another_run(
    embeddings: Path, embedded_run: Path, tmp_path: Path
) -> None:
    first = fit(f"embeddings:{embeddings}", tmp_path, method="scan")
    stages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    assert len(stages) == 4
    np.testing.assert_array_equal(
        fit(f"embeddings:{embeddings}", tmp_path, method="scan").probabilities, first.probabilities
    )
    assert {path: path.stat().st_mtime_ns for path in stages} == stages
    with pytest.raises(ConfigError, match="was made of embeddings and has no encoder"):
        given(f"checkpoint:{embedded_run}")


# One's own


class Own(nn.Module):
    def __init__(self, channels: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = nn.functional.adaptive_avg_pool2d(self.norm(self.convolution(images)).relu(), 2).flatten(1)
        return out * self.scale


def own_module(channels: int = 3) -> Own:
    torch.manual_seed(0)
    return Own(channels).train()


@pytest.mark.parametrize("channels", [1, 3])
def test_one_s_own_module_gets_the_channels_that_it_takes(channels: int) -> None:
    found = given("module:Own", own=own_module(channels))
    assert (found.design.channels, found.design.image_size, found.design.n_features) == (channels, 16, 32)


@pytest.mark.parametrize("trained", [False, True])
def test_one_s_own_module_goes_through_fit_and_predict_and_stays_as_it_is(trained: bool, tmp_path: Path) -> None:
    module = own_module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    overrides = {**QUICK, "semi": {**QUICK["semi"], "train_encoder": trained}}
    fitted = fit("module:Own", tmp_path, Gift(module), overrides=overrides)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    predicted = prediction.predict(tmp_path, open_source(IMAGES), own=module)
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities)
    other = prediction.predict(tmp_path, open_source(IMAGES), own=Own())  # its weights are those of the run
    np.testing.assert_array_equal(other.probabilities, fitted.probabilities)
    with pytest.raises(ConfigError, match="the module Own of your own, which is in no file"):
        prediction.predict(tmp_path, open_source(IMAGES))
    with pytest.raises(ConfigError, match=r"the encoder given is not that of .*1 of another shape"):
        prediction.predict(tmp_path, open_source(IMAGES), own=Own(1))
    with pytest.raises(ConfigError, match="made and resumed in Python alone"):
        fit("module:Own", tmp_path)
    module.scale.data += 1
    with pytest.raises(RunFolderError, match="encoder_digest"):
        fit("module:Own", tmp_path, Gift(module), overrides=overrides)


class Alone(Own):
    """Keeps what it saw, as a module with a hook does, so that it may not be called from two threads at once."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = super().forward(images)
        time.sleep(0.005)
        return self.seen


def test_one_s_own_module_is_never_called_twice_at_once(tmp_path: Path) -> None:
    module, threads = Alone(), torch.get_num_threads()
    images = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), dtype=np.uint8)
    seen = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            pipeline.fit(open_source(images), request("module:Alone"), tmp_path / str(count), own=Gift(module))
            seen[count] = prediction.transform(tmp_path / str(count), open_source(images), own=module)
        finally:
            torch.set_num_threads(threads)
    np.testing.assert_array_equal(seen[1], seen[2])


def test_a_module_that_takes_no_such_images_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"encoder 'module:Own' does not take images of 3 x 16 x 16 \(") as caught:
        given("module:Own", own=own_module(5))
    assert "\n" not in str(caught.value)


def test_weights_that_share_memory_are_kept(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(16, 16)
            self.two = nn.Linear(16, 16)
            self.two.weight = self.one.weight

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.two(self.one(images.mean(dim=(1, 2))))
            return out

    module = Tied()
    fitted = fit("module:Tied", tmp_path, Gift(module))
    predicted = prediction.predict(tmp_path, open_source(IMAGES), own=module)
    np.testing.assert_array_equal(predicted.probabilities, fitted.probabilities)


def darker(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.float() / 255 * (0.5 + 0.5 * torch.rand((len(images), 1, 1, 1), generator=generator))


def test_one_s_own_views_teach_every_stage(run: Path, tmp_path: Path) -> None:
    seen: list[torch.Size] = []

    def watched(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(images.shape)
        return darker(images, generator)

    own = Gift(views=watched)
    folder = tmp_path / "run"
    result = fit("moco", folder, own, overrides=TINY, views="own:watched")
    assert result.run["config"]["own_views"] == "watched"
    embedded = tensors_of(folder / "2-embed")
    assert torch.equal(embedded["weak"][0], embedded["plain"].half())  # the image itself
    assert torch.equal(embedded["weak"][1], embedded["weak"][0])
    assert not torch.equal(embedded["strong"][0], embedded["strong"][1])
    assert {len(shape) for shape in seen} == {4}
    assert len(seen) >= 1 + 2 + 2 + 4  # tried, two in a step of stage 1, two kept, one in each step of stage 3
    for stage in ("1-pretrain", "2-embed"):
        key = json.loads((folder / stage / "done.json").read_text())["key"]
        assert key != json.loads((run / stage / "done.json").read_text())["key"]
    assert_predict_repeats_fit(result, folder)
    again = fit("moco", tmp_path / "again", Gift(views=darker), overrides=TINY, views="own:watched")
    np.testing.assert_array_equal(again.probabilities, result.probabilities)
    with pytest.raises(ConfigError, match=r"views 'watched' are a function of one's own: .* Python alone"):
        fit("moco", folder, overrides=TINY, views="own:watched")


@pytest.mark.parametrize("method", ["spice", "scan"])
@pytest.mark.parametrize("views", [0, 2])
def test_stage_3_can_leave_our_own_encoder_as_it_is(method: str, views: int, tmp_path: Path) -> None:
    part = "semi" if method == "spice" else "confident"
    overrides = {**TINY, "embed": {"cached_views": views}, part: {**TINY[part], "train_encoder": False}}
    fitted = fit("moco", tmp_path, overrides=overrides, method=method)
    assert_predict_repeats_fit(fitted, tmp_path)
    assert not any(".encoder." in name for name in tensors_of(tmp_path / "5-semi"))
    shipped = load_tensors(tmp_path / "model/model.safetensors", CPU)
    for name, tensor in tensors_of(tmp_path / "1-pretrain").items():
        assert torch.equal(tensor, shipped[f"encoder.{name}"]), name


def test_processes_that_could_not_share_a_batch_norm_are_refused_before_anything_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "refuse_devices", lambda world, device: None)  # there is no other process here
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    asked = request("module:own", overrides={**QUICK, "semi": {**QUICK["semi"], "train_encoder": True}})
    with pytest.raises(ConfigError, match="BatchNorm2d cannot share its statistics among processes"):
        pipeline.fit(open_source(IMAGES), asked, tmp_path / "run", own=Gift(encoder), world=World(0, 2))
    assert not (tmp_path / "run/1-pretrain").exists()
