import math
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.contrast import enqueue, info_nce

SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.07, 0.2, 0.5, 1.0])


def slow_info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    """-log(e^(q.k) / (e^(q.k) + sum of e^(q.n))), one query after the other in Python floats."""
    losses = []
    for query, key in zip(queries.tolist(), keys.tolist(), strict=True):

        def similarity(other: list[float], query: list[float] = query) -> float:
            return sum(a * b for a, b in zip(query, other, strict=True)) / temperature

        everything = math.exp(similarity(key)) + sum(math.exp(similarity(negative)) for negative in queue.tolist())
        losses.append(math.log(everything) - similarity(key))
    return sum(losses) / len(losses)


def unit(seed: int, *sizes: int, dim: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn((size, dim), generator=generator), dim=1) for size in sizes]


@given(SEEDS, st.integers(1, 5), st.integers(1, 7), TEMPERATURES)
def test_info_nce_is_its_slow_twin(seed: int, batch: int, size: int, temperature: float) -> None:
    queries, keys, queue = unit(seed, batch, batch, size)
    expected = slow_info_nce(queries, keys, queue, temperature)
    assert float(info_nce(queries, keys, queue, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        # q.k = 1 and q.n = 0, -1: -log(e^1 / (e^1 + e^0 + e^-1)) = log(1 + e^-1 + e^-2)
        (1.0, math.log(1 + math.exp(-1) + math.exp(-2))),
        # all of it divided by one half: log(1 + e^-2 + e^-4)
        (0.5, math.log(1 + math.exp(-2) + math.exp(-4))),
    ],
)
def test_info_nce_by_hand(temperature: float, expected: float) -> None:
    query, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert float(info_nce(query, query, queue, temperature)) == pytest.approx(expected, rel=1e-6)


def test_info_nce_is_the_mean_over_the_batch() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    queue = torch.tensor([[0.0, 1.0]])
    # first query: q.k = 1, q.n = 0; second: q.k = 0, q.n = 1
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert float(info_nce(queries, keys, queue, 1.0)) == pytest.approx(expected, rel=1e-6)


@given(SEEDS, st.integers(1, 5), st.integers(1, 7), TEMPERATURES)
def test_info_nce_is_the_cross_entropy_of_key_and_queue_in_one_row(
    seed: int, batch: int, size: int, temperature: float
) -> None:
    queries, keys, queue = unit(seed, batch, batch, size)
    logits = torch.stack([torch.stack([q @ k, *(q @ n for n in queue)]) for q, k in zip(queries, keys, strict=True)])
    expected = F.cross_entropy(logits / temperature, torch.zeros(batch, dtype=torch.int64))
    torch.testing.assert_close(info_nce(queries, keys, queue, temperature), expected, rtol=1e-4, atol=1e-5)


@given(SEEDS, st.integers(1, 5), st.integers(1, 7), TEMPERATURES)
def test_info_nce_keeps_its_limits(seed: int, batch: int, size: int, temperature: float) -> None:
    # Cosines lie in [-1, 1], so each negative adds e^((q.n - q.k) / t), between e^(-2 / t) and e^(2 / t), to the 1.
    loss = float(info_nce(*unit(seed, batch, batch, size), temperature))
    least = math.log1p(size * math.exp(-2 / temperature))
    most = math.log1p(size * math.exp(2 / temperature))
    assert least - 1e-4 <= loss <= most * (1 + 1e-5)


@given(SEEDS)
def test_the_order_of_images_and_of_the_queue_does_not_matter(seed: int) -> None:
    queries, keys, queue = unit(seed, 4, 4, 6)
    loss = info_nce(queries, keys, queue, 0.2)
    images, places = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(info_nce(queries[images], keys[images], queue, 0.2), loss)
    torch.testing.assert_close(info_nce(queries, keys, queue[places], 0.2), loss)


def test_only_the_queries_get_a_gradient_and_the_right_one() -> None:
    queries, keys, queue = unit(0, 3, 3, 5)
    queries.requires_grad_()
    before = keys.clone(), queue.clone()
    info_nce(queries, keys, queue, 0.2).backward()
    assert keys.grad is None
    assert queue.grad is None
    assert torch.equal(keys, before[0])
    assert torch.equal(queue, before[1])
    # d(-log p+)/dq = (sum of p_n n + p+ k - k) / t, and the mean over the batch divides by B
    for row in range(3):
        others = torch.cat([keys[row : row + 1], queue])
        shares = (others @ queries.detach()[row] / 0.2).softmax(dim=0)
        expected = (shares @ others - keys[row]) / 0.2 / 3
        torch.testing.assert_close(queries.grad[row], expected)


def test_bfloat16_projections_are_scored_in_float32() -> None:
    queries, keys, queue = (tensor.bfloat16() for tensor in unit(0, 3, 3, 5))
    loss = info_nce(queries, keys, queue, 0.2)
    assert loss.dtype == torch.float32
    expected = slow_info_nce(queries.float(), keys.float(), queue.float(), 0.2)
    assert float(loss) == pytest.approx(expected, rel=0.05)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 13))
def test_the_queue_holds_the_last_keys_first_in_first_out(batch: int, slots: int, steps: int) -> None:
    size = batch * slots
    queue = torch.full((size, 2), -1.0)
    last: deque[float] = deque([-1.0] * size, maxlen=size)
    for step in range(steps):
        keys = torch.arange(step * batch, (step + 1) * batch).float()
        enqueue(queue, keys[:, None].expand(-1, 2), step)
        last.extend(keys.tolist())
    assert sorted(queue[:, 0].tolist()) == sorted(last)
    assert torch.equal(queue[:, 0], queue[:, 1])


def test_the_queue_wraps_around_by_hand() -> None:
    queue = torch.zeros(4, 1)
    for step, expected in enumerate([[1, 1, 0, 0], [1, 1, 2, 2], [3, 3, 2, 2], [3, 3, 4, 4], [5, 5, 4, 4]]):
        enqueue(queue, torch.full((2, 1), step + 1.0), step)
        assert queue.flatten().tolist() == expected


def test_a_queue_that_batches_do_not_fill_evenly_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"\(5, 2\)"):
        enqueue(torch.zeros(5, 3), torch.zeros(2, 3), 0)
