import numpy as np
import pytest

from spiceclust.functional import halves as module
from spiceclust.functional.halves import halves


def unit(values: object) -> np.ndarray:
    vectors = np.asarray(values, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def drawn(sizes: tuple[int, ...], noise: float, features: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around centres, shuffled, and which centre each is of."""
    rng = np.random.default_rng(5)
    centres = np.eye(features)[: len(sizes)]
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return unit(centres[group] + noise * rng.standard_normal((len(group), features))), group


@pytest.mark.parametrize("sizes", [(30, 70), (50, 50), (3, 97), (1, 40)])
def test_two_groups_come_apart_and_the_smaller_one_leaves(sizes: tuple[int, int]) -> None:
    vectors, group = drawn(sizes, 0.02)
    part, score = halves(vectors)
    assert (part == (group == 0)).all() or (sizes == (50, 50) and (part == (group == 1)).all())
    assert 0.85 < score <= 1


def test_four_vectors_by_hand() -> None:
    vectors = unit([[1, 0], [1, 0], [1, 0], [0, 1]])
    part, score = halves(vectors)
    assert part.tolist() == [False, False, False, True]
    assert score == pytest.approx(1)


def test_two_vectors_part() -> None:
    part, score = halves(unit([[1, 0], [0, 1]]))
    assert part.sum() == 1
    assert score == pytest.approx(1)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_vectors_that_are_all_alike_part_somehow(n: int) -> None:
    part, score = halves(unit([[1, 2, 3]] * n))
    assert 0 < part.sum() <= n / 2
    assert score == 0


def test_the_same_vectors_part_the_same_way() -> None:
    vectors, _ = drawn((40, 40, 40), 0.3)
    first, second = halves(vectors), halves(vectors)
    assert (first[0] == second[0]).all()
    assert first[1] == second[1]


def test_no_other_parting_of_few_vectors_is_better() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        vectors = unit(rng.standard_normal((8, 3)))
        _, score = halves(vectors)
        scores = [
            module._explained(vectors, np.array([bits >> i & 1 for i in range(8)], bool)) for bits in range(1, 255)
        ]
        assert score >= max(scores) - 0.12


def test_of_very_many_vectors_some_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    vectors, group = drawn((300, 700), 0.05)
    part, _ = halves(vectors)
    assert (part == (group == 0)).all()
