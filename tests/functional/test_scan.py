import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spiceclust.functional.scan import ConfidentLoss, confident_loss, scan_loss, select_confident

SIZES = st.tuples(
    st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 6), st.integers(2, 5), st.sampled_from([0.1, 3.0, 10.0])
)
WEIGHTS = st.sampled_from([0.0, 1.0, 5.0])


def softmax(row: list[float]) -> list[float]:
    shares = [math.exp(value - max(row)) for value in row]
    return [share / sum(shares) for share in shares]


def slow_scan_loss(anchors: Tensor, neighbors: Tensor, weight: float) -> list[float]:
    """Equation 2, image by image in Python floats."""
    losses = []
    for own, near in zip(anchors.tolist(), neighbors.tolist(), strict=True):
        p, q = [softmax(row) for row in own], [softmax(row) for row in near]
        products = [sum(a * b for a, b in zip(one, other, strict=True)) for one, other in zip(p, q, strict=True)]
        means = [sum(column) / len(p) for column in zip(*p, strict=True)]
        entropy = sum(share * math.log(share) for share in means)
        losses.append(-sum(math.log(product) for product in products) / len(p) + weight * entropy)
    return losses


def slow_select(probabilities: list[list[float]], threshold: float, floor: float) -> list[bool]:
    """All that are sure enough; when there are none, a share of each cluster, sorted by confidence."""
    chosen = [max(row) > threshold for row in probabilities]
    if any(chosen):
        return chosen
    for cluster in range(len(probabilities[0])):
        members = [i for i, row in enumerate(probabilities) if row.index(max(row)) == cluster]
        surest = sorted(members, key=lambda i: (-max(probabilities[i]), i))
        for i in surest[: math.ceil(floor * len(members) - 1e-9)]:
            chosen[i] = True
    return chosen


def slow_confident_loss(weak: Tensor, strong: Tensor, threshold: float, floor: float) -> tuple[float, float]:
    """The mean, over the clusters that teach, of each one's mean cross-entropy."""
    probabilities = weak.softmax(dim=1).tolist()
    chosen = slow_select(probabilities, threshold, floor)
    by_cluster: dict[int, list[float]] = {}
    for row, seen, used in zip(probabilities, strong.tolist(), chosen, strict=True):
        if used:
            cluster = row.index(max(row))
            by_cluster.setdefault(cluster, []).append(-math.log(softmax(seen)[cluster]))
    return sum(sum(of) / len(of) for of in by_cluster.values()) / len(by_cluster), sum(chosen) / len(chosen)


def drawn(seed: int, heads: int, batch: int, clusters: int, scale: float) -> tuple[Tensor, Tensor]:
    """Two sets of logits (H, B, C)."""
    first, second = torch.randn((2, heads, batch, clusters), generator=torch.Generator().manual_seed(seed)) * scale
    return first, second


# scan_loss


@given(SIZES, WEIGHTS)
def test_scan_loss_is_its_slow_twin(size: tuple[int, int, int, int, float], weight: float) -> None:
    anchors, neighbors = drawn(*size)
    expected = slow_scan_loss(anchors, neighbors, weight)
    assert scan_loss(anchors, neighbors, weight).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_scan_loss_by_hand() -> None:
    log3 = math.log(3)
    # shares (3/4, 1/4), (1/4, 3/4) for the images; (1/2, 1/2), (1/4, 3/4) for their neighbours
    anchors = torch.tensor([[[log3, 0.0], [0.0, log3]]])
    neighbors = torch.tensor([[[0.0, 0.0], [0.0, log3]]])
    # products 1/2 and 1/16 + 9/16 = 5/8; the mean of the images' shares is (1/2, 1/2), of entropy log 2
    expected = (math.log(2) + math.log(8 / 5)) / 2 - 5 * math.log(2)
    assert scan_loss(anchors, neighbors, 5.0).tolist() == pytest.approx([expected], rel=1e-6)


