from collections.abc import Iterator

import torch
from torch import Tensor

from spiceclust.training.partners import Partners

ROWS = torch.arange(1000) % 4
NEIGHBORS = torch.tensor([[1, 2], [2, 3], [3, 0], [0, 1]])


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def refuse() -> Tensor:
    raise AssertionError("nobody asked for neighbours")


def test_before_the_first_step_images_are_their_own_partners() -> None:
    partners = Partners(refuse, 1.0, first=5, every=2)
    generator = draws()
    assert partners.of(ROWS, 4, generator) is ROWS
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=draws()))  # and nothing is drawn


def test_without_a_share_neighbours_are_never_sought() -> None:
    assert Partners(refuse, 0.0, first=0, every=1).of(ROWS, 10, draws()) is ROWS


def test_a_share_of_the_images_gets_any_of_its_neighbours() -> None:
    found = Partners(lambda: NEIGHBORS, 0.3, first=0, every=1).of(ROWS, 0, draws())
    swapped = found != ROWS
    assert 0.25 < swapped.float().mean() < 0.35
    place = (NEIGHBORS[ROWS] == found.unsqueeze(1))[swapped]
    assert place.sum(dim=1).eq(1).all()  # always a neighbour
    assert 0.4 < place[:, 0].float().mean() < 0.6  # as often the second as the first


def test_every_image_is_swapped_at_a_share_of_one() -> None:
    assert (Partners(lambda: NEIGHBORS, 1.0, first=0, every=1).of(ROWS, 0, draws()) != ROWS).all()


def test_neighbours_are_sought_at_the_first_step_and_each_time_they_are_old() -> None:
    answers: Iterator[Tensor] = iter([torch.full((4, 1), 7), torch.full((4, 1), 8), torch.full((4, 1), 9)])
    partners = Partners(lambda: next(answers), 1.0, first=3, every=2)
    found = [int(partners.of(torch.tensor([0]), number, draws())) for number in range(8)]
    assert found == [0, 0, 0, 7, 7, 8, 8, 9]


def test_a_start_in_the_middle_seeks_at_once() -> None:
    assert int(Partners(lambda: torch.full((4, 1), 7), 1.0, first=3, every=2).of(torch.tensor([0]), 4, draws())) == 7
