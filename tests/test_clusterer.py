import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from spiceclust import ConfigError, RunFolderError, SourceError, Spice
from synthetic import shapes
from test_pipeline import TINY, contents


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return shapes(10)[0]


@pytest.fixture(scope="module")
def model(images: np.ndarray) -> Spice:
    return Spice(3, config=TINY, random_state=0).fit(images)


def test_attributes_have_the_contract_s_shapes(model: Spice, images: np.ndarray) -> None:
    assert (model.labels_.shape, model.labels_.dtype) == ((30,), np.int64)
    assert (model.probabilities_.shape, model.probabilities_.dtype) == ((30, 3), np.float32)
    assert (model.reliable_.shape, model.reliable_.dtype) == ((30,), bool)
    assert model.paths_ == [str(i) for i in range(30)]
    assert set(model.labels_) <= {0, 1, 2}


def test_predict_gives_labels_again(model: Spice, images: np.ndarray) -> None:
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    np.testing.assert_array_equal(model.predict_proba(images), model.probabilities_)
    assert model.transform(images).shape == (30, 128)


def test_fit_predict_is_fit_then_labels(model: Spice, images: np.ndarray) -> None:
    np.testing.assert_array_equal(clone(model).fit_predict(images), model.labels_)


def test_the_constructor_stores_and_does_nothing_else() -> None:
    odd = Spice(n_clusters="many", preset="none", views=3, random_state="x")
    assert odd.get_params()["n_clusters"] == "many"
    assert clone(odd).get_params() == odd.get_params()
    with pytest.raises(ConfigError, match="n_clusters"):
        Spice(n_clusters="many", random_state=0).fit(shapes(2)[0])


def test_save_and_load_keep_everything(model: Spice, images: np.ndarray, tmp_path: Path) -> None:
    model.save(tmp_path / "runs/shapes")
    loaded = Spice.load(tmp_path / "runs/shapes")
    np.testing.assert_array_equal(loaded.labels_, model.labels_)
    np.testing.assert_array_equal(loaded.probabilities_, model.probabilities_)
    np.testing.assert_array_equal(loaded.reliable_, model.reliable_)
    np.testing.assert_array_equal(loaded.predict(images), model.labels_)
    assert loaded.n_clusters == 3
    before = contents(tmp_path / "runs/shapes")
    with pytest.raises(RunFolderError, match="is not empty"):
        model.save(tmp_path / "runs/shapes")
    assert contents(tmp_path / "runs/shapes") == before


def test_a_method_is_kept(images: np.ndarray, tmp_path: Path) -> None:
    model = Spice(3, method="scan", config=TINY, random_state=0).fit(images)
    model.save(tmp_path / "run")
    loaded = Spice.load(tmp_path / "run")
    assert loaded.method == loaded.result_.run["config"]["method"] == "scan"
    np.testing.assert_array_equal(loaded.predict(images), model.labels_)
    with pytest.raises(ConfigError, match="unknown method 'scam'"):
        clone(model).set_params(method="scam").fit(images)


def test_a_list_of_paths_keeps_its_order_and_marks_what_cannot_be_read(tmp_path: Path, images: np.ndarray) -> None:
    paths: list[str | Path] = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    paths.insert(4, tmp_path / "missing.png")
    model = Spice(3, config=TINY, random_state=0).fit(paths)
    assert model.paths_ == [str(path) for path in paths]
    assert model.labels_[4] == -1
    assert not model.probabilities_[4].any()
    assert not model.reliable_[4]
    assert (np.delete(model.labels_, 4) >= 0).all()


def test_colour_arrays_work_and_a_grey_model_takes_colour_and_other_sizes(model: Spice, images: np.ndarray) -> None:
    colour = np.repeat(images[..., None], 3, axis=3)
    np.testing.assert_array_equal(model.predict(colour), model.labels_)
    assert model.predict(np.repeat(np.repeat(colour, 2, 1), 2, 2)).shape == (30,)
    tinted = colour.copy()
    tinted[..., 2] //= 2
    assert Spice(3, config=TINY, random_state=0).fit(tinted).result_.run["config"]["channels"] == 3


def test_before_fit_there_is_nothing_to_predict_with(images: np.ndarray) -> None:
    with pytest.raises(NotFittedError, match="call fit"):
        Spice(3).predict(images)


def test_labels_are_ignored(images: np.ndarray, model: Spice) -> None:
    again = clone(model).fit(images, y=np.arange(30))
    np.testing.assert_array_equal(again.probabilities_, model.probabilities_)


