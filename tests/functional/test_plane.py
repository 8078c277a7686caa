import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spiceclust.functional import plane
from spiceclust.functional.plane import place_in_plane, principal_plane


def cloud(n: int = 300, dim: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, dim), generator=generator) @ torch.randn((dim, dim), generator=generator) + 3


def by_svd(embeddings: Tensor) -> np.ndarray:
    """The textbook's way, in numpy."""
    values = embeddings.double().numpy()
    centred = values - values.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    columns = []
    for direction in directions[:2]:
        largest = max(range(len(direction)), key=lambda i: abs(direction[i]))
        columns.append(centred @ direction * (1 if direction[largest] > 0 else -1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("at_once", [65_536, 64])
def test_it_is_the_textbook_s(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "AT_ONCE", at_once)
    for seed in range(5):
        found = principal_plane(cloud(seed=seed))
        assert (found.shape, found.dtype) == ((300, 2), torch.float32)
        np.testing.assert_allclose(found.numpy(), by_svd(cloud(seed=seed)), atol=1e-4)


def test_four_points_by_hand() -> None:
    corners = torch.tensor([[0.0, 0, -4], [0, 2, 0], [0, -2, 0], [0, 0, 4]])
    assert principal_plane(corners).tolist() == [[-4, 0], [0, 2], [0, -2], [4, 0]]


def test_the_sign_is_that_of_the_largest_entry_whatever_the_solver_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = principal_plane(cloud())
    solve = torch.linalg.eigh

    def turned(matrix: Tensor) -> object:
        values, vectors = solve(matrix)
        return torch.return_types.linalg_eigh((values, -vectors))  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    torch.testing.assert_close(principal_plane(cloud()), expected, rtol=0, atol=0)


def test_one_feature_is_a_line_and_equal_images_are_a_point() -> None:
    line = principal_plane(torch.tensor([[1.0], [2], [6]]))
    assert line.tolist() == [[-2, 0], [-1, 0], [3, 0]]
    assert principal_plane(torch.ones((5, 3))).tolist() == [[0, 0]] * 5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """openTSNE is there, or something that takes what it takes; and what it was asked for."""
    calls: list[dict[str, Any]] = []

    class Embedding(np.ndarray):  # the real one is a child of an array, too
        pass

    def tsne(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(fit=lambda x: (options["initialization"] + x[:, :2]).view(Embedding))

    stand_in = SimpleNamespace(TSNE=tsne, initialization=SimpleNamespace(rescale=lambda x: x / 1e4))
    find = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "openTSNE", stand_in)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: stand_in if name == "openTSNE" else find(name))
    return calls


def test_t_sne_begins_with_the_plane_where_it_is_installed(asked: list[dict[str, Any]]) -> None:
    embeddings = cloud()
    places, how = place_in_plane(embeddings, seed=5)
    start = principal_plane(embeddings).double().numpy() / 1e4
    np.testing.assert_array_equal(asked[0]["initialization"], start)
    assert (asked[0]["random_state"], how) == (5, "t-SNE")
    assert (type(places), places.dtype) == (Tensor, torch.float32)
    np.testing.assert_allclose(places.numpy(), start + embeddings[:, :2].numpy(), rtol=1e-6)


def test_the_plane_it_is_for_few_images_for_many_and_without_the_extra(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "TSNE_UP_TO", 500)
    for n in (99, 501):
        places, how = place_in_plane(cloud(n), seed=0)
        torch.testing.assert_close(places, principal_plane(cloud(n)), rtol=0, atol=0)
        assert how == "PCA"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert place_in_plane(cloud(), seed=0)[1] == "PCA"
    assert asked == []


def test_the_real_t_sne_keeps_heaps_apart_and_gives_the_same_again() -> None:
    pytest.importorskip("openTSNE")
    heaps = torch.nn.functional.normalize(torch.eye(8)[:3].repeat(50, 1) + cloud(150, 8) * 0.02, dim=1)
    places, how = place_in_plane(heaps, seed=0)
    assert (how, places.shape, places.dtype) == ("t-SNE", (150, 2), torch.float32)
    torch.testing.assert_close(place_in_plane(heaps, seed=0)[0], places, rtol=0, atol=0)
    near = torch.cdist(places, places).topk(2, largest=False).indices[:, 1]
    assert (near % 3 == torch.arange(150) % 3).all()
