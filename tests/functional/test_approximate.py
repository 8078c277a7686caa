from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional import approximate
from spiceclust.functional.approximate import approximate_neighbors, find_neighbors
from spiceclust.functional.neighbors import nearest_neighbors


def cloud(n: int, dim: int = 16, kinds: int = 20, seed: int = 0) -> Tensor:
    """Unit vectors around some centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn((kinds, dim), generator=generator)
    points = centres[torch.arange(n) % kinds] + torch.randn((n, dim), generator=generator) * 0.5
    return F.normalize(points, dim=1)


def slow_recall(found: Tensor, exact: Tensor) -> float:
    pairs = zip(found.tolist(), exact.tolist(), strict=True)
    return float(np.mean([len(set(some) & set(all_)) / len(all_) for some, all_ in pairs]))


def test_most_exact_neighbours_are_found_and_the_share_is_told() -> None:
    embeddings = cloud(4000)
    exact, _ = nearest_neighbors(embeddings, 30)
    found = approximate_neighbors(embeddings, 30)
    assert (found.indices.shape, found.indices.dtype) == ((4000, 30), torch.int64)
    assert 0.99 <= found.recall <= 1
    assert slow_recall(found.indices, exact) == pytest.approx(found.recall, abs=0.01)
    own = torch.arange(4000).unsqueeze(1)
    assert not (found.indices == own).any()
    assert all(len(set(row)) == 30 for row in found.indices.tolist())
    cosines = (embeddings.unsqueeze(1) * embeddings[found.indices]).sum(dim=2)
    assert (cosines.diff(dim=1) <= 1e-5).all()  # from the nearest on


def test_a_recall_of_one_is_reached_by_looking_everywhere() -> None:
    embeddings = cloud(600, dim=64, kinds=600)  # no structure to speak of
    exact, cosines = nearest_neighbors(embeddings, 20)
    found = approximate_neighbors(embeddings, 20, recall=1.0)
    assert found.recall == 1
    reached = (embeddings.unsqueeze(1) * embeddings[found.indices]).sum(dim=2)
    torch.testing.assert_close(reached, cosines, rtol=0, atol=1e-5)
    assert slow_recall(found.indices, exact) > 0.999  # equally near ones may change places


def test_a_lower_recall_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "FIRST_PROBES", 1)
    embeddings = cloud(4000, dim=64, kinds=4000)
    exact, _ = nearest_neighbors(embeddings, 10)
    found = approximate_neighbors(embeddings, 10, recall=0.0)
    assert found.recall < 0.9
    assert slow_recall(found.indices, exact) == pytest.approx(found.recall, abs=0.05)


@settings(max_examples=25)
@given(st.integers(4, 60), st.data())
def test_a_few_images_and_copies_of_images_will_do(n: int, data: st.DataObject) -> None:
    kinds = data.draw(st.integers(1, n))
    k = data.draw(st.integers(1, n - 2))
    embeddings = F.normalize(torch.randn((kinds, 4), generator=torch.Generator().manual_seed(n)), dim=1)
    embeddings = embeddings[torch.arange(n) % kinds]
    found = approximate_neighbors(embeddings, k).indices
    assert found.shape == (n, k)
    for image, row in enumerate(found.tolist()):
        assert image not in row
        assert len(set(row)) == k
        assert all(0 <= other < n for other in row)


def test_the_same_images_have_the_same_neighbours() -> None:
    embeddings = cloud(3000)
    before = embeddings.clone()
    first, second = (approximate_neighbors(embeddings, 5) for _ in range(2))
    assert torch.equal(first.indices, second.indices)
    assert first.recall == second.recall
    assert torch.equal(embeddings, before)


def test_all_pairs_are_compared_where_that_is_quick_or_nothing_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = cloud(500)
    exact, _ = nearest_neighbors(embeddings, 5)
    asked: list[int] = []

    def approximated(given: Tensor, k: int, **_: Any) -> approximate.Neighbors:
        asked.append(len(given))
        return approximate.Neighbors(exact, 0.5, exact=False)

    monkeypatch.setattr(approximate, "approximate_neighbors", approximated)
    for found in (find_neighbors(embeddings, 5), find_neighbors(embeddings, 5, exact_up_to=500)):
        assert torch.equal(found.indices, exact)
        assert (found.recall, found.exact) == (1, True)
    assert asked == []
    assert find_neighbors(embeddings, 5, exact_up_to=499).recall == 0.5
    assert asked == [500]
    assert find_neighbors(embeddings, 499, exact_up_to=499).recall == 1  # everyone is a neighbour
    monkeypatch.setattr(approximate, "faiss_is_there", lambda: False)
    assert find_neighbors(embeddings, 5, exact_up_to=499).recall == 1
    assert asked == [500]
