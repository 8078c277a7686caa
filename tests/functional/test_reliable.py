import math
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spiceclust.functional.reliable import NEIGHBOR_GRID, agreement, choose_k, consistency, select_reliable

BAR = Fraction(1, 10)  # quantile of the agreeing images' confidence below which an image is left out


def slow_agreement(labels: list[int], neighbors: list[list[int]]) -> list[Fraction]:
    return [
        Fraction(sum(labels[near] == labels[image] for near in row), len(row)) for image, row in enumerate(neighbors)
    ]


def slow_consistency(labels: list[int], neighbors: list[list[int]], clusters: int) -> Fraction:
    """Mean agreement over what chance gives: two images drawn with replacement have one label with probability a0.

    Times the share of the clusters that hold images.
    """
    n = len(labels)
    chance = Fraction(sum(labels[i] == labels[j] for i in range(n) for j in range(n)), n * n)
    mean = sum(slow_agreement(labels, neighbors), Fraction(0)) / n
    filled = Fraction(len(set(labels)), clusters)
    return Fraction(0) if chance == 1 else (mean - chance) / (1 - chance) * filled


def slow_choose_k(labels: list[int], neighbors: list[list[int]], threshold: Fraction) -> int:
    most = len(neighbors[0])
    best_k, best = 0, Fraction(-1)
    for k in [k for k in NEIGHBOR_GRID if k <= most] or [most]:
        agreeing = sum(share >= threshold for share in slow_agreement(labels, [row[:k] for row in neighbors]))
        if k * Fraction(agreeing, len(labels)) > best:
            best_k, best = k, k * Fraction(agreeing, len(labels))
    return best_k


def slow_select_reliable(
    labels: list[int],
    confidence: list[float],
    agreements: list[float],
    clusters: int,
    threshold: float,
    floor: Fraction,
) -> list[bool]:
    reliable = [False] * len(labels)
    for cluster in range(clusters):
        members = [image for image in range(len(labels)) if labels[image] == cluster]
        if not members:
            continue
        agreeing = [image for image in members if agreements[image] >= threshold]
        sure = sorted(confidence[image] for image in agreeing)
        if sure:
            place = BAR * (len(sure) - 1)  # the quantile lies between two values: all above the lower one pass
            low = sure[math.floor(place)]
            keeps_low = place == math.floor(place) or low == sure[math.ceil(place)]
            agreeing = [
                image for image in agreeing if confidence[image] > low or (keeps_low and confidence[image] == low)
            ]
        least = max(1, math.ceil(floor * len(members)))
        if len(agreeing) < least:
            agreeing = sorted(members, key=lambda image: (-agreements[image], -confidence[image], image))[:least]
        for image in agreeing:
            reliable[image] = True
    return reliable


@st.composite
def labellings(draw: st.DrawFn, most_neighbors: int = 12) -> tuple[list[int], list[list[int]], int]:
    """Labels, the neighbours of each image (others, all different), and C; some clusters may be empty."""
    n, clusters = draw(st.integers(2, 20)), draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, clusters - 1), min_size=n, max_size=n))
    k, random = draw(st.integers(1, min(n - 1, most_neighbors))), Random(draw(st.integers(0, 2**31)))
    return labels, [random.sample([j for j in range(n) if j != i], k) for i in range(n)], clusters


# agreement


