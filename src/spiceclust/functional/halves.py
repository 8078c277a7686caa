"""Parting one group of vectors in two.

M vectors, D features.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 20_000  # vectors that the two means are learned from
STARTS, STEPS = 4, 50  # random beginnings beside the principal one, and steps from each at the most
POWER: Final = 30  # steps towards the principal direction


def halves(vectors: NDArray[np.float32], seed: int = 0) -> tuple[NDArray[np.bool_], float]:
    """Two-means: the parting with the smallest sum of squared distances to the nearer of two means that was found.

    It begins from the two sides of the principal direction, and from random pairs.

    Args:
        vectors: (M, D) float32, M >= 2.
        seed: of what is drawn.

    Returns:
        (M,) bool, True for the smaller part, neither being empty; and the share in [0, 1] of the sum of squared
        distances to the mean of all that the parting explains. Vectors that are all alike part anywhere, and
        explain 0.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(vectors), min(MOST, len(vectors)), replace=False))
    some: NDArray[np.float64] = vectors[chosen].astype(np.float64)
    mean = some.mean(axis=0)
    starts = [_principal_pair(some - mean, rng) + mean]
    starts += [some[rng.choice(len(some), 2, replace=False)] for _ in range(STARTS)]
    _, means = min((_two_means(some, start) for start in starts), key=lambda found: found[0])
    second = _nearer_second(vectors, means.astype(np.float32))
    if second.all() or not second.any():
        second = np.arange(len(vectors)) == len(vectors) - 1
    small = second if second.sum() * 2 <= len(second) else ~second
    return small, _explained(vectors, small)


def _principal_pair(centred: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, D): the means of the two sides of (M, D) around the origin, or the origin twice if there is one side."""
    direction = rng.standard_normal((centred.shape[1],))
    for _ in range(POWER):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length == 0:
            return np.zeros((2, centred.shape[1]))
        direction /= length
    above = centred @ direction > 0
    if above.all() or not above.any():
        return np.zeros((2, centred.shape[1]))
    return np.stack([centred[~above].mean(axis=0), centred[above].mean(axis=0)])


def _two_means(vectors: NDArray[np.float64], means: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The sum of squared distances and the means where Lloyd's steps end; a part that empties ends them."""
    for _ in range(STEPS):
        second = _nearer_second(vectors, means)
        if second.all() or not second.any():
            break
        moved = np.stack([vectors[~second].mean(axis=0), vectors[second].mean(axis=0)])
        if np.array_equal(moved, means):
            break
        means = moved
    away = vectors - means[_nearer_second(vectors, means).astype(np.int64)]
    return float(np.square(away).sum()), means


def _nearer_second(vectors: NDArray[Any], means: NDArray[Any]) -> NDArray[np.bool_]:
    """(M,) bool: whether the second mean is nearer than the first."""
    first, second = means[0], means[1]
    return np.asarray(vectors @ (second - first) > (second @ second - first @ first) / 2, dtype=np.bool_)


def _explained(vectors: NDArray[np.float32], part: NDArray[np.bool_]) -> float:
    mean, first, second = (some.mean(axis=0, dtype=np.float64) for some in (vectors, vectors[part], vectors[~part]))
    total = float(np.einsum("md,md->", vectors, vectors, dtype=np.float64)) - len(vectors) * float(mean @ mean)
    between = part.sum() * ((first - mean) ** 2).sum() + (~part).sum() * ((second - mean) ** 2).sum()
    return min(1.0, float(between) / total) if total > 1e-6 * len(vectors) else 0.0
