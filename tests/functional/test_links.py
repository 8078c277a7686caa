import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spiceclust.functional.links import link_loss


def slow(logits: Tensor, pairs: list[tuple[int, int]], together: list[bool]) -> list[float]:
    """Pair by pair in Python floats."""
    losses = []
    for head in logits.double().softmax(dim=2).tolist():
        terms = []
        for (one, other), same in zip(pairs, together, strict=True):
            product = sum(p * q for p, q in zip(head[one], head[other], strict=True))
            terms.append(-math.log(product) if same else -math.log(max(1 - product, 1e-6)))
        losses.append(sum(terms) / len(terms))
    return losses


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 6), st.integers(2, 5), st.sampled_from([0.1, 3.0]))
def test_the_loss_is_its_slow_twin(seed: int, heads: int, images: int, clusters: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((heads, images, clusters), generator=generator) * scale
    pairs = torch.randint(images, (7, 2), generator=generator)
    together = torch.rand(7, generator=generator) < 0.5
    expected = slow(logits, [(one, other) for one, other in pairs.tolist()], together.tolist())
    assert link_loss(logits, pairs, together).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_by_hand_and_without_pairs() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])  # p.q = 1/2 whatever the second is
    both = torch.tensor([[0, 1], [1, 0]])
    assert link_loss(logits, both, torch.tensor([True, False])).tolist() == pytest.approx([math.log(2)])
    assert link_loss(logits, both[:0], torch.zeros(0, dtype=torch.bool)).tolist() == [0]


def test_gradients_pull_together_and_push_apart_and_stay_finite_where_probabilities_underflow() -> None:
    for same, direction in ((True, 1), (False, -1)):
        logits = torch.tensor([[[2.0, 0.0], [0.5, 0.0]]], requires_grad=True)
        link_loss(logits, torch.tensor([[0, 1]]), torch.tensor([same])).sum().backward()
        assert logits.grad is not None
        assert direction * float(logits.grad[0, 1, 0]) < 0  # a step against it moves image 1 towards cluster 0, or away
    extreme = torch.tensor([[[500.0, 0.0], [0.0, 500.0], [500.0, 0.0]]], requires_grad=True)
    loss = link_loss(extreme, torch.tensor([[0, 1], [0, 2]]), torch.tensor([True, False]))
    assert loss.tolist() == pytest.approx([(500 - math.log(2) - math.log(1e-6)) / 2], rel=1e-4)
    loss.sum().backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()
