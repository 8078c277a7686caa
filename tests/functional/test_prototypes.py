import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.prototypes import (
    balanced_quotas,
    double_softmax_loss,
    labels_of,
    prototypes,
    pseudo_labels,
    typicality,
)

SEEDS = st.integers(0, 2**31)
RATIOS = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])


def slow_prototypes(
    embeddings: NDArray[np.float32], probabilities: NDArray[np.float32], quotas: list[int], ratio: float
) -> NDArray[np.float64]:
    """For each head and cluster: sort the images by probability, average the first, divide by the length."""
    centres = np.zeros((len(probabilities), len(quotas), embeddings.shape[1]))
    for head, of_head in enumerate(probabilities):
        for cluster, quota in enumerate(quotas):
            best = sorted(range(len(embeddings)), key=lambda image: (-of_head[image, cluster], image))
            taken = best[: max(1, math.floor(quota * ratio))]
            mean = np.mean([embeddings[image].astype(float) for image in taken], axis=0)
            centres[head, cluster] = mean / math.sqrt(sum(mean**2))
    return centres


def slow_pseudo_labels(
    embeddings: NDArray[np.float32], centres: NDArray[np.float32], quotas: list[int]
) -> list[list[int]]:
    """For each head and cluster: sort the images by cosine and take the first."""
    rows = []
    for of_head in centres:
        row: list[int] = []
        for centre, quota in zip(of_head, quotas, strict=True):
            cosines = [float(sum(a * b for a, b in zip(image, centre, strict=True))) for image in embeddings]
            row += sorted(range(len(embeddings)), key=lambda image: (-cosines[image], image))[:quota]
        rows.append(row)
    return rows


def slow_double_softmax_loss(logits: Tensor, labels: Tensor) -> float:
    """Softmax, then minus log softmax of that, in Python floats: mean over the batch, sum over the heads."""
    total = 0.0
    for of_head, own in zip(logits.tolist(), labels.tolist(), strict=True):
        losses = []
        for row, label in zip(of_head, own, strict=True):
            top = max(row)
            shares = [math.exp(value - top) for value in row]
            first = [share / sum(shares) for share in shares]
            losses.append(math.log(sum(math.exp(share) for share in first)) - first[label])
        total += sum(losses) / len(losses)
    return total


