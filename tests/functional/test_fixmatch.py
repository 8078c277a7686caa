import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.fixmatch import FixMatchLoss, fixmatch_loss, fixmatch_schedule

SEEDS = st.integers(0, 2**31)
SIZES = st.tuples(SEEDS, st.integers(1, 4), st.integers(1, 5), st.integers(2, 4))


def softmax(row: list[float]) -> list[float]:
    shares = [math.exp(value - max(row)) for value in row]
    return [share / sum(shares) for share in shares]


def slow_fixmatch(
    labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, threshold: float, weight: float
) -> tuple[float, float]:
    """Equations 3 and 4, image by image in Python floats."""
    known = [
        -math.log(softmax(row)[label]) for row, label in zip(labelled.tolist(), labels.tolist(), strict=True)
    ]  # equation 3
    unknown, used = [], []
    for teacher, learner in zip(weak.tolist(), strong.tolist(), strict=True):
        shares = softmax(teacher)
        used.append(max(shares) >= threshold)
        unknown.append(-math.log(softmax(learner)[shares.index(max(shares))]) if used[-1] else 0.0)  # equation 4
    return sum(known) / len(known) + weight * sum(unknown) / len(unknown), sum(used) / len(used)


def drawn(seed: int, labelled: int, unlabelled: int, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((labelled + 2 * unlabelled, clusters), generator=generator)
    known, weak, strong = logits.split([labelled, unlabelled, unlabelled])
    return known, torch.randint(clusters, (labelled,), generator=generator), weak, strong


@given(SIZES, st.sampled_from([0.3, 0.6, 0.95]), st.sampled_from([0.0, 1.0, 2.5]))
def test_fixmatch_is_its_slow_twin(size: tuple[int, int, int, int], threshold: float, weight: float) -> None:
    views = drawn(*size)
    loss, used = fixmatch_loss(*views, threshold, weight)
    expected = slow_fixmatch(*views, threshold, weight)
    assert float(loss) == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
    assert float(used) == pytest.approx(expected[1])


def test_fixmatch_by_hand() -> None:
    log3 = math.log(3)
    found = fixmatch_loss(
        labelled=torch.tensor([[log3, 0.0], [0.0, 0.0]]),  # shares (3/4, 1/4) and (1/2, 1/2)
        labels=torch.tensor([0, 1]),
        weak=torch.tensor([[0.0, 5.0], [0.1, 0.0], [5.0, 0.0], [0.0, 0.1]]),  # the first and third are sure
        strong=torch.tensor([[log3, 0.0], [9.0, 0.0], [log3, 0.0], [9.0, 0.0]]),  # 1/4 for 1, and 3/4 for 0
        threshold=0.95,
        unlabelled_weight=2.0,
    )
    known = (math.log(4 / 3) + math.log(2)) / 2
    unknown = (math.log(4) + math.log(4 / 3)) / 4  # those not used count in the mean
    assert isinstance(found, FixMatchLoss)
    assert float(found.loss) == pytest.approx(known + 2 * unknown, rel=1e-6)
    assert float(found.used) == 0.5


def test_a_confidence_that_equals_the_threshold_teaches_and_ties_teach_the_first_cluster() -> None:
    even = torch.zeros(1, 2)
    strong = torch.tensor([[math.log(3), 0.0]])
    known = math.log(2)
    reached = fixmatch_loss(even, torch.tensor([0]), even, strong, 0.5, 1.0)
    assert float(reached.used) == 1
    assert float(reached.loss) == pytest.approx(known + math.log(4 / 3), rel=1e-6)
    missed = fixmatch_loss(even, torch.tensor([0]), even, strong, 0.50001, 1.0)
    assert float(missed.used) == 0
    assert float(missed.loss) == pytest.approx(known, rel=1e-6)


def test_weak_views_teach_without_a_gradient_and_unsure_ones_not_at_all() -> None:
    labelled, labels, weak, strong = drawn(1, 3, 4, 3)
    weak = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    leaves = [tensor.clone().requires_grad_() for tensor in (labelled, weak, strong)]
    fixmatch_loss(leaves[0], labels, leaves[1], leaves[2], 0.95, 2.0).loss.backward()
    assert leaves[1].grad is None
    # cross-entropy's gradient is (softmax - one-hot) / number of images
    torch.testing.assert_close(leaves[0].grad, (labelled.softmax(dim=1) - F.one_hot(labels, 3)) / 3)
    taught = 2.0 * (strong.softmax(dim=1) - F.one_hot(torch.tensor([0, 2, 1, 0]), 3)) / 4
    taught[[1, 3]] = 0
    torch.testing.assert_close(leaves[2].grad, taught)


@given(SIZES)
def test_the_weight_scales_the_unlabelled_part_alone(size: tuple[int, int, int, int]) -> None:
    labelled, labels, weak, strong = drawn(*size)
    none, once, thrice = (fixmatch_loss(labelled, labels, weak, strong, 0.5, weight).loss for weight in (0.0, 1.0, 3.0))
    torch.testing.assert_close(none, F.cross_entropy(labelled, labels))
    torch.testing.assert_close(thrice - none, 3 * (once - none), rtol=1e-4, atol=1e-5)


@given(SIZES)
def test_the_order_of_images_and_the_names_of_clusters_do_not_matter(size: tuple[int, int, int, int]) -> None:
    labelled, labels, weak, strong = drawn(*size)
    clusters = labelled.shape[1]
    before = fixmatch_loss(labelled, labels, weak, strong, 0.6, 1.0)
    shuffled = fixmatch_loss(labelled.flip(0), labels.flip(0), weak.flip(0), strong.flip(0), 0.6, 1.0)
    names = (labels + 1) % clusters
    renamed = fixmatch_loss(labelled.roll(1, 1), names, weak.roll(1, 1), strong.roll(1, 1), 0.6, 1.0)
    for other in (shuffled, renamed):
        torch.testing.assert_close(other.loss, before.loss)
        assert other.used == before.used


def test_bfloat16_logits_are_scored_in_float32() -> None:
    labelled, labels, weak, strong = drawn(0, 3, 4, 3)
    low = fixmatch_loss(labelled.bfloat16(), labels, weak.bfloat16(), strong.bfloat16(), 0.5, 1.0)
    high = fixmatch_loss(
        labelled.bfloat16().float(), labels, weak.bfloat16().float(), strong.bfloat16().float(), 0.5, 1.0
    )
    assert low.loss.dtype == torch.float32
    assert torch.equal(low.loss, high.loss)


def test_schedule_by_hand() -> None:
    assert fixmatch_schedule(0, 100) == 1
    assert fixmatch_schedule(50, 100) == pytest.approx(math.cos(7 * math.pi / 32))
    assert fixmatch_schedule(100, 100) == pytest.approx(0.19509, abs=1e-5)  # sin(pi / 16)


@given(st.integers(1, 2**20))
def test_the_schedule_falls_and_stays_above_zero(steps: int) -> None:
    factors = [fixmatch_schedule(step, steps) for step in range(0, steps, max(1, steps // 50))]
    assert factors == sorted(factors, reverse=True)
    assert 0.195 <= factors[-1] <= factors[0] == 1
