"""Heat maps of classifiers whose reasons are known, and of encoders that have none."""

import base64
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spiceclust.data.sources import open_source
from spiceclust.errors import ConfigError
from spiceclust.functional.novelty import Reference
from spiceclust.localisation import heat, heat_answer, heat_of_rows, stored
from spiceclust.models.designs import build
from spiceclust.models.encoders import Design, Encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.progress import Silent
from spiceclust.shipped import Model

SIDE = 16


class Colours(nn.Module):
    """Maps of what is red and what is blue, at half of the resolution: what it puts out is averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.pool = nn.Conv2d(3, 2, 1, bias=False), nn.AvgPool2d(2)
        with torch.no_grad():
            self.fine.weight.copy_(torch.tensor([[1.0, -1, -1], [-1.0, -1, 1]])[:, :, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.fine(images).relu())


class Flat(nn.Module):
    """Every pixel has its own weight, as after `flatten`: nothing is averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * SIDE**2, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).flatten(1))


def model_of(encoder: Encoder, n_clusters: int = 2) -> Model:
    """A model whose clusters are the first features of its encoder."""
    head = build_head(encoder.n_features, n_clusters)
    with torch.no_grad():
        head[0].weight.copy_(torch.eye(encoder.n_features))
        head[2].weight.copy_(torch.eye(n_clusters, encoder.n_features))
        head[0].bias.zero_()
        head[2].bias.zero_()
    about = encoder.design
    none = Reference(torch.zeros(0, about.n_features), torch.zeros(0))
    return Model(Classifier(encoder, head), none, about.image_size, about.channels, torch.device("cpu"), "")


def colours() -> Model:
    return model_of(build(Design("module", "Colours", 3, SIDE, 2), Colours()))


def spotted(n: int = 3) -> Tensor:
    """(n, 3, 16, 16) uint8: a red square at (2, 3), a blue one at (10, 9), each of 4 pixels a side, on dark noise."""
    images = torch.randint(0, 20, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[:, 0, 2:6, 3:7] = 255
    images[:, 2, 10:14, 9:13] = 255
    return images


def test_the_heat_of_a_cluster_lies_where_that_cluster_s_evidence_is() -> None:
    images = spotted()
    red, blue = (heat(colours(), images, torch.full((3,), cluster)) for cluster in (0, 1))
    assert red.shape == blue.shape == (3, SIDE, SIDE)
    assert red.dtype == np.float32
    for found, inside in ((red, np.s_[:, 1:7, 2:8]), (blue, np.s_[:, 9:15, 8:14])):  # smoothed by a place at the rim
        assert found.max() == 1
        assert found.min() == 0
        assert found[inside].sum() > 0.99 * found.sum()


def test_each_image_has_its_own_cluster_and_its_own_map() -> None:
    images, model, clusters = spotted(70), colours(), torch.arange(70) % 2  # more than go at once
    together = heat(model, images, clusters)
    for i in (0, 1, 69):
        np.testing.assert_allclose(together[i], heat(model, images[i : i + 1], clusters[i : i + 1])[0], atol=1e-5)


def test_the_model_stays_as_it_was_and_may_be_asked_from_several_threads() -> None:
    model, images = colours(), spotted()
    before = model.classify(images)[0]
    wanted = {cluster: heat(model, images, torch.full((3,), cluster)) for cluster in (0, 1)}
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: (i % 2, heat(model, images, torch.full((3,), i % 2))), range(40))
        for cluster, maps in found:
            np.testing.assert_array_equal(maps, wanted[cluster])
    assert torch.equal(model.classify(images)[0], before)
    assert all(not module._forward_hooks for module in model.classifier.modules())
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


@pytest.mark.parametrize(
    ("kind", "name", "size", "side"),
    [
        ("moco", "resnet_small", 16, 16),
        ("moco", "resnet_small", 32, 16),
        ("moco", "resnet18", 32, 16),
        ("moco", "wrn28_2", 32, 32),
        ("resnet", "resnet18", 64, 8),
        ("resnet", "resnet50", 64, 8),
        ("timm", "test_resnet", 64, 8),
        ("timm", "test_convnext", 64, 8),
        ("timm", "test_efficientnet", 64, 8),
    ],
)
def test_convolutional_encoders_have_maps(kind: str, name: str, size: int, side: int, timm: ModuleType) -> None:
    probe = build(Design(kind, name, 3, size, 0)).eval()
    width = probe(torch.rand(2, 3, size, size)).shape[1]
    model = model_of(build(Design(kind, name, 3, size, width)), 2)
    images = torch.randint(0, 255, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = heat(model, images, torch.tensor([0, 1]))
    assert found.shape == (2, side, side)
    assert np.isfinite(found).all()
    assert set(found.max(axis=(1, 2)).tolist()) <= {0, 1}


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_a_transformer_has_none(name: str, timm: ModuleType) -> None:
    encoder = build(Design("timm", name, 3, 160, 64))
    with pytest.raises(ConfigError, match=f"the encoder {name} does not average a map of features"):
        heat(model_of(encoder), torch.zeros((1, 3, 160, 160), dtype=torch.uint8), torch.tensor([0]))


def test_a_module_that_does_not_average_and_ready_embeddings_have_none() -> None:
    flat = build(Design("module", "Flat", 3, SIDE, 4), Flat())
    with pytest.raises(ConfigError, match="Flat does not average a map"):
        heat(model_of(flat), spotted(), torch.tensor([0, 1, 0]))
    ready = build(Design("embeddings", "clip.npy", 3, 8, 4))
    with pytest.raises(ConfigError, match="made of ready embeddings"):
        heat(model_of(ready), torch.rand(3, 4), torch.tensor([0, 1, 0]))


def test_rows_are_found_in_the_source_and_what_changed_has_no_map() -> None:
    images = spotted(5).permute(0, 2, 3, 1).contiguous().numpy()
    source = open_source(images)
    rows = [row for row, _ in source.read(range(5), SIDE)]
    rows[1] = dataclasses.replace(rows[1], sha256="of another")
    rows[3] = dataclasses.replace(rows[3], path="gone")
    labels = np.array([0, 1, 1, 0, 1])
    there, maps = heat_of_rows(colours(), source, rows, labels, [4, 3, 2, 1, 0], Silent())
    assert there == [4, 2, 0]
    wanted = heat(colours(), spotted(5)[[4, 2, 0]], torch.tensor([1, 1, 0]))
    np.testing.assert_array_equal(maps, stored(wanted))
    assert heat_of_rows(colours(), source, rows, labels, [3], Silent())[0] == []


def test_what_is_stored_has_few_places_and_a_hottest_one() -> None:
    maps = np.zeros((2, 32, 32), np.float32)
    maps[0, 4, 6], maps[0, 20, 20] = 1, 0.5
    found = stored(maps)
    assert found.shape == (2, 16, 16)
    assert found.dtype == np.uint8
    assert (found[0, 2, 3], found[0, 10, 10], np.count_nonzero(found)) == (255, 128, 2)
    assert stored(np.ones((1, 7, 7), np.float32)).shape == (1, 7, 7)


def test_a_page_is_answered_in_bytes() -> None:
    answer = heat_answer(colours(), spotted()[0], 1)
    values = np.frombuffer(base64.b64decode(answer["values"]), np.uint8).reshape(answer["side"], answer["side"])
    np.testing.assert_array_equal(values, stored(heat(colours(), spotted()[:1], torch.tensor([1])))[0])
    assert answer["cluster"] == 1
    with pytest.raises(ConfigError, match="cluster 2 is none of the 2 that the model knows"):
        heat_answer(colours(), spotted()[0], 2)