def test_random_state_none_differs_and_a_random_state_repeats(images: np.ndarray) -> None:
    first = Spice(3, config=TINY, random_state=np.random.RandomState(5)).fit(images)
    second = Spice(3, config=TINY, random_state=np.random.RandomState(5)).fit(images)
    np.testing.assert_array_equal(first.probabilities_, second.probabilities_)
    drawn = {Spice(3, config=TINY).fit(images).result_.run["seed"] for _ in range(2)}
    assert len(drawn) == 2


@pytest.mark.parametrize("source", [[], np.zeros((3, 3)), np.zeros((4, 8, 8, 7), np.uint8), "/no/such/folder"])
def test_unusable_sources_are_source_errors(source: object) -> None:
    with pytest.raises(SourceError) as caught:
        Spice(3, random_state=0).fit(source)
    assert "\n" not in str(caught.value)


def test_loading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        Spice.load(tmp_path)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_outlive_the_model(
    twin: Callable[[Spice], Spice], images: np.ndarray, tmp_path: Path
) -> None:
    model = Spice(3, config=TINY, random_state=0).fit(images)
    labels, second = model.labels_, twin(model)
    del model
    gc.collect()
    np.testing.assert_array_equal(second.predict(images), labels)
    second.save(tmp_path / "run")
    loaded = Spice.load(tmp_path / "run")
    assert {**loaded.get_params(), "verbose": False} == second.get_params()
    np.testing.assert_array_equal(clone(loaded).fit(images).labels_, labels)


def test_no_temporary_folder_stays(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = Spice(3, config=TINY, random_state=0).fit(images)
    model.fit(images)
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1
    del model
    gc.collect()
    with pytest.raises(SourceError):
        Spice(20, random_state=0).fit(images)
    assert not list(tmp_path.iterdir())


# An encoder and views of one's own


class Pooled(nn.Module):
    """Four averages of each channel, and a scale that stage 3 can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(12))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * self.scale


def darker(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.float() / 255 * (0.5 + 0.5 * torch.rand((len(images), 1, 1, 1), generator=generator))


QUICK = {name: part for name, part in TINY.items() if name != "pretrain"}


def test_one_s_own_encoder_and_views_fit_predict_save_and_load(images: np.ndarray, tmp_path: Path) -> None:
    module = Pooled()
    model = Spice(3, encoder=module, views=darker, config=QUICK, random_state=0).fit(images)
    np.testing.assert_array_equal(model.predict_proba(images), model.probabilities_)
    assert model.transform(images).shape == (30, 12)
    config = model.result_.run["config"]
    assert config["encoder"] == f"module:{__name__}.Pooled"
    assert config["own_views"] == f"{__name__}.darker"
    np.testing.assert_array_equal(clone(model).fit(images).probabilities_, model.probabilities_)

    model.save(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Pooled, is your own: give it, Spice\.load\(folder, encoder=\.\.\.\)"):
        Spice.load(tmp_path / "run")
    loaded = Spice.load(tmp_path / "run", encoder=Pooled())
    np.testing.assert_array_equal(loaded.predict_proba(images), model.probabilities_)
    with pytest.raises(ConfigError, match="are a function of one's own"):
        loaded.fit(images)  # what made its views is not in the folder
    again = Spice.load(tmp_path / "run", encoder=Pooled(), views=darker).fit(images)
    np.testing.assert_array_equal(again.probabilities_, model.probabilities_)


def test_other_weights_or_views_give_another_result(images: np.ndarray) -> None:
    module = Pooled()
    first = Spice(3, encoder=module, config=QUICK, random_state=0).fit(images)
    with torch.no_grad():
        module.scale[:6] = 0.01
    second = Spice(3, encoder=module, config=QUICK, random_state=0).fit(images)
    third = Spice(3, encoder=module, views=darker, config=QUICK, random_state=0).fit(images)
    digests = [model.result_.run["config"]["encoder_digest"] for model in (first, second, third)]
    assert digests[0] != digests[1] == digests[2]
    assert not np.array_equal(first.probabilities_, second.probabilities_)
    assert not np.array_equal(second.probabilities_, third.probabilities_)


def test_a_run_that_has_its_encoder_takes_no_other(model: Spice, tmp_path: Path) -> None:
    model.save(tmp_path / "run")
    with pytest.raises(ConfigError, match="moco, is in the run: give none"):
        Spice.load(tmp_path / "run", encoder=Pooled())


def test_a_model_of_embeddings_predicts_from_arrays_of_them(images: np.ndarray, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6))
    np.save(tmp_path / "e.npy", rows)
    model = Spice(3, encoder=f"embeddings:{tmp_path / 'e.npy'}", config=QUICK, random_state=0).fit(images)
    np.testing.assert_array_equal(model.predict_proba(rows), model.probabilities_)
    np.testing.assert_allclose(model.transform(rows), rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(SourceError, match="cannot look at images"):
        model.predict(images)