def drawn(seed: int, heads: int, images: int, clusters: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    """Unit embeddings (M, D), and probabilities (H, M, C) without ties in a column."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn((images, dim), generator=generator), dim=1)
    order = torch.rand((heads, images, clusters), generator=generator).argsort(dim=1)
    return embeddings, (order + 1) / (images + 1)


def drawn_exactly(seed: int, heads: int, images: int, clusters: int) -> tuple[Tensor, Tensor]:
    """Embeddings (M, 3) and prototypes (H, C, 3) in quarters: cosines are exact, in any order of summation, or tied."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randint(-4, 5, (images, 3), generator=generator) / 4
    return embeddings, torch.randint(-4, 5, (heads, clusters, 3), generator=generator) / 4


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    """A seed, H, M and quotas that any prior could ask for: unequal, some of them none."""
    images, clusters = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    quotas = draw(st.lists(st.integers(0, images), min_size=clusters, max_size=clusters))
    return draw(SEEDS), draw(st.integers(1, 3)), images, quotas


# balanced_quotas and labels_of


@given(st.integers(0, 200), st.integers(1, 20))
def test_balanced_quotas_deal_the_images_like_cards(images: int, clusters: int) -> None:
    dealt = [0] * clusters
    for image in range(images):
        dealt[image % clusters] += 1
    quotas = balanced_quotas(images, clusters)
    assert quotas.dtype == torch.int64
    assert quotas.tolist() == dealt
    assert sum(dealt) == images
    assert max(dealt) - min(dealt) <= 1


def test_balanced_quotas_by_hand() -> None:
    assert balanced_quotas(10, 4).tolist() == [3, 3, 2, 2]
    assert balanced_quotas(8, 4).tolist() == [2, 2, 2, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_labels_of_repeats_each_cluster_by_its_quota(quotas: list[int]) -> None:
    expected = [cluster for cluster, quota in enumerate(quotas) for _ in range(quota)]
    assert labels_of(torch.tensor(quotas)).tolist() == expected


# prototypes


@given(problems(), RATIOS)
def test_prototypes_are_their_slow_twin(problem: tuple[int, int, int, list[int]], ratio: float) -> None:
    seed, heads, images, quotas = problem
    embeddings, probabilities = drawn(seed, heads, images, len(quotas))
    expected = slow_prototypes(embeddings.numpy(), probabilities.numpy(), quotas, ratio)
    found = prototypes(embeddings, probabilities, torch.tensor(quotas), ratio)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_prototypes_by_hand() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    first = torch.tensor([0.9, 0.8, 0.3, 0.2])
    probabilities = torch.stack([first, 1 - first], dim=1)[None]
    half = prototypes(embeddings, probabilities, torch.tensor([2, 2]), 0.5)
    assert half.tolist() == [[[1, 0], [0, 1]]]  # one image each: the most confident
    whole = prototypes(embeddings, probabilities, torch.tensor([2, 2]), 1.0)
    # (1 + 0.8, 0 + 0.6) / 2 = (0.9, 0.3) = 0.3 (3, 1), of length 0.3 sqrt(10); the other is its mirror image
    long, short = 3 / math.sqrt(10), 1 / math.sqrt(10)
    torch.testing.assert_close(whole, torch.tensor([[[long, short], [short, long]]]))


def test_heads_have_prototypes_of_their_own() -> None:
    embeddings = torch.eye(2)
    probabilities = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]])
    found = prototypes(embeddings, probabilities, torch.tensor([1, 1]), 1.0)
    assert found.tolist() == [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]


@pytest.mark.parametrize(
    ("quota", "ratio", "taken"),
    [(100, 0.5, 50), (7, 0.5, 3), (1, 0.5, 1), (3, 0.1, 1), (0, 0.5, 1), (100, 0.53, 53), (150, 0.42, 63), (8, 1.0, 8)],
)
def test_the_ratio_of_the_quota_is_averaged_and_at_least_one(quota: int, ratio: float, taken: int) -> None:
    images = 200
    probabilities = torch.linspace(1, 0, images).view(1, -1, 1)
    # Every image points along an axis of its own, so that a prototype shows which images it averages.
    found = prototypes(torch.eye(images), probabilities, torch.tensor([quota]), ratio)
    assert (found[0, 0] > 0).nonzero().flatten().tolist() == list(range(taken))


def test_equally_confident_images_are_taken_in_their_order() -> None:
    found = prototypes(torch.eye(6), torch.full((1, 6, 2), 0.5), torch.tensor([3, 2]), 1.0)
    assert [(row > 0).nonzero().flatten().tolist() for row in found[0]] == [[0, 1, 2], [0, 1]]


@given(problems(), RATIOS)
def test_prototypes_are_unit_vectors(problem: tuple[int, int, int, list[int]], ratio: float) -> None:
    seed, heads, images, quotas = problem
    embeddings, probabilities = drawn(seed, heads, images, len(quotas))
    found = prototypes(embeddings, probabilities, torch.tensor(quotas), ratio)
    assert found.shape == (heads, len(quotas), embeddings.shape[1])
    torch.testing.assert_close(found.norm(dim=2), torch.ones(heads, len(quotas)))


