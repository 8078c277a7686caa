import math
from collections import Counter
from itertools import combinations, permutations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiceclust.functional.metrics import (
    Scores,
    Trust,
    expected_calibration_error,
    rightly_clustered,
    score_clusters,
    score_trust,
)


def slow_accuracy(clusters: list[Any], classes: list[Any]) -> float:
    """The best of all one-to-one matches, by trying every one."""
    few, many, flipped = set(clusters), set(classes), False
    if len(few) > len(many):
        few, many, flipped = many, few, True
    pairs = [(b, a) if flipped else (a, b) for a, b in zip(clusters, classes, strict=True)]
    best = 0
    for match in permutations(sorted(many), len(few)):
        table = dict(zip(sorted(few), match, strict=True))
        best = max(best, sum(table[a] == b for a, b in pairs))
    return best / len(clusters)


def entropy(values: list[Any]) -> float:
    return -sum(p * math.log(p) for p in (values.count(value) / len(values) for value in set(values)))


def slow_nmi(clusters: list[Any], classes: list[Any]) -> float:
    """Mutual information over the mean entropy; 1 where neither says anything."""
    first, second = entropy(clusters), entropy(classes)
    if first == second == 0:
        return 1.0
    mutual = first + second - entropy(list(zip(clusters, classes, strict=True)))
    return mutual / ((first + second) / 2)


def slow_ari(clusters: list[Any], classes: list[Any]) -> float:
    """Over all pairs of images: together in both, in one, in the other; 1 where the two are the same partition."""
    pairs = list(combinations(range(len(clusters)), 2))
    first = {(i, j) for i, j in pairs if clusters[i] == clusters[j]}
    second = {(i, j) for i, j in pairs if classes[i] == classes[j]}
    if first == second:
        return 1.0
    expected = len(first) * len(second) / len(pairs)
    return (len(first & second) - expected) / ((len(first) + len(second)) / 2 - expected)


def score(clusters: list[int], classes: list[Any]) -> Scores:
    return score_clusters(np.array(clusters, dtype=np.int64), np.array(classes))