def test_the_limits_of_scan_loss() -> None:
    sure = torch.eye(4)[None] * 1e4
    assert scan_loss(sure, sure, 5.0).item() == pytest.approx(-5 * math.log(4), rel=1e-6)  # the least there is
    one = sure[:, :1].expand(-1, 4, -1)
    assert scan_loss(one, one, 5.0).item() == pytest.approx(0, abs=1e-6)  # all in one cluster: no entropy
    even = torch.zeros(1, 4, 4)
    assert scan_loss(even, even, 5.0).item() == pytest.approx(-4 * math.log(4), rel=1e-6)


@given(SIZES, WEIGHTS)
def test_scan_loss_keeps_its_limit(size: tuple[int, int, int, int, float], weight: float) -> None:
    anchors, neighbors = drawn(*size)
    assert (scan_loss(anchors, neighbors, weight) >= -weight * math.log(size[3]) - 1e-5).all()


@given(SIZES, WEIGHTS, st.randoms(use_true_random=False))
def test_neither_the_names_of_clusters_nor_the_order_of_images_matter(
    size: tuple[int, int, int, int, float], weight: float, random: Random
) -> None:
    anchors, neighbors = drawn(*size)
    loss = scan_loss(anchors, neighbors, weight)
    images, clusters = list(range(size[2])), list(range(size[3]))
    random.shuffle(images)
    random.shuffle(clusters)
    shuffled = scan_loss(anchors[:, images], neighbors[:, images], weight)
    torch.testing.assert_close(shuffled, loss, rtol=1e-5, atol=1e-5)
    renamed = scan_loss(anchors[:, :, clusters], neighbors[:, :, clusters], weight)
    torch.testing.assert_close(renamed, loss, rtol=1e-5, atol=1e-5)


def test_where_images_and_neighbours_are_sure_of_different_clusters_the_loss_still_teaches() -> None:
    # Probabilities underflow: their product is 0 in float32, and a clamped logarithm would have no gradient.
    anchors = torch.tensor([[[300.0, 0.0]]], requires_grad=True)
    neighbors = torch.tensor([[[0.0, 300.0]]])
    loss = scan_loss(anchors, neighbors, 0.0)
    assert loss.item() == pytest.approx(300 - math.log(2), rel=1e-6)
    loss.sum().backward()
    # p - r with p = (1, 0) and r the two products' shares, which are equal
    torch.testing.assert_close(anchors.grad, torch.tensor([[[0.5, -0.5]]]))


def test_a_head_gets_the_gradient_it_would_get_alone() -> None:
    anchors, neighbors = drawn(0, 3, 4, 5, 2.0)

    def gradient(one: Tensor, other: Tensor) -> Tensor:
        leaf = one.clone().requires_grad_()
        scan_loss(leaf, other, 5.0).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    together = gradient(anchors, neighbors)
    for head in range(3):
        part = slice(head, head + 1)
        alone = gradient(anchors[part], neighbors[part])
        assert float(alone.abs().max()) > 0
        torch.testing.assert_close(together[part], alone)


def test_bfloat16_logits_are_scored_in_float32() -> None:
    anchors, neighbors = (logits.bfloat16() for logits in drawn(0, 2, 4, 5, 2.0))
    loss = scan_loss(anchors, neighbors, 5.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, scan_loss(anchors.float(), neighbors.float(), 5.0))


# select_confident and confident_loss


