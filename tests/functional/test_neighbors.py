import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.neighbors import TILE_BYTES, nearest_neighbors

ROUNDING = 1e-6  # of a cosine in float32

# The marks of an optimal Golomb ruler: no two pairs of them lie equally far apart, so no image has two neighbours at
# the same distance, and at 5 degrees a mark no two cosines are close.
RULER = (0, 1, 4, 9, 15, 22, 32, 34)


def on_circle(degrees: list[float]) -> Tensor:
    angles = np.radians(degrees)
    return torch.tensor(np.stack([np.cos(angles), np.sin(angles)], axis=1), dtype=torch.float32)


def slow_cosines(embeddings: Tensor, k: int) -> NDArray[np.float64]:
    """The K greatest cosines of each image with the others, by sorting all of them."""
    points = embeddings.double().tolist()
    rows = []
    for i, point in enumerate(points):
        cosines = [sum(a * b for a, b in zip(point, other, strict=True)) for other in points]
        rows.append(sorted(cosines[:i] + cosines[i + 1 :], reverse=True)[:k])
    return np.array(rows)


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Unit vectors in a few dimensions and a K that they allow."""
    n, dim = draw(st.integers(2, 30)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return F.normalize(torch.randn((n, dim), generator=generator), dim=1), draw(st.integers(1, n - 1))


@given(clouds())
def test_neighbours_are_their_slow_twin(cloud: tuple[Tensor, int]) -> None:
    embeddings, k = cloud
    indices, cosines = nearest_neighbors(embeddings, k)
    assert (indices.dtype, cosines.dtype) == (torch.int64, torch.float32)
    assert indices.shape == cosines.shape == (len(embeddings), k)
    np.testing.assert_allclose(cosines.numpy(), slow_cosines(embeddings, k), atol=ROUNDING)
    shown = (embeddings[:, None] * embeddings[indices]).sum(dim=2)  # the neighbours named have the cosines given
    torch.testing.assert_close(cosines, shown, rtol=0, atol=ROUNDING)
    for image, row in enumerate(indices.tolist()):
        assert image not in row
        assert len(set(row)) == k


def test_neighbours_by_hand() -> None:
    indices, cosines = nearest_neighbors(on_circle([0, 10, 30, 90]), 3)
    # distances in degrees: 0: 10 30 90; 10: 10 20 80; 30: 30 20 60; 90: 90 80 60
    assert indices.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    degrees = [[10, 30, 90], [10, 20, 80], [20, 30, 60], [60, 80, 90]]
    np.testing.assert_allclose(cosines.numpy(), np.cos(np.radians(degrees)), atol=ROUNDING)


@given(clouds(), st.integers(1, 31))
def test_tiles_of_every_size_give_what_the_whole_gives(cloud: tuple[Tensor, int], rows: int) -> None:
    embeddings, k = cloud
    whole_indices, whole = nearest_neighbors(embeddings, k)
    indices, tiled = nearest_neighbors(embeddings, k, tile_bytes=4 * len(embeddings) * rows)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=ROUNDING)
    # Where the two name different images, rounding has put two equally near ones into another order.
    differ = indices != whole_indices
    own = embeddings[:, None].expand(-1, k, -1)[differ]
    gap = ((embeddings[indices[differ]] - embeddings[whole_indices[differ]]) * own).sum(dim=1)
    assert torch.all(gap.abs() <= 2 * ROUNDING)


@pytest.mark.parametrize("rows", range(1, 10))
def test_tiles_name_the_same_neighbours(rows: int) -> None:
    embeddings = on_circle([5.0 * mark for mark in RULER])
    whole, _ = nearest_neighbors(embeddings, 7)
    tiled, _ = nearest_neighbors(embeddings, 7, tile_bytes=4 * 8 * rows)
    assert torch.equal(tiled, whole)


@given(st.lists(st.integers(0, 7), min_size=2, max_size=40), st.data())
def test_equally_near_neighbours_come_in_one_order_whatever_the_tile(kinds: list[int], data: st.DataObject) -> None:
    # Components of one half make every cosine exact, so that rounding cannot break a tie.
    signs = torch.tensor([[1 - 2 * (kind >> bit & 1) for bit in (0, 1, 2)] for kind in kinds])
    embeddings = torch.cat([signs, torch.ones(len(kinds), 1)], dim=1) / 2
    k = data.draw(st.integers(1, len(kinds) - 1))
    rows = data.draw(st.integers(1, len(kinds)))
    whole = nearest_neighbors(embeddings, k)
    tiled = nearest_neighbors(embeddings, k, tile_bytes=4 * len(kinds) * rows)
    assert torch.equal(tiled[0], whole[0])
    assert torch.equal(tiled[1], whole[1])


@given(st.permutations(range(len(RULER))), st.integers(1, 7))
def test_neighbours_follow_images_when_these_are_shuffled(order: list[int], k: int) -> None:
    embeddings = on_circle([5.0 * mark for mark in RULER])
    indices, _ = nearest_neighbors(embeddings, k)
    shuffled, _ = nearest_neighbors(embeddings[order], k)
    assert torch.equal(torch.tensor(order)[shuffled], indices[order])


def test_the_usual_tile_does_not_hold_all_images_at_once() -> None:
    n = 5000  # 5000 x 5000 x 4 bytes = 100 MB in one piece
    assert 4 * n * n > TILE_BYTES
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn((n, 2), generator=generator), dim=1)
    _, cosines = nearest_neighbors(embeddings, 1)
    some = torch.arange(0, n, 499)
    similar = embeddings[some] @ embeddings.T
    similar[torch.arange(len(some)), some] = -1
    torch.testing.assert_close(cosines[some, 0], similar.amax(dim=1), rtol=0, atol=ROUNDING)


def test_a_tile_smaller_than_one_row_still_works_and_leaves_the_input_alone() -> None:
    embeddings = on_circle([0, 10, 30, 90])
    before = embeddings.clone()
    assert torch.equal(nearest_neighbors(embeddings, 2, tile_bytes=1)[0], nearest_neighbors(embeddings, 2)[0])
    assert torch.equal(embeddings, before)


@pytest.mark.parametrize("k", [0, 4, 5])
def test_more_neighbours_than_other_images_are_refused(k: int) -> None:
    with pytest.raises(AssertionError, match=rf"\({k}, 4\)"):
        nearest_neighbors(on_circle([0, 10, 30, 90]), k)


@given(clouds(), st.data())
def test_some_images_have_the_neighbours_that_they_have_among_all(
    cloud: tuple[Tensor, int], data: st.DataObject
) -> None:
    embeddings, k = cloud
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(embeddings) - 1), max_size=10)), dtype=torch.int64)
    _, expected = nearest_neighbors(embeddings, k)
    indices, cosines = nearest_neighbors(embeddings, k, tile_bytes=4 * len(embeddings) * 3, rows=rows)
    assert indices.shape == cosines.shape == (len(rows), k)
    torch.testing.assert_close(cosines, expected[rows], rtol=0, atol=ROUNDING)
    assert not (indices == rows.unsqueeze(1)).any()
    shown = (embeddings[rows].unsqueeze(1) * embeddings[indices]).sum(dim=2)  # those named have the cosines given
    torch.testing.assert_close(cosines, shown, rtol=0, atol=ROUNDING)
    assert all(len(set(row)) == k for row in indices.tolist())
