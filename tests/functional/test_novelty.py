import pytest
import torch
from torch.nn import functional as F

from spiceclust.functional.novelty import NEIGHBOR, SIZE, make_reference, novelty


def around(centre: int, n: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """(n, dim) unit vectors near a coordinate axis."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.eye(dim)[centre] + 0.2 * torch.randn((n, dim), generator=generator), dim=1)


def test_novelty_is_its_slow_twin() -> None:
    training, others = around(0, 40), torch.cat([around(0, 10, seed=1), around(3, 5, seed=2)])
    found = novelty(others, make_reference(training))

    def fifth(point: torch.Tensor, among: torch.Tensor) -> float:
        return sorted(1 - float(point @ other) for other in among)[NEIGHBOR - 1]

    own = [fifth(training[i], torch.cat([training[:i], training[i + 1 :]])) for i in range(40)]
    expected = [sum(distance < fifth(point, training) for distance in own) / 40 for point in others]
    assert found.tolist() == pytest.approx(expected)


def test_what_is_unlike_all_training_images_is_1_and_their_like_is_spread_evenly() -> None:
    reference = make_reference(torch.cat([around(0, 500), around(1, 500, seed=1)]))
    assert (novelty(around(4, 50, seed=2), reference) == 1).all()
    like = novelty(torch.cat([around(0, 500, seed=3), around(1, 500, seed=4)]), reference)
    assert float(like.mean()) == pytest.approx(0.5, abs=0.05)
    assert 0 < float((like > 0.99).float().mean()) < 0.05


def test_no_more_than_the_size_is_kept_and_all_parts_of_the_order_are() -> None:
    reference = make_reference(torch.cat([around(0, SIZE), around(1, SIZE, seed=1)]))
    assert len(reference.embeddings) == len(reference.distances) == SIZE
    assert (reference.embeddings.argmax(dim=1) == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert (reference.distances.diff() >= 0).all()


def test_two_images_are_enough() -> None:
    reference = make_reference(around(0, 2))
    assert novelty(around(5, 1, seed=1), reference).tolist() == [1]