@given(labellings())
def test_agreement_is_its_slow_twin(labelling: tuple[list[int], list[list[int]], int]) -> None:
    labels, neighbors, _ = labelling
    found = agreement(torch.tensor(labels), torch.tensor(neighbors))
    expected = torch.tensor([float(share) for share in slow_agreement(labels, neighbors)])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_agreement_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    neighbors = torch.tensor([[1, 2], [0, 2], [3, 1], [2, 0]])
    assert agreement(labels, neighbors).tolist() == [0.5, 0.5, 0.5, 0.5]
    assert agreement(labels, neighbors[:, :1]).tolist() == [1, 1, 1, 1]
    assert agreement(labels, neighbors[:, 1:]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("threshold", ["0.9", "0.95", "0.99", "0.7", "1"])
@pytest.mark.parametrize("k", NEIGHBOR_GRID)
def test_shares_of_neighbours_meet_a_decimal_threshold_exactly(k: int, threshold: str) -> None:
    labels = torch.ones(k + 1, k + 1, dtype=torch.int64).tril()  # image 0 of row m has m neighbours of its label
    for agreeing, row in enumerate(labels):
        share = agreement(row, torch.arange(1, k + 1).expand(k + 1, -1))[0]
        assert bool(share >= float(threshold)) == (Fraction(agreeing, k) >= Fraction(threshold))


# consistency


@given(labellings())
def test_consistency_is_its_slow_twin(labelling: tuple[list[int], list[list[int]], int]) -> None:
    labels, neighbors, clusters = labelling
    found = consistency(torch.tensor(labels), torch.tensor(neighbors), clusters)
    assert found == pytest.approx(float(slow_consistency(labels, neighbors, clusters)), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "neighbors", "expected"),
    [
        ([0, 0, 1, 1], [1, 0, 3, 2], 1 / 2),  # a = 1; 2 of 4 clusters hold images
        ([0, 0, 1, 1], [2, 3, 0, 1], -1 / 2),  # a = 0, a0 = 1/4 + 1/4: (0 - 1/2) / (1/2) * 2/4
        ([0, 1, 2, 3], [0, 1, 2, 3], 1),  # a = 1, and every cluster holds one
        ([0, 0, 1, 1], [1, 2, 3, 0], 0),  # a = 1/2 = a0
        ([0, 0, 0, 1], [1, 0, 0, 0], 1 / 6),  # a = 3/4, a0 = 9/16 + 1/16 = 5/8: (1/8) / (3/8) * 2/4
        ([0, 0, 0, 0], [1, 0, 0, 0], 0),  # one cluster says nothing
        ([0, 1, 2, 3], [1, 0, 0, 0], -1 / 3),  # a = 0, a0 = 4/16: -(1/4) / (3/4)
    ],
)
def test_consistency_by_hand(labels: list[int], neighbors: list[int], expected: float) -> None:
    found = consistency(torch.tensor(labels), torch.tensor(neighbors)[:, None], 4)
    assert found == pytest.approx(expected, abs=1e-7)


@given(labellings())
def test_one_cluster_scores_nothing(labelling: tuple[list[int], list[list[int]], int]) -> None:
    labels, neighbors, clusters = labelling
    for cluster in range(clusters):
        assert consistency(torch.full((len(labels),), cluster), torch.tensor(neighbors), clusters) == 0


@given(labellings())
def test_consistency_keeps_its_limits(labelling: tuple[list[int], list[list[int]], int]) -> None:
    # Agreement lies in [0, 1], so the score lies between -a0 / (1 - a0) and 1; with shares of one half -1 is the least.
    labels, neighbors, clusters = labelling
    chance = sum((labels.count(cluster) / len(labels)) ** 2 for cluster in range(clusters))
    least = 0 if chance == 1 else -chance / (1 - chance)
    assert least - 1e-6 <= consistency(torch.tensor(labels), torch.tensor(neighbors), clusters) <= 1 + 1e-6


@given(labellings(), st.integers(0, 2**31))
def test_consistency_ignores_the_names_of_clusters_and_the_order_of_images(
    labelling: tuple[list[int], list[list[int]], int], seed: int
) -> None:
    labels, neighbors, clusters = torch.tensor(labelling[0]), torch.tensor(labelling[1]), labelling[2]
    generator = torch.Generator().manual_seed(seed)
    score = consistency(labels, neighbors, clusters)
    names = torch.randperm(clusters, generator=generator)
    assert consistency(names[labels], neighbors, clusters) == pytest.approx(score, abs=1e-9)
    with_two_empty = consistency(labels, neighbors, clusters + 2)
    assert with_two_empty == pytest.approx(score * clusters / (clusters + 2), abs=1e-9)
    order = torch.randperm(len(labels), generator=generator)
    assert consistency(labels[order], order.argsort()[neighbors[order]], clusters) == pytest.approx(score, abs=1e-6)