@given(problems(), RATIOS, st.randoms(use_true_random=False))
def test_prototypes_follow_images_and_clusters_when_these_are_shuffled(
    problem: tuple[int, int, int, list[int]], ratio: float, random: Random
) -> None:
    seed, heads, images, quotas = problem
    embeddings, probabilities = drawn(seed, heads, images, len(quotas))
    given_quotas = torch.tensor(quotas)
    found = prototypes(embeddings, probabilities, given_quotas, ratio)
    order, clusters = list(range(images)), list(range(len(quotas)))
    random.shuffle(order)
    random.shuffle(clusters)
    shuffled = prototypes(embeddings[order], probabilities[:, order], given_quotas, ratio)
    torch.testing.assert_close(shuffled, found)
    renamed = prototypes(embeddings, probabilities[:, :, clusters], given_quotas[clusters], ratio)
    torch.testing.assert_close(renamed, found[:, clusters])


# pseudo_labels


@given(problems())
def test_pseudo_labels_are_their_slow_twin(problem: tuple[int, int, int, list[int]]) -> None:
    seed, heads, images, quotas = problem
    embeddings, centres = drawn_exactly(seed, heads, images, len(quotas))
    expected = slow_pseudo_labels(embeddings.numpy(), centres.numpy(), quotas)
    assert pseudo_labels(embeddings, centres, torch.tensor(quotas)).tolist() == expected


def test_pseudo_labels_by_hand() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]])
    centres = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]])
    # cosines with (1, 0): 1, 0.8, 0.6, -1; with (0.8, 0.6): 0.8, 1, 0.48 + 0.48 = 0.96, -0.8
    found = pseudo_labels(embeddings, centres, torch.tensor([2, 2]))
    assert found.tolist() == [[0, 1, 1, 2]]  # image 1 is taken twice, image 3 by nobody
    assert labels_of(torch.tensor([2, 2])).tolist() == [0, 0, 1, 1]


@given(problems())
def test_pseudo_labels_fill_the_quotas_with_different_images(problem: tuple[int, int, int, list[int]]) -> None:
    seed, heads, images, quotas = problem
    embeddings, centres = drawn_exactly(seed, heads, images, len(quotas))
    given_quotas = torch.tensor(quotas)
    found, clusters = pseudo_labels(embeddings, centres, given_quotas), labels_of(given_quotas)
    assert found.dtype == torch.int64
    assert found.shape == (heads, sum(quotas))
    for row in found:
        for cluster, quota in enumerate(quotas):
            assert len(set(row[clusters == cluster].tolist())) == quota


def test_equally_near_images_are_taken_in_their_order() -> None:
    # Components of one half make every cosine exact, whatever the order of summation.
    kinds = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -0.5]])
    embeddings = kinds[[1, 0, 1, 0, 1, 0]]
    assert pseudo_labels(embeddings, kinds[None], torch.tensor([4, 4])).tolist() == [[1, 3, 5, 0, 0, 2, 4, 1]]


@given(problems(), st.randoms(use_true_random=False))
def test_pseudo_labels_follow_images_when_these_are_shuffled(
    problem: tuple[int, int, int, list[int]], random: Random
) -> None:
    seed, heads, images, quotas = problem
    # Prototypes along the axes read off the columns, in which no two images are equal.
    embeddings = drawn(seed, 1, images, len(quotas))[1][0]
    centres = torch.stack([torch.eye(len(quotas)).roll(head, dims=0) for head in range(heads)])
    order = list(range(images))
    random.shuffle(order)
    found = pseudo_labels(embeddings, centres, torch.tensor(quotas))
    shuffled = pseudo_labels(embeddings[order], centres, torch.tensor(quotas))
    assert torch.equal(torch.tensor(order)[shuffled], found)


# double_softmax_loss


