import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.spread import SAMPLE, effective_clusters, effective_rank, mean_cosine

FEW = settings(max_examples=25)


def vectors(n: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn((n, dim), generator=torch.Generator().manual_seed(seed)), dim=1)


@FEW
@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 100))
def test_mean_cosine_is_that_of_all_pairs(n: int, dim: int, seed: int) -> None:
    points = vectors(n, dim, seed).double()
    pairs = [float(points[i] @ points[j]) for i in range(n) for j in range(n) if i != j]
    assert mean_cosine(points.float()) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_mean_cosine_tells_points_that_are_nearly_one_apart() -> None:
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-3])
    apart = mean_cosine(F.normalize(torch.stack([right, up] * 50), dim=1))
    assert 1 - apart == pytest.approx(0.5e-6 * 50 / 99, rel=0.2)  # 1 - cos is 0.5e-6 for 50 of the 99 others


def test_effective_rank_by_hand() -> None:
    axes = torch.eye(3)
    assert effective_rank(torch.cat([axes[:2], -axes[:2]])) == pytest.approx(2)  # equal spread along two axes
    assert effective_rank(torch.stack([axes[0], -axes[0], axes[0]])) == pytest.approx(1)
    assert effective_rank(axes[:1].expand(7, -1)) == 0
    three_to_one = torch.stack([3 * axes[0], -3 * axes[0], axes[1], -axes[1]])
    assert effective_rank(three_to_one) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_the_rank_of_many_is_that_of_some() -> None:
    points = vectors(3 * SAMPLE, 5, 0)
    assert effective_rank(points) == pytest.approx(effective_rank(points[::3]), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "expected"), [([5, 5], 2), ([10, 0, 0], 1), ([4, 4, 4, 0], 3), ([2, 1, 1], 2 * math.sqrt(2))]
)
def test_effective_clusters_by_hand(sizes: list[int], expected: float) -> None:
    assert effective_clusters(torch.tensor(sizes)) == pytest.approx(expected)