# choose_k


@pytest.mark.parametrize(
    ("agreeing", "expected"),
    [
        ([5, 5, 5, 5], 5),  # 5 x 4, then nothing
        ([10, 10, 5, 5], 5),  # 5 x 4 = 10 x 2: of equals the smaller
        ([10, 10, 10, 5], 10),  # 5 x 4 < 10 x 3
        ([30, 5, 5, 5], 30),  # 5 x 4, 10 x 1, 20 x 1, 30 x 1
        ([29, 4, 4, 4], 20),  # 5 x 1, 10 x 1, 20 x 1, 30 x 0
        ([4, 4, 4, 4], 5),  # nothing agrees at any K: the smallest
    ],
)
def test_choose_k_weighs_strictness_against_share_by_hand(agreeing: list[int], expected: int) -> None:
    # The first agreeing[i] of image i's 30 neighbours have its label; the last two images agree with nobody.
    same, other = len(agreeing), len(agreeing) + 1
    labels = torch.tensor([0] * other + [1])
    rows = [[same] * count + [other] * (30 - count) for count in agreeing]
    assert choose_k(labels, torch.tensor([*rows, [other] * 30, [same] * 30]), 1.0) == expected


def test_choose_k_takes_shares_that_reach_the_threshold() -> None:
    labels = torch.tensor([0, 0, 1])
    rows = torch.tensor([[1] * 19 + [2], [0] * 19 + [2], [0] * 20])
    assert choose_k(labels, rows, 0.95) == 20  # 19 of 20 agree, for 2 of 3 images: 20 x 2/3
    assert choose_k(labels, rows, 0.96) == 10  # 10 x 2/3


@pytest.mark.parametrize(
    ("most", "expected"), [(1, 1), (3, 3), (4, 4), (5, 5), (7, 5), (10, 10), (99, 70), (100, 100), (300, 100)]
)
def test_when_all_agree_the_largest_of_the_grid_is_chosen(most: int, expected: int) -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    assert choose_k(labels, torch.arange(most).remainder(8).expand(8, -1), 0.95) == expected


@given(labellings(most_neighbors=19), st.sampled_from([Fraction(1, 2), Fraction(3, 4), Fraction(1)]))
def test_choose_k_is_its_slow_twin(labelling: tuple[list[int], list[list[int]], int], threshold: Fraction) -> None:
    labels, neighbors, _ = labelling
    found = choose_k(torch.tensor(labels), torch.tensor(neighbors), float(threshold))
    assert found == slow_choose_k(labels, neighbors, threshold)


# select_reliable


@st.composite
def judged(draw: st.DrawFn) -> tuple[list[int], list[float], list[float], int]:
    """Labels, confidence and agreement in steps, so that ties are frequent, and C; some clusters may be empty."""
    n, clusters = draw(st.integers(1, 60)), draw(st.integers(1, 4))
    random, steps = Random(draw(st.integers(0, 2**31))), draw(st.sampled_from([4, 20, 1024]))
    labels = [random.randrange(clusters) for _ in range(n)]
    confidence = [random.randint(0, steps) / steps for _ in range(n)]
    return labels, confidence, [random.randint(0, 20) / 20 for _ in range(n)], clusters


FLOORS = st.sampled_from([Fraction(1, 16), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1)])
THRESHOLDS = st.sampled_from([0.05, 0.5, 0.95, 1.0])


def chosen(
    problem: tuple[list[int], list[float], list[float], int], threshold: float, floor: float | Fraction
) -> list[bool]:
    labels, confidence, agreements, clusters = problem
    given_labels = torch.tensor(labels)
    found = select_reliable(
        given_labels, torch.tensor(confidence), torch.tensor(agreements), clusters, threshold, float(floor)
    )
    assert found.dtype == torch.bool
    return found.tolist()


