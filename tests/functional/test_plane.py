import numpy as np
import pytest
import torch
from torch import Tensor

from spiceclust.functional import plane
from spiceclust.functional.plane import principal_plane


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