def logits_and_labels(seed: int, heads: int, batch: int, clusters: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((heads, batch, clusters), generator=generator) * scale
    return logits, torch.randint(clusters, (heads, batch), generator=generator)


SIZES = st.tuples(SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(2, 6), st.sampled_from([0.1, 3.0, 100.0]))


@given(SIZES)
def test_double_softmax_loss_is_its_slow_twin(size: tuple[int, int, int, int, float]) -> None:
    logits, labels = logits_and_labels(*size)
    assert float(double_softmax_loss(logits, labels)) == pytest.approx(
        slow_double_softmax_loss(logits, labels), rel=1e-5
    )


def test_double_softmax_loss_by_hand() -> None:
    sure = 200.0
    logits = torch.tensor([[[0.0, 0.0], [sure, 0.0]], [[sure, 0.0], [sure, 0.0]]])
    labels = torch.tensor([[0, 0], [1, 1]])
    # head 0: (1/2, 1/2) gives log(2 e^(1/2)) - 1/2 = log 2; (1, 0) on label 0 gives log(e + 1) - 1
    # head 1: (1, 0) on label 1 gives log(e + 1), twice
    expected = (math.log(2) + math.log(math.e + 1) - 1) / 2 + math.log(math.e + 1)
    assert float(double_softmax_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)


@given(SIZES)
def test_double_softmax_loss_keeps_its_limits(size: tuple[int, int, int, int, float]) -> None:
    # For one image the loss is f(p) = log(sum of e^(p_k)) - p_y with p on the simplex. f is convex (log-sum-exp less a
    # linear term), so its maximum is at a corner: log(e + C - 1) at any corner but y. At corner y the slope towards
    # corner k is f_k - f_y = (e^0 - e^1) / (e + C - 1) + 1 > 0, so by convexity that corner is the minimum,
    # log(e + C - 1) - 1. Both are met by logits that are sure; the sum over heads multiplies them by H.
    _, heads, _, clusters, _ = size
    logits, labels = logits_and_labels(*size)
    most = math.log(math.e + clusters - 1)
    assert heads * (most - 1) - 1e-5 <= float(double_softmax_loss(logits, labels)) <= heads * most + 1e-5
    right = F.one_hot(labels, clusters) * 1e4
    wrong = F.one_hot((labels + 1) % clusters, clusters) * 1e4
    assert float(double_softmax_loss(right, labels)) == pytest.approx(heads * (most - 1), rel=1e-5)
    assert float(double_softmax_loss(wrong, labels)) == pytest.approx(heads * most, rel=1e-5)


@given(SIZES)
def test_the_order_of_images_and_the_names_of_clusters_do_not_matter(size: tuple[int, int, int, int, float]) -> None:
    logits, labels = logits_and_labels(*size)
    loss = double_softmax_loss(logits, labels)
    torch.testing.assert_close(double_softmax_loss(logits.flip(1), labels.flip(1)), loss)
    clusters = logits.shape[2]
    torch.testing.assert_close(double_softmax_loss(logits.roll(1, dims=2), (labels + 1) % clusters), loss)


def test_a_head_gets_the_gradient_it_would_get_alone() -> None:
    logits, labels = logits_and_labels(0, 3, 4, 5, 2.0)

    def gradient(given_logits: Tensor, given_labels: Tensor) -> Tensor:
        leaf = given_logits.clone().requires_grad_()
        double_softmax_loss(leaf, given_labels).backward()
        assert leaf.grad is not None
        return leaf.grad

    together = gradient(logits, labels)
    for head in range(3):
        alone = gradient(logits[head : head + 1], labels[head : head + 1])
        assert torch.equal(together[head : head + 1], alone)
        assert float(alone.abs().max()) > 0
    others = logits.clone()
    others[1:] += torch.randn((2, 4, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(gradient(others, labels)[0], together[0])


def test_bfloat16_logits_are_scored_in_float32() -> None:
    logits, labels = logits_and_labels(0, 2, 4, 5, 2.0)
    loss = double_softmax_loss(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, double_softmax_loss(logits.bfloat16().float(), labels))


def test_typicality_is_the_cosine_to_the_mean_of_the_cluster() -> None:
    points = F.normalize(torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 0]]), dim=1)
    found = typicality(torch.tensor([0, 0, 1, -1]), points, 3)
    half = math.cos(math.pi / 8)  # the mean of directions 0 and 45 degrees lies at 22.5
    assert found.tolist() == pytest.approx([half, half, 1, 0], abs=1e-6)