@given(SIZES, st.sampled_from([0.4, 0.9, 0.999]), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_selection_is_its_slow_twin_and_never_empty(
    size: tuple[int, int, int, int, float], threshold: float, floor: float
) -> None:
    probabilities = drawn(*size)[0][0].softmax(dim=1)
    found = select_confident(probabilities, threshold, floor)
    assert found.dtype == torch.bool
    assert found.any()
    assert found.tolist() == slow_select(probabilities.tolist(), threshold, floor)


def test_selection_by_hand() -> None:
    first = torch.tensor([0.995, 0.2, 0.6, 0.99, 0.7, 0.8, 0.4])
    probabilities = torch.stack([first, 1 - first], dim=1)
    assert select_confident(probabilities, 0.9, 0.5).nonzero().flatten().tolist() == [0, 3]
    assert select_confident(probabilities, 0.995, 0.5).nonzero().flatten().tolist() == [0, 1, 3, 5]
    # none is above: of 0, 2, 3, 4, 5 in the first cluster ceil(2.5) = 3, of 1, 6 in the second one
    assert select_confident(probabilities, 0.995, 0.01).nonzero().flatten().tolist() == [0, 1]


def test_of_equally_sure_images_the_first_are_taken_and_the_share_is_exact() -> None:
    even = torch.full((100, 2), 0.5)
    assert select_confident(even, 0.9, 0.07).nonzero().flatten().tolist() == list(range(7))


@given(SIZES, st.sampled_from([0.4, 0.9, 0.999]), st.sampled_from([0.1, 0.5]))
def test_confident_loss_is_its_slow_twin(
    size: tuple[int, int, int, int, float], threshold: float, floor: float
) -> None:
    weak, strong = (logits[0] for logits in drawn(*size))
    found = confident_loss(weak, strong, threshold, floor)
    loss, used = slow_confident_loss(weak, strong, threshold, floor)
    assert isinstance(found, ConfidentLoss)
    assert float(found.loss) == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert float(found.used) == pytest.approx(used)


def test_confident_loss_by_hand() -> None:
    log3 = math.log(3)
    weak = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 0.1]])  # sure of 0, 0 and 1, and unsure
    strong = torch.tensor([[log3, 0.0], [0.0, log3], [0.0, log3], [5.0, 0.0]])  # 3/4, 1/4 and 3/4 for what is taught
    found = confident_loss(weak, strong, 0.99, 0.1)
    assert float(found.loss) == pytest.approx(((math.log(4 / 3) + math.log(4)) / 2 + math.log(4 / 3)) / 2, rel=1e-6)
    assert float(found.used) == 0.75


def test_weak_views_teach_without_a_gradient_and_unsure_ones_not_at_all() -> None:
    weak = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]], requires_grad=True)
    strong = drawn(0, 1, 4, 3, 1.0)[0][0].requires_grad_()
    confident_loss(weak, strong, 0.99, 0.1).loss.backward()
    assert weak.grad is None
    assert strong.grad is not None
    # cross-entropy's gradient is softmax - one-hot; two images share the half of cluster 0, one has that of cluster 1
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    weights = torch.tensor([[1 / 4], [0.0], [1 / 2], [1 / 4]])
    torch.testing.assert_close(strong.grad, weights * (strong.detach().softmax(dim=1) - targets))


@given(SIZES, st.sampled_from([0.6, 0.999]), st.randoms(use_true_random=False))
def test_self_labelling_heeds_neither_names_nor_order(
    size: tuple[int, int, int, int, float], threshold: float, random: Random
) -> None:
    weak, strong = (logits[0] for logits in drawn(*size))
    before = confident_loss(weak, strong, threshold, 0.3)
    images, clusters = list(range(len(weak))), list(range(weak.shape[1]))
    random.shuffle(images)
    random.shuffle(clusters)
    shuffled = confident_loss(weak[images], strong[images], threshold, 0.3)
    renamed = confident_loss(weak[:, clusters], strong[:, clusters], threshold, 0.3)
    for other in (shuffled, renamed):
        torch.testing.assert_close(other.loss, before.loss, rtol=1e-4, atol=1e-5)
        assert other.used == before.used


def test_bfloat16_logits_are_judged_in_float32() -> None:
    weak, strong = (logits[0].bfloat16() for logits in drawn(0, 1, 6, 4, 2.0))
    low, high = confident_loss(weak, strong, 0.9, 0.1), confident_loss(weak.float(), strong.float(), 0.9, 0.1)
    assert low.loss.dtype == torch.float32
    assert torch.equal(low.loss, high.loss)
