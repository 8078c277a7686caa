import itertools
import math
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional import partition as module
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.partition import (
    cut_spectrally,
    group_links,
    merge_linked,
    neighbor_votes,
    partition,
    partition_score,
)

FEW = settings(max_examples=25)
SEEDS = st.integers(0, 2**31 - 1)


def slow_group_links(groups: list[int], neighbors: list[list[int]]) -> list[list[int]]:
    """Every image and every neighbour of it: one link from its group to the neighbour's, and one back."""
    count = max(groups) + 1
    links = [[0] * count for _ in range(count)]
    for image, row in enumerate(neighbors):
        for near in row:
            links[groups[image]][groups[near]] += 1
            links[groups[near]][groups[image]] += 1
    return links


def slow_merge_linked(links: list[list[int]], sizes: list[int], clusters: int) -> list[int]:
    """Joins lists of groups, counting the links between two lists anew each time; of equal pairs the first."""
    lists = [[group] for group in range(len(links))]
    while len(lists) > clusters:
        best, pair = Fraction(-1), (0, 0)
        for one, other in itertools.combinations(range(len(lists)), 2):
            between = sum(links[a][b] for a in lists[one] for b in lists[other])
            strength = Fraction(between, min(sum(sizes[a] for a in lists[k]) for k in (one, other)))
            if strength > best:
                best, pair = strength, (one, other)
        lists[pair[0]] += lists.pop(pair[1])  # lists stay in the order of their first groups
    return [next(k for k, members in enumerate(lists) if group in members) for group in range(len(links))]


def slow_cut(links: Tensor, clusters: int) -> list[int]:
    """Of all ways to part the groups the one with the smallest normalised cut."""
    best, found = math.inf, []
    for labels in itertools.product(range(clusters), repeat=len(links)):
        if len(set(labels)) < clusters:
            continue
        inside = torch.tensor(
            [[labels[group] == cluster for group in range(len(links))] for cluster in range(clusters)]
        )
        cut = sum(float(links[own][:, ~own].sum() / links[own].sum()) for own in inside)
        if cut < best:
            best, found = cut, list(labels)
    return found


def slow_score(labels: list[int], neighbors: list[list[int]]) -> float:
    shares = [labels.count(label) / len(labels) for label in set(labels)]
    entropy = -sum(share * math.log(share) for share in shares)
    pairs = [(labels[image], labels[near]) for image, row in enumerate(neighbors) for near in row]
    apart = Fraction(sum(one != other for one, other in pairs), len(pairs))
    return 3.5 * entropy - math.log(apart + 0.01)


def same_parts(one: Tensor, other: Tensor) -> bool:
    """Whether two labellings differ in nothing but the names of the clusters."""
    return len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(one.unique()) == len(other.unique())


@st.composite
def labellings(draw: st.DrawFn) -> tuple[list[int], list[list[int]], int]:
    """Labels, the neighbours of each image (others, all different), and C; some clusters may be empty."""
    n, clusters = draw(st.integers(2, 20)), draw(st.integers(1, 6))
    labels = draw(st.lists(st.integers(0, clusters - 1), min_size=n, max_size=n))
    k, random = draw(st.integers(1, min(n - 1, 8))), Random(draw(SEEDS))
    return labels, [random.sample([j for j in range(n) if j != i], k) for i in range(n)], clusters


