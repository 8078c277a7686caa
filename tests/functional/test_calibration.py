import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.calibration import fit_temperature

FEW = settings(max_examples=25)
SEEDS = st.integers(0, 2**31)
SIZES = st.tuples(SEEDS, st.integers(1, 30), st.integers(2, 6), st.sampled_from([0.3, 3.0, 20.0]))
LEAST, MOST = 0.05, 20.0


def drawn(seed: int, images: int, clusters: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logits, and votes of ten for each image that lean towards them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn((images, clusters), generator=generator, dtype=torch.float64)
    voters = (plain * 2).softmax(dim=1).multinomial(10, replacement=True, generator=generator)
    return plain * scale, F.one_hot(voters, clusters).double().mean(dim=1)


def cross_entropy(logits: Tensor, votes: Tensor, temperature: float) -> float:
    """Mean over the images, in Python floats."""
    losses = []
    for row, shares in zip(logits.tolist(), votes.tolist(), strict=True):
        top = max(row)
        total = math.log(sum(math.exp((value - top) / temperature) for value in row))
        losses.append(
            sum(share * (total - (value - top) / temperature) for value, share in zip(row, shares, strict=True))
        )
    return sum(losses) / len(losses)


def slow_temperature(logits: Tensor, votes: Tensor) -> float:
    """The best of a grid of T, each 5 % above the one before, and then of finer grids around the best so far."""
    best, step = 1.0, 1.05
    grid = [LEAST * step**k for k in range(math.ceil(math.log(MOST / LEAST, step)))] + [MOST]
    for _ in range(4):
        best = min(grid, key=lambda temperature: cross_entropy(logits, votes, temperature))
        grid = [min(MOST, max(LEAST, best * step ** (k / 8))) for k in range(-8, 9)]
        step = step**0.125
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.3, 3.0, 20.0])
def test_the_temperature_is_that_of_a_slow_search(seed: int, scale: float) -> None:
    logits, votes = drawn(seed, 12, 3, scale)
    assert fit_temperature(logits, votes) == pytest.approx(slow_temperature(logits, votes), rel=1e-3)


@FEW
@given(SIZES)
def test_no_temperature_beside_it_is_better(size: tuple[int, int, int, float]) -> None:
    logits, votes = drawn(*size)
    found = fit_temperature(logits, votes)
    least = cross_entropy(logits, votes, found)
    for factor in (0.3, 0.9, 0.99, 1.01, 1.1, 3.0):
        assert least <= cross_entropy(logits, votes, min(MOST, max(LEAST, found * factor))) + 1e-9


@FEW
@given(SIZES)
def test_within_the_limits_the_derivative_is_zero(size: tuple[int, int, int, float]) -> None:
    logits, votes = drawn(*size)
    found = fit_temperature(logits, votes)
    assert LEAST <= found <= MOST
    # d/dx of the mean cross-entropy of softmax(x logits): the mean logit under the softmax less that under the votes.
    slope = float((((logits / found).softmax(dim=1) - votes) * logits).sum(dim=1).mean())
    if found < LEAST * 1.001:
        assert slope <= 1e-9  # sharper still would be better
    elif found > MOST * 0.999:
        assert slope >= -1e-9
    else:
        assert slope == pytest.approx(0, abs=1e-6)


@FEW
@given(SEEDS, st.integers(2, 6), st.floats(0.1, 15))
def test_a_known_temperature_is_recovered(seed: int, clusters: int, temperature: float) -> None:
    logits = torch.randn((20, clusters), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    assert fit_temperature(logits, (logits / temperature).softmax(dim=1)) == pytest.approx(temperature, rel=1e-6)


def test_a_temperature_by_hand() -> None:
    # Three of four votes for what is ahead by one: 1 / (1 + e^(-1 / T)) = 3 / 4, so that 1 / T = log 3. Two images of
    # which the votes together say the same have the same T.
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, torch.tensor([[0.75, 0.25], [0.25, 0.75]])) == pytest.approx(1 / math.log(3))
    assert fit_temperature(logits, torch.tensor([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(1 / math.log(3))
    assert fit_temperature(logits * 8, torch.tensor([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(8 / math.log(3))


@FEW
@given(SEEDS, st.integers(2, 6))
def test_the_limits_hold(seed: int, clusters: int) -> None:
    logits = torch.randn((10, clusters), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[0] = torch.arange(clusters) * 0.1  # never sure, even at the sharpest
    best = F.one_hot(logits.argmax(dim=1), clusters)
    assert fit_temperature(logits, best) == pytest.approx(LEAST)
    assert fit_temperature(logits, torch.full_like(logits, 1 / clusters)) == pytest.approx(MOST)
    assert fit_temperature(logits, F.one_hot(logits.argmin(dim=1), clusters)) == pytest.approx(MOST)


@pytest.mark.parametrize("height", [-87.0, 0.0, 1e4])
def test_logits_that_say_nothing_get_the_flattest(height: float) -> None:
    votes = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert LEAST <= fit_temperature(torch.full((2, 3), height), votes) <= MOST


@FEW
@given(SIZES, SEEDS)
def test_a_constant_on_all_logits_of_an_image_changes_nothing(size: tuple[int, int, int, float], seed: int) -> None:
    logits, votes = drawn(*size)
    votes = votes * 0.9 + 0.1 / votes.shape[1]  # none is sure: where all are, many T are equally good
    raised = torch.randn((len(logits), 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 50
    expected = fit_temperature(logits, votes)
    assert fit_temperature(logits + raised, votes) == pytest.approx(expected, rel=1e-5)
    assert fit_temperature(logits.log_softmax(dim=1), votes) == pytest.approx(expected, rel=1e-5)


@FEW
@given(SIZES, st.floats(0.5, 2))
def test_the_temperature_grows_with_the_logits(size: tuple[int, int, int, float], factor: float) -> None:
    logits, votes = drawn(*size)
    votes = votes * 0.9 + 0.1 / votes.shape[1]
    expected = min(MOST, max(LEAST, fit_temperature(logits, votes) * factor))
    found = fit_temperature(logits * factor, votes)
    if LEAST * 2.1 < expected < MOST / 2.1:  # no limit on either side
        assert found == pytest.approx(expected, rel=1e-5)
    assert LEAST <= found <= MOST


def test_single_precision_is_computed_in_double_and_inputs_stay() -> None:
    logits, votes = (tensor.float() for tensor in drawn(0, 20, 4, 3.0))
    before = logits.clone(), votes.clone()
    found = fit_temperature(logits, votes)
    assert type(found) is float
    assert found == fit_temperature(logits.double(), votes.double())
    assert torch.equal(logits, before[0])
    assert torch.equal(votes, before[1])
