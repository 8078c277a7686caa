import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.opinions import consensus, opinions, renumbered


def labellings(clusters: int, images: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.integers(0, clusters - 1), min_size=images, max_size=images).map(torch.tensor)


def slow_agreement(partition: Tensor, labels: Tensor, clusters: int) -> int:
    """Images that agree under the best of all numberings."""
    return max(
        sum(names[own] == other for own, other in zip(partition.tolist(), labels.tolist(), strict=True))
        for names in itertools.permutations(range(clusters))
    )


@given(st.integers(2, 4).flatmap(lambda c: st.tuples(st.just(c), labellings(c, 12), labellings(c, 12))))
def test_no_numbering_agrees_on_more_images(case: tuple[int, Tensor, Tensor]) -> None:
    clusters, partition, labels = case
    found = renumbered(partition, labels, clusters)
    assert int((found == labels).sum()) == slow_agreement(partition, labels, clusters)
    # It is a numbering: images stay together, and apart.
    assert torch.equal(found.unsqueeze(0) == found.unsqueeze(1), partition.unsqueeze(0) == partition.unsqueeze(1))
    assert 0 <= int(found.min()) <= int(found.max()) < clusters


def test_another_numbering_of_the_same_is_the_same() -> None:
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.equal(renumbered(torch.tensor([2, 0, 1])[labels], labels, 3), labels)


def test_a_vote_weighs_three_times_its_score_in_the_exponent() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    other = torch.tensor([1, 1, 0, 1])  # the numbers swapped, the last image elsewhere
    found = opinions(torch.stack([labels, other]), torch.tensor([5.0, 4.5]), labels, 2)
    doubt = math.exp(-1.5) / (1 + math.exp(-1.5))
    expected = torch.tensor([[1, 0], [1, 0], [0, 1], [doubt, 1 - doubt]])
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("behind", [0.0, 0.2, 5.0, 400.0])
def test_opinions_are_shares(behind: float) -> None:
    generator = torch.Generator().manual_seed(0)
    partitions = torch.randint(0, 5, (6, 40), generator=generator)
    scores = torch.linspace(0, -behind, 6) + 900  # no score is so high that its exponential is lost
    found = opinions(partitions, scores, partitions[0], 5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(40))
    assert float(found.min()) >= 0
    own = found[torch.arange(40), partitions[0]]
    assert float(own.mean()) < 0.9 if behind < 1 else float(own.min()) > 0.6
    if behind == 400:
        torch.testing.assert_close(found, F.one_hot(partitions[0], 5).float())


def test_what_was_given_stays() -> None:
    partitions = torch.tensor([[0, 1, 1], [1, 0, 0]])
    before = partitions.clone()
    opinions(partitions, torch.tensor([1.0, 1.0]), partitions[0], 2)
    assert torch.equal(partitions, before)


def test_consensus_is_the_mean_agreement_weighed_by_score() -> None:
    partitions = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]])
    scores = torch.tensor([1.0, 0.5, 1.0, 0.0])
    weights = [math.exp(3 * score) for score in scores.tolist()]
    shares = [[slow_agreement(one, other, 2) / 6 for other in partitions] for one in partitions]
    expected = [sum(w * s for w, s in zip(weights, row, strict=True)) / sum(weights) for row in shares]
    assert consensus(partitions, scores, 2).tolist() == pytest.approx(expected)
    assert shares[0] == [1, 1, 5 / 6, 4 / 6]