def unequal_blobs(seed: int, sizes: tuple[int, ...] = (200, 30, 20)) -> tuple[Tensor, Tensor, Tensor]:
    """One wide blob and two narrow ones near each other: unit embeddings, ten neighbours, classes.

    No neighbour is of another class, yet k-means does better by cutting the wide one.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=generator)]
    centres = torch.zeros(3, 8)
    centres[0, 0], centres[1:, 1], centres[1, 2], centres[2, 2] = 1, 1, 0.3, -0.3
    widths = torch.full((3, 8), 0.04)
    widths[0, 3:6] = 0.7
    noise = torch.randn((len(classes), 8), generator=generator)
    embeddings = F.normalize(centres[classes] + noise * widths[classes], dim=1)
    return embeddings, nearest_neighbors(embeddings, 10)[0], classes


# group_links


@FEW
@given(labellings())
def test_group_links_are_their_slow_twin(labelling: tuple[list[int], list[list[int]], int]) -> None:
    groups, neighbors, _ = labelling
    found = group_links(torch.tensor(groups), torch.tensor(neighbors))
    assert found.dtype == torch.float64
    assert found.tolist() == slow_group_links(groups, neighbors)


def test_group_links_by_hand() -> None:
    groups = torch.tensor([0, 0, 1, 2])
    neighbors = torch.tensor([[1, 2], [0, 2], [3, 0], [2, 0]])
    # From group 0: twice to itself, twice to 1; from 1: once to 2, once to 0; from 2: once to 1, once to 0.
    assert group_links(groups, neighbors).tolist() == [[4, 3, 1], [3, 0, 2], [1, 2, 0]]


@FEW
@given(labellings(), st.randoms(use_true_random=False))
def test_links_follow_the_names_of_groups_and_the_order_of_images(
    labelling: tuple[list[int], list[list[int]], int], random: Random
) -> None:
    labels, near, _ = labelling
    groups, neighbors = torch.tensor(labels).unique(return_inverse=True)[1], torch.tensor(near)
    links = group_links(groups, neighbors)
    assert torch.equal(links, links.T)
    assert links.sum() == 2 * neighbors.numel()
    names = torch.tensor(random.sample(range(len(links)), len(links)))
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    shuffled = group_links(names[groups][order], order.argsort()[neighbors[order]])
    assert torch.equal(shuffled[names][:, names], links)


# merge_linked


@st.composite
def linked(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int]:
    """Symmetric links of a few groups, many of them equal, the sizes of these, and C."""
    count, random = draw(st.integers(2, 9)), Random(draw(SEEDS))
    most = draw(st.sampled_from([1, 4, 100]))
    links = [[0] * count for _ in range(count)]
    for one, other in itertools.combinations_with_replacement(range(count), 2):
        links[one][other] = links[other][one] = random.randint(0, most)
    return links, [random.randint(1, 6) for _ in range(count)], draw(st.integers(1, count))


@FEW
@given(linked())
def test_merging_is_its_slow_twin(problem: tuple[list[list[int]], list[int], int]) -> None:
    links, sizes, clusters = problem
    found = merge_linked(torch.tensor(links).double(), torch.tensor(sizes), clusters)
    assert found.dtype == torch.int64
    assert found.tolist() == slow_merge_linked(links, sizes, clusters)
    assert sorted(found.unique().tolist()) == list(range(clusters))


def test_merging_by_hand() -> None:
    # Groups of 100, 100, 2 and 50 images. Links between: 0-1 30, 0-3 20, 1-2 4, 2-3 1. For each image of the smaller
    # one: 0-1 0.3, 0-3 0.4, 1-2 2, 2-3 0.5. First 2 goes to 1 (102 images, links 30 to 0 and 1 to 3: 0.3 and 0.02),
    # then 3 to 0 (150 images, 31 links to the other).
    links = torch.tensor([[9.0, 30, 0, 20], [30, 9, 4, 0], [0, 4, 0, 1], [20, 0, 1, 9]], dtype=torch.float64)
    sizes = torch.tensor([100, 100, 2, 50])
    before = links.clone()
    assert merge_linked(links, sizes, 4).tolist() == [0, 1, 2, 3]
    assert merge_linked(links, sizes, 3).tolist() == [0, 1, 1, 2]
    assert merge_linked(links, sizes, 2).tolist() == [0, 1, 1, 0]
    assert merge_linked(links, sizes, 1).tolist() == [0, 0, 0, 0]
    assert torch.equal(links, before)
    assert sizes.tolist() == [100, 100, 2, 50]


@FEW
@given(SEEDS, st.integers(2, 12), st.randoms(use_true_random=False))
def test_without_ties_the_names_of_groups_do_not_matter_to_merging(seed: int, count: int, random: Random) -> None:
    generator = torch.Generator().manual_seed(seed)
    links = torch.rand((count, count), generator=generator, dtype=torch.float64)
    links, sizes = links + links.T, torch.randint(1, 9, (count,), generator=generator)
    names = torch.tensor(random.sample(range(count), count))
    clusters = random.randint(1, count)
    shuffled = merge_linked(links[names][:, names], sizes[names], clusters)
    assert same_parts(shuffled, merge_linked(links, sizes, clusters)[names])


# cut_spectrally


def planted(seed: int, blocks: list[int]) -> tuple[Tensor, Tensor]:
    """Links of groups in blocks, 20 to 40 within a block and up to 2 across, and the block of each group."""
    generator = torch.Generator().manual_seed(seed)
    block = torch.arange(len(blocks)).repeat_interleave(torch.tensor(blocks))
    block = block[torch.randperm(len(block), generator=generator)]
    within = torch.randint(20, 41, (len(block), len(block)), generator=generator).double()
    across = torch.randint(0, 3, (len(block), len(block)), generator=generator).double()
    links = torch.where(block == block.unsqueeze(1), within, across).triu()
    return links + links.T, block


@pytest.mark.parametrize("blocks", [[4, 3], [5, 2], [2, 2, 3]])
@pytest.mark.parametrize("seed", range(2))
def test_of_all_cuts_the_spectral_one_is_the_smallest(blocks: list[int], seed: int) -> None:
    links, block = planted(seed, blocks)
    best = torch.tensor(slow_cut(links, len(blocks)))
    assert same_parts(best, block)  # or else the blocks are not what is to be found
    assert same_parts(cut_spectrally(links, len(blocks)), best)


@FEW
@given(SEEDS, SEEDS, st.lists(st.integers(3, 12), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_cut_finds_blocks_of_any_size_whatever_their_names_and_the_seed(
    seed: int, other: int, blocks: list[int], random: Random
) -> None:
    links, block = planted(seed, blocks)
    found = cut_spectrally(links, len(blocks))
    assert found.dtype == torch.int64
    assert found.unique().tolist() == list(range(len(blocks)))
    assert same_parts(found, block)
    assert torch.equal(cut_spectrally(links, len(blocks)), found)
    names = torch.tensor(random.sample(range(len(links)), len(links)))
    assert same_parts(cut_spectrally(links[names][:, names], len(blocks)), found[names])


def test_rings_are_cut_apart_though_most_of_their_groups_have_no_link() -> None:
    ring = torch.arange(3).repeat_interleave(torch.tensor([12, 5, 4]))
    links = torch.zeros((21, 21), dtype=torch.float64)
    for kind in range(3):
        groups = (ring == kind).nonzero().squeeze(1)
        links[groups, groups.roll(1)] = links[groups.roll(1), groups] = 5
    assert same_parts(cut_spectrally(links, 3), ring)


def test_pieces_without_a_link_between_them_are_cut_apart() -> None:
    links, block = planted(0, [12, 4, 3])
    links[block != block.unsqueeze(1)] = 0
    before = links.clone()
    assert same_parts(cut_spectrally(links, 3), block)
    assert torch.equal(links, before)


# partition_score


@FEW
@given(labellings())
def test_the_score_is_its_formula(labelling: tuple[list[int], list[list[int]], int]) -> None:
    labels, neighbors, clusters = labelling
    found = partition_score(torch.tensor(labels), torch.tensor(neighbors), clusters)
    assert isinstance(found, float)
    assert found == pytest.approx(slow_score(labels, neighbors), abs=1e-4)  # shares of float32 over 0.01


def test_the_score_by_hand() -> None:
    neighbors = torch.tensor([[1], [0], [3], [2]])
    two, one = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
    assert partition_score(two, neighbors, 2) == pytest.approx(3.5 * math.log(2) + math.log(100))
    assert partition_score(one, neighbors, 2) == pytest.approx(math.log(100))
    # Cut across: all neighbours apart, 1 - a = 1. Three to one: two of four apart, shares 3/4 and 1/4.
    across = torch.tensor([0, 1, 0, 1])
    assert partition_score(across, neighbors, 2) == pytest.approx(3.5 * math.log(2) - math.log(1.01))
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert partition_score(torch.tensor([0, 0, 0, 1]), neighbors, 2) == pytest.approx(3.5 * entropy - math.log(0.51))


@FEW
@given(labellings(), st.randoms(use_true_random=False))
def test_the_score_knows_no_names_of_clusters_and_no_order_of_images(
    labelling: tuple[list[int], list[list[int]], int], random: Random
) -> None:
    labels, neighbors, clusters = torch.tensor(labelling[0]), torch.tensor(labelling[1]), labelling[2]
    score = partition_score(labels, neighbors, clusters)
    names = torch.tensor(random.sample(range(clusters + 2), clusters))
    assert partition_score(names[labels], neighbors, clusters + 2) == pytest.approx(score, abs=1e-4)
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    shuffled = partition_score(labels[order], order.argsort()[neighbors[order]], clusters)
    assert shuffled == pytest.approx(score, abs=1e-4)


def test_the_score_prefers_the_classes_to_scraps_and_to_even_sizes() -> None:
    embeddings, neighbors, classes = unequal_blobs(0)
    right = partition_score(classes, neighbors, 3)
    scraps = torch.zeros_like(classes)
    scraps[0], scraps[1] = 1, 2
    even = torch.as_tensor(KMeans(3, n_init=3, random_state=0).fit_predict(embeddings.numpy())).long()
    assert right > partition_score(scraps, neighbors, 3) + 1
    assert right > partition_score(even, neighbors, 3) + 0.5


# neighbor_votes


@FEW
@given(labellings(), st.integers(1, 4), SEEDS)
def test_votes_are_counted(labelling: tuple[list[int], list[list[int]], int], heads: int, seed: int) -> None:
    first, neighbors, clusters = labelling
    random = Random(seed)
    labels = [random.sample(first, len(first)) for _ in range(heads)]
    rows = random.sample(neighbors, random.randint(1, len(neighbors)))
    expected = [
        [[[own[near] for near in row].count(c) / len(row) for c in range(clusters)] for row in rows] for own in labels
    ]
    found = neighbor_votes(torch.tensor(labels), torch.tensor(rows), clusters)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(found.sum(dim=2), torch.ones(heads, len(rows)))


def test_votes_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1, 2], [3, 1, 1, 1]])
    around = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 2]])
    assert neighbor_votes(labels, around, 4).tolist() == [
        [[0.5, 0.25, 0.25, 0], [0.25, 0.5, 0.25, 0]],
        [[0, 0.75, 0, 0.25], [0, 1, 0, 0]],
    ]


# partition


@pytest.mark.parametrize("seed", range(4))
def test_blobs_of_very_unequal_size_are_found_where_k_means_cuts_the_large_one(seed: int) -> None:
    embeddings, neighbors, classes = unequal_blobs(seed)
    k_means = torch.as_tensor(KMeans(3, n_init=10, random_state=seed).fit_predict(embeddings.numpy()))
    assert not same_parts(k_means, classes)
    found = partition(embeddings, neighbors, 3, 10, seed)
    assert (found.shape, found.dtype) == (classes.shape, torch.int64)
    assert found.unique().tolist() == [0, 1, 2]
    assert same_parts(found, classes)


def test_the_order_of_images_does_not_matter_where_the_parts_are_clear() -> None:
    embeddings, neighbors, _ = unequal_blobs(0)
    found = partition(embeddings, neighbors, 3, 10, 0)
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(1))
    assert same_parts(partition(embeddings[order], order.argsort()[neighbors[order]], 3, 10, 0), found[order])


@FEW
@given(st.integers(2, 6), st.integers(0, 30), st.integers(2, 10), SEEDS)
def test_every_cluster_is_there_down_to_two_images_for_each(clusters: int, more: int, per: int, seed: int) -> None:
    n = 2 * clusters + more
    embeddings = F.normalize(torch.randn((n, 5), generator=torch.Generator().manual_seed(seed)), dim=1)
    neighbors, _ = nearest_neighbors(embeddings, max(1, n // (3 * clusters)))
    before = embeddings.clone(), neighbors.clone()
    found = partition(embeddings, neighbors, clusters, per, seed)
    assert found.shape == (n,)
    assert found.unique().tolist() == list(range(clusters))
    assert torch.equal(embeddings, before[0])
    assert torch.equal(neighbors, before[1])


def test_the_same_seed_gives_the_same_parts_and_global_state_has_no_part_in_it() -> None:
    embeddings = F.normalize(torch.randn((120, 5), generator=torch.Generator().manual_seed(0)), dim=1)
    neighbors, _ = nearest_neighbors(embeddings, 10)
    found = []
    for number, seed in enumerate((7, 7, 2**31 - 1)):
        np.random.seed(number)
        torch.manual_seed(number)
        state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr]
        found.append(partition(embeddings, neighbors, 4, 5, seed))
        assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(found[0], found[1])
    assert not same_parts(found[0], found[2])  # no clear parts here: where k-means starts decides


class Stop(Exception):  # noqa: N818
    """Enough has been seen."""


@pytest.mark.parametrize(
    ("n", "clusters", "per_cluster", "groups"),
    [
        (4, 2, 10, 4),  # two for each cluster, though N / 10 is less
        (95, 3, 10, 9),  # a tenth of the images, rounded down
        (1000, 3, 20, 60),
        (600, 5, 2, 10),
        (20_000, 200, 10, 1000),
        (20_000, 600, 10, 1200),  # two for each cluster, though 1,000 is less
    ],
)
def test_the_number_of_groups_keeps_its_limits(
    n: int, clusters: int, per_cluster: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def k_means(count: int, *, n_init: int, random_state: int) -> None:
        seen.extend((count, random_state))
        raise Stop

    monkeypatch.setattr("sklearn.cluster.KMeans", k_means)
    with pytest.raises(Stop):
        partition(torch.ones(n, 1), torch.zeros((n, 1), dtype=torch.int64), clusters, per_cluster, 5)
    assert seen == [groups, 5]
    assert type(seen[0]) is int


@pytest.mark.parametrize("better", ["cut_spectrally", "merge_linked"])
def test_of_the_two_ways_the_one_with_the_better_score_is_taken(better: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, neighbors, classes = unequal_blobs(0)
    right = torch.zeros(25, dtype=torch.int64)
    grouped = torch.as_tensor(KMeans(25, n_init=1, random_state=3).fit_predict(embeddings.numpy())).long()
    right[grouped] = classes
    for name in ("cut_spectrally", "merge_linked"):
        groups = right if name == better else torch.arange(25) % 3
        monkeypatch.setattr(module, name, lambda *_, groups=groups: groups)
    assert torch.equal(partition(embeddings, neighbors, 3, 10, 3), classes)


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_get_the_links_of_the_same_groups(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, neighbors, _ = unequal_blobs(seed, (100, 60, 40))
    grouped = torch.as_tensor(KMeans(20, n_init=1, random_state=seed).fit_predict(embeddings.numpy())).long()
    links, sizes = group_links(grouped, neighbors), grouped.bincount()
    candidates = [cut_spectrally(links, 4)[grouped], merge_linked(links, sizes, 4)[grouped]]
    scores = [partition_score(labels, neighbors, 4) for labels in candidates]
    found = partition(embeddings, neighbors, 4, 10, seed)
    assert same_parts(found, candidates[scores.index(max(scores))])
    assert partition_score(found, neighbors, 4) == pytest.approx(max(scores), abs=1e-4)


def test_a_single_group_can_be_a_cluster() -> None:
    links = torch.zeros(6, 6, dtype=torch.float64)
    for one in range(5):
        links[one, one] = 100
        links[one, (one + 1) % 5] = links[(one + 1) % 5, one] = 20
    links[5, 5] = 400
    assert same_parts(cut_spectrally(links, 2), torch.tensor([0, 0, 0, 0, 0, 1]))


@pytest.mark.parametrize("different", [1, 2])
def test_fewer_different_embeddings_than_clusters_are_parted_as_far_as_they_go(different: int) -> None:
    embeddings = torch.eye(3)[torch.arange(20) % different]
    neighbors = torch.arange(20).roll(1).view(20, 1)
    labels = partition(embeddings, neighbors, 3, 10, 0)
    assert same_parts(labels, torch.arange(20) % different)
