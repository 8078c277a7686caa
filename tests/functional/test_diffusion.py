import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.diffusion import (
    ALPHA,
    LEAST,
    PRIORS,
    TOLERANCE,
    Spread,
    closeness,
    extend,
    softened,
    spread,
    transitions,
)

FEW = settings(max_examples=25)
SEEDS = st.integers(0, 2**31)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(torch.randn(shape, generator=generator), dim=1)


def slow_transitions(nodes: list[list[float]], k: int) -> list[list[float]]:
    """Node by node: sorted cosines, weights of both directions added, rows divided by their sums."""
    n = len(nodes)
    weights = [[0.0] * n for _ in range(n)]
    for i in range(n):
        cosines = {j: sum(a * b for a, b in zip(nodes[i], nodes[j], strict=True)) for j in range(n) if j != i}
        near = sorted(cosines, key=lambda j: -cosines[j])[:k]
        for j in near:
            weights[i][j] += math.exp((cosines[j] - 1) / max(1 - cosines[near[-1]], 1e-6))
    both = [[weights[i][j] + weights[j][i] for j in range(n)] for i in range(n)]
    return [[value / sum(row) for value in row] for row in both]


def slow_mass(walk: list[list[float]], sources: list[list[float]], steps: int = 400) -> list[list[float]]:
    """The sum over all lengths of walks, one step after another: (1 - alpha) sum alpha^t W^t Y."""
    total = [[0.0] * len(sources[0]) for _ in sources]
    for step in range(steps):
        for row, values in zip(total, sources, strict=True):
            for c, value in enumerate(values):
                row[c] += (1 - ALPHA) * ALPHA**step * value
        sources = [[sum(w * sources[j][c] for j, w in enumerate(row)) for c in range(len(sources[0]))] for row in walk]
    return total


def slow_spread(
    walk: list[list[float]], beliefs: list[list[float]], answered: list[int], answers: list[int]
) -> tuple[list[list[float]], float, float]:
    """Each weight is tried by leaving out each answer in turn and beginning anew."""
    clusters = range(len(beliefs[0]))
    here = [row.index(max(row)) for row in beliefs]
    counts = {c: answers.count(c) for c in set(answers)}
    mean = len(answers) / len(counts)
    asked = {*answers, *(here[node] for node in answered)}

    def mass(prior: float, kept: dict[int, int]) -> list[list[float]]:
        sources = []
        for i in range(len(walk)):
            if i in kept:
                sources.append([math.sqrt(mean / counts[c]) if kept[i] == c else 0.0 for c in clusters])
            else:
                sources.append([(prior if here[i] in asked else 1) * beliefs[i][c] for c in clusters])
        return slow_mass(walk, sources)

    everyone = dict(zip(answered, answers, strict=True))
    surprises = {}
    for prior in PRIORS:
        lost = []
        for node, answer in everyone.items():
            row = mass(prior, {other: told for other, told in everyone.items() if other != node})[node]
            lost.append(-math.log(row[answer] / sum(row)))
        surprises[prior] = sum(lost) / len(lost)
    best = max(prior for prior in PRIORS if surprises[prior] <= min(surprises.values()) + TOLERANCE)
    return mass(best, everyone), best, surprises[best]


@FEW
@given(SEEDS, st.integers(2, 8), st.integers(1, 9))
def test_transitions_are_their_slow_twin(seed: int, n: int, k: int) -> None:
    nodes = unit(torch.Generator().manual_seed(seed), n, 4)
    before = nodes.clone()
    found = transitions(nodes, k)
    torch.testing.assert_close(found, torch.tensor(slow_transitions(nodes.tolist(), min(k, n - 1))), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(n))
    assert torch.equal(nodes, before)