@st.composite
def labellings(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Up to five clusters against up to five classes: more, fewer or as many."""
    n = draw(st.integers(1, 14))
    clusters = draw(st.lists(st.integers(0, draw(st.integers(0, 4))), min_size=n, max_size=n))
    classes = draw(st.lists(st.sampled_from("abcde"[: draw(st.integers(1, 5))]), min_size=n, max_size=n))
    return clusters, classes


@given(labellings())
def test_scores_are_their_slow_twins(labelling: tuple[list[int], list[str]]) -> None:
    found = score(*labelling)
    assert found.n == len(labelling[0])
    pairs = Counter(zip(*labelling, strict=True))
    assert {(cluster, name): n for cluster, row in found.confusion.items() for name, n in row.items()} == pairs
    assert found.acc == pytest.approx(slow_accuracy(*labelling))
    assert found.nmi == pytest.approx(slow_nmi(*labelling), abs=1e-9)
    assert found.ari == pytest.approx(slow_ari(*labelling), abs=1e-9)


def test_a_perfect_clustering_by_hand() -> None:
    counts = {0: {"dog": 2}, 1: {"cat": 2}}
    assert score([1, 1, 0, 0], ["cat", "cat", "dog", "dog"]) == (1, 1, 1, 4, {0: "dog", 1: "cat"}, counts)


def test_an_independent_clustering_by_hand() -> None:
    found = score([0, 0, 1, 1], ["cat", "dog", "cat", "dog"])
    assert found.acc == 0.5
    assert found.nmi == pytest.approx(0, abs=1e-12)
    # no pair is together in both; 2 x 2 / 6 = 2/3 are expected: (0 - 2/3) / ((2 + 2) / 2 - 2/3) = -1/2, the least
    assert found.ari == pytest.approx(-0.5)


def test_three_to_one_by_hand() -> None:
    found = score([0, 0, 0, 1], ["cat", "cat", "dog", "dog"])
    assert found.acc == 0.75
    # shares: cat in 0: 1/2, dog in 0: 1/4, dog in 1: 1/4
    mutual = math.log(4 / 3) / 2 + math.log(2 / 3) / 4 + math.log(2) / 4
    halves = (3 / 4 * math.log(4 / 3) + math.log(4) / 4 + math.log(2)) / 2
    assert found.nmi == pytest.approx(mutual / halves)
    # together in both: 1 pair; 3 x 2 / 6 = 1 is expected: (1 - 1) / ... = 0
    assert found.ari == pytest.approx(0, abs=1e-12)
    assert found.match == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("clusters", "classes", "acc", "match"),
    [
        ([0, 0, 1, 1, 2, 2], ["a", "a", "a", "b", "b", "b"], 4 / 6, {0: "a", 2: "b"}),  # cluster 1 is left over
        ([0, 0, 0, 1, 1, 1], ["a", "a", "b", "c", "c", "b"], 4 / 6, {0: "a", 1: "c"}),  # class b is left over
        ([0, 0, 0, 0], ["a", "b", "b", "c"], 2 / 4, {0: "b"}),
        ([0, 1, 1, 2], ["a", "a", "a", "a"], 2 / 4, {1: "a"}),
        ([0], ["a"], 1, {0: "a"}),
    ],
)
def test_more_or_fewer_classes_than_clusters(
    clusters: list[int], classes: list[str], acc: float, match: dict[int, str]
) -> None:
    found = score(clusters, classes)
    assert found.acc == pytest.approx(acc)
    assert found.match == match


def test_the_match_is_the_best_as_a_whole() -> None:
    # Greedily, 0 would take a (3) and 1 would be left with b (0); together 0-b and 1-a give 2 + 2.
    found = score([0, 0, 0, 0, 0, 1, 1], ["a", "a", "a", "b", "b", "a", "a"])
    assert found.acc == pytest.approx(4 / 7)
    assert found.match == {0: "b", 1: "a"}


def test_a_match_without_an_image_is_not_reported() -> None:
    # 0-a and 1-b hold 3 + 0 images, 0-b and 1-a only 1 + 1; of the first pair of pairs the second is empty.
    found = score([0, 0, 0, 0, 1], ["a", "a", "a", "b", "a"])
    assert found.acc == pytest.approx(3 / 5)
    assert found.match == {0: "a"}


@given(labellings())
def test_the_match_explains_the_accuracy(labelling: tuple[list[int], list[str]]) -> None:
    clusters, classes = labelling
    found = score(clusters, classes)
    right = sum(found.match.get(cluster) == name for cluster, name in zip(clusters, classes, strict=True))
    assert found.acc == pytest.approx(right / len(clusters))
    assert len(set(found.match.values())) == len(found.match)
    for cluster, name in found.match.items():
        assert (cluster, name) in set(zip(clusters, classes, strict=True))


@given(labellings(), st.randoms(use_true_random=False))
def test_scores_ignore_names_and_order(labelling: tuple[list[int], list[str]], random: Random) -> None:
    clusters, classes = labelling
    before = score(clusters, classes)
    numbers = random.sample(range(-3, 50), 5)
    names = dict(zip("abcde", random.sample(["red panda", "ox", "Äpfel", "", "0"], 5), strict=True))
    order = random.sample(range(len(clusters)), len(clusters))
    after = score([numbers[clusters[i]] for i in order], [names[classes[i]] for i in order])
    assert (after.acc, after.n) == (pytest.approx(before.acc), before.n)
    assert (after.nmi, after.ari) == (pytest.approx(before.nmi, abs=1e-9), pytest.approx(before.ari, abs=1e-9))
    assert set(after.match) <= set(numbers)
    assert set(after.match.values()) <= set(names.values())


@given(labellings())
def test_scores_keep_their_limits(labelling: tuple[list[int], list[str]]) -> None:
    acc, nmi, ari = score(*labelling)[:3]
    assert 0 < acc <= 1
    assert -1e-9 <= nmi <= 1 + 1e-9
    assert -0.5 - 1e-9 <= ari <= 1 + 1e-9


@pytest.mark.parametrize("classes", [[7, 7, 3, 3], [7.0, 7.0, 3.0, 3.0], [True, True, False, False]])
def test_classes_may_be_numbers(classes: list[Any]) -> None:
    found = score([0, 0, 5, 5], classes)
    assert found[:4] == (1, 1, 1, 4)
    assert found.match == {0: str(np.array(classes)[0]), 5: str(np.array(classes)[2])}


def test_scores_are_plain_numbers_that_json_takes() -> None:
    found = score([0, 0, 1], ["a", "b", "b"])
    assert [type(value) for value in found] == [float, float, float, int, dict, dict]
    assert {(type(cluster), type(name)) for cluster, name in found.match.items()} == {(int, str)}
    assert found.confusion == {0: {"a": 1, "b": 1}, 1: {"b": 1}}
    assert {type(count) for row in found.confusion.values() for count in row.values()} == {int}


@given(labellings())
def test_as_many_are_rightly_clustered_as_the_accuracy_says(labelling: tuple[list[int], list[str]]) -> None:
    clusters, classes = (np.array(values) for values in labelling)
    found = score_clusters(clusters, classes)
    assert rightly_clustered(clusters, classes, found.match).mean() == pytest.approx(found.acc)


def test_rightly_clustered_by_hand() -> None:
    clusters, match = np.array([0, 0, 1, 2]), {0: "7", 1: "3"}  # cluster 2 has no class, not even one called None
    assert rightly_clustered(clusters, np.array([7, 3, 3, 3]), match).tolist() == [True, False, True, False]
    assert not rightly_clustered(np.array([2]), np.array(["None"]), match).any()


def ece(confidence: list[float], right: list[int], bins: int = 15) -> float:
    return expected_calibration_error(np.array(confidence), np.array(right, dtype=bool), bins)


def slow_ece(confidence: list[float], right: list[bool], bins: int) -> float:
    """The formula of Guo et al. 2017, bin by bin."""
    error = 0.0
    for k in range(bins):
        inside = [i for i, p in enumerate(confidence) if k / bins < p <= (k + 1) / bins or (k == 0 and p == 0)]
        if inside:
            claimed = sum(confidence[i] for i in inside) / len(inside)
            reached = sum(right[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(reached - claimed)
    return error


@given(
    st.lists(st.tuples(st.floats(0, 1) | st.integers(0, 15).map(lambda k: k / 15), st.booleans()), min_size=1),
    st.integers(1, 20),
)
def test_the_calibration_error_is_its_slow_twin(pairs: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert ece(confidence, right, bins) == pytest.approx(slow_ece(confidence, right, bins), abs=1e-12)


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "expected"),
    [
        ([1, 1, 1], [1, 1, 1], 15, 0),
        ([1, 1, 1], [0, 0, 0], 15, 1),
        ([0, 0], [0, 0], 15, 0),  # 0 lies in the first bin
        ([0.75] * 4, [1, 1, 1, 0], 15, 0),  # three of four right, as claimed
        ([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1], 15, 2 / 4 * 0.4 + 2 / 4 * 0.4),  # one bin claims too much, one too little
        ([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1], 2, 0),  # in one bin both ways even out: 3/4 claimed, 3/4 right
        ([0.5, 0.6], [1, 0], 2, 0.5 / 2 + 0.6 / 2),  # an edge belongs to the bin below it
        ([0.2, 0.4], [0, 1], 1, 0.2),
    ],
)
def test_the_calibration_error_by_hand(confidence: list[float], right: list[int], bins: int, expected: float) -> None:
    assert ece(confidence, right, bins) == pytest.approx(expected)


def test_single_precision_is_no_less_exact() -> None:
    confidence = np.full(100_001, 0.9, dtype=np.float32)
    right = np.arange(100_001) % 10 > 0
    assert expected_calibration_error(confidence, right) == pytest.approx(0.9 - right.mean(), abs=1e-6)


def test_trust_by_hand() -> None:
    right, sure = np.array([True, True, False, True]), np.array([1, 1, 1, 1])
    assert score_trust(right, sure, np.array([True, True, True, False])) == Trust(0.25, 0.75, pytest.approx(2 / 3))
    assert score_trust(right, sure, np.zeros(4, dtype=bool)) == Trust(0.25, 0, None)