@given(judged(), THRESHOLDS, FLOORS)
def test_select_reliable_is_its_slow_twin(
    problem: tuple[list[int], list[float], list[float], int], threshold: float, floor: Fraction
) -> None:
    expected = slow_select_reliable(*problem, threshold, floor)
    assert chosen(problem, threshold, floor) == expected


@given(judged(), THRESHOLDS, FLOORS)
def test_the_reliable_set_is_never_empty_and_every_cluster_has_its_share(
    problem: tuple[list[int], list[float], list[float], int], threshold: float, floor: Fraction
) -> None:
    labels, clusters = problem[0], problem[3]
    reliable = chosen(problem, threshold, floor)
    assert any(reliable)
    for cluster in range(clusters):
        members = [mark for label, mark in zip(labels, reliable, strict=True) if label == cluster]
        if members:
            assert sum(members) >= 1
            assert Fraction(sum(members), len(members)) >= floor


@pytest.mark.parametrize(
    ("members", "floor", "least"), [(10, 0.1, 1), (15, 0.1, 2), (4, 0.3, 2), (100, 0.29, 29), (100, 0.07, 7)]
)
def test_the_floor_is_a_least_share(members: int, floor: float, least: int) -> None:
    problem = [0] * members, [0.5] * members, [0.0] * members, 1
    assert sum(chosen(problem, 0.95, floor)) == least


def test_of_the_agreeing_the_least_confident_tenth_is_left_out() -> None:
    # 11 agree; the tenth of their confidences 0.0, 0.1, ..., 1.0 lies at place 0.1 x 10 = 1, which is 0.1: 0.0 is left
    # out. The twelfth image is surest of all, and its neighbours disagree.
    confidence = [step / 10 for step in range(11)] + [1.0]
    problem = [0] * 12, confidence, [1.0] * 11 + [0.5], 1
    assert chosen(problem, 0.95, 0.1) == [False] + [True] * 10 + [False]


def test_each_cluster_has_a_bar_of_its_own() -> None:
    problem = [0, 0, 1, 1], [0.9, 0.8, 0.3, 0.2], [1.0, 1.0, 1.0, 1.0], 2
    # the bars are 0.8 + 0.1 x 0.1 = 0.81 and 0.2 + 0.1 x 0.1 = 0.21
    assert chosen(problem, 0.95, 0.1) == [True, False, True, False]


def test_where_too_few_agree_the_most_agreeing_then_the_most_confident_are_taken() -> None:
    #          agreement 0.5 and 0.9 | 0.9 twice: the surer | all equal: the first
    problem = [0, 0, 1, 1, 2, 2], [0.9, 0.1, 0.3, 0.4, 0.5, 0.5], [0.5, 0.9, 0.9, 0.9, 0.2, 0.2], 3
    assert chosen(problem, 0.95, 0.5) == [False, True, False, True, True, False]


@given(judged(), THRESHOLDS, FLOORS, st.randoms(use_true_random=False))
def test_the_reliable_set_follows_images_and_clusters_when_these_are_shuffled(
    problem: tuple[list[int], list[float], list[float], int], threshold: float, floor: Fraction, random: Random
) -> None:
    labels, _, agreements, clusters = problem
    n = len(labels)
    confidence = [place / 1024 for place in random.sample(range(1024), n)]  # no ties: these go by the image's number
    before = chosen((labels, confidence, agreements, clusters), threshold, floor)
    order, names = random.sample(range(n), n), random.sample(range(clusters + 1), clusters)
    shuffled = (
        [names[labels[i]] for i in order],
        [confidence[i] for i in order],
        [agreements[i] for i in order],
        clusters + 1,
    )
    assert chosen(shuffled, threshold, floor) == [before[i] for i in order]