def test_copies_weigh_one_and_the_last_neighbour_1_over_e() -> None:
    assert closeness(torch.tensor([[1.0, 0.5, 0.2]])).tolist()[0] == pytest.approx([1, math.exp(-0.625), math.exp(-1)])
    assert closeness(torch.ones(1, 3)).tolist() == [[1, 1, 1]]


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_spreading_is_its_slow_twin(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    walk = transitions(unit(generator, 7, 3), 3)
    beliefs = softened(torch.rand((7, 3), generator=generator).softmax(dim=1))
    answered = torch.randperm(7, generator=generator)[:count]
    answers = torch.randint(3, (count,), generator=generator)
    mass, prior, surprise = slow_spread(walk.tolist(), beliefs.tolist(), answered.tolist(), answers.tolist())
    found, trust = spread(walk, beliefs, answered, answers)
    if trust.prior == prior:  # a surprise may lie on the edge
        torch.testing.assert_close(found.answers + found.present, torch.tensor(mass), atol=1e-4, rtol=1e-3)
        assert trust.surprise == pytest.approx(surprise, rel=1e-3)
    assert abs(trust.surprise - surprise) < TOLERANCE * 1.01


def blobs(seed: int) -> tuple[Tensor, Tensor]:
    """Three clear groups of 40 and which is which."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(3).repeat(40)
    return F.normalize(3 * torch.eye(6)[classes] + torch.randn((120, 6), generator=generator) * 0.5, dim=1), classes


def test_answers_that_confirm_leave_all_as_it_is_and_those_that_contradict_turn_a_group() -> None:
    nodes, classes = blobs(0)
    walk, answered = transitions(nodes), torch.arange(0, 120, 7)
    right = softened(F.one_hot(classes, 3).float())
    found, trust = spread(walk, right, answered, classes[answered])
    assert trust.prior == max(PRIORS)
    assert torch.equal((found.answers + found.present).argmax(dim=1), classes)
    swapped = softened(F.one_hot((classes + 1) % 3, 3).float())
    found, trust = spread(walk, swapped, answered, classes[answered])
    assert trust.prior < 0.01
    assert torch.equal((found.answers + found.present).argmax(dim=1), classes)


def test_many_answers_for_one_cluster_do_not_take_images_from_others_that_nobody_asked_about() -> None:
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(2).repeat(60)
    nodes = F.normalize(torch.eye(4)[classes] + torch.randn((120, 4), generator=generator) * 0.3, dim=1)  # they touch
    beliefs = softened(0.8 * F.one_hot(classes, 2).float() + 0.1)
    answered = (classes == 0).nonzero().squeeze(1)[:50]
    found, _ = spread(transitions(nodes), beliefs, answered, classes[answered])
    assert ((found.answers + found.present).argmax(dim=1)[classes == 1] == 1).float().mean() > 0.9


def test_without_answers_the_present_labels_are_all_there_is() -> None:
    nodes, classes = blobs(1)
    nothing = torch.zeros(0, dtype=torch.int64)
    found, trust = spread(transitions(nodes), softened(F.one_hot(classes, 3).float()), nothing, nothing)
    assert trust == (max(PRIORS), 0.0)
    assert not found.answers.any()
    assert torch.equal(found.present.argmax(dim=1), classes)


def test_other_images_take_one_step_to_their_nearest_nodes() -> None:
    nodes = torch.eye(2)
    at_nodes = Spread(torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[0.5, 0], [0, 0.5]]))
    image, beliefs = F.normalize(torch.tensor([[2.0, 1]]), dim=1), torch.tensor([[0.2, 0.8]])
    near, far = 1 - 2 / math.sqrt(5), 1 - 1 / math.sqrt(5)
    weights = [math.exp(-near / far), math.exp(-1)]
    one, other = (ALPHA * weight / sum(weights) for weight in weights)
    found = extend(at_nodes, nodes, image, beliefs, prior=0.3)
    assert found.answers.tolist()[0] == pytest.approx([one, 2 * other])
    rest = (1 - ALPHA) * 0.3
    assert found.present.tolist()[0] == pytest.approx([0.5 * one + rest * 0.2, 0.5 * other + rest * 0.8])


@pytest.mark.parametrize("clusters", [2, 10, 1500])
def test_no_cluster_is_impossible_and_rows_sum_to_one(clusters: int) -> None:
    found = softened(torch.eye(clusters)[:2])
    assert float(found.min()) > 0
    assert float(found.min()) >= min(LEAST, 1 / clusters) - 1e-6
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
