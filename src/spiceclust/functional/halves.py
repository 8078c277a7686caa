"""Parting one group of vectors in two.

M vectors, D features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
MOST: Final = 5_000  # vectors that the two means are learned from
STARTS, STEPS = 4, 50  # random beginnings beside the principal one, and steps from each at the most
POWER: Final = 30  # steps towards the principal direction


def halves(vectors: Vectors, seed: int = 0) -> tuple[NDArray[np.bool_], float]:
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
    some = vectors[np.sort(rng.choice(len(vectors), min(MOST, len(vectors)), replace=False))]
    starts = [_principal_pair(some, rng)] + [some[rng.choice(len(some), 2, replace=False)] for _ in range(STARTS)]
    _, means = max((_two_means(some, start) for start in starts), key=lambda found: found[0])
    second = _nearer_second(vectors, means)
    if second.all() or not second.any():
        second = np.arange(len(vectors)) == len(vectors) - 1
    small = second if second.sum() * 2 <= len(second) else ~second
    return small, _explained(vectors, small)


def _principal_pair(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """(2, D): the means of the two sides along the principal direction; the one mean twice where there are no sides."""
    mean = vectors.mean(axis=0)
    centred, direction = vectors - mean, rng.standard_normal((vectors.shape[1],), dtype=np.float32)
    for _ in range(POWER):
        direction = centred.T @ (centred @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-30)
    above = centred @ direction > 0
    return np.stack([mean, mean]) if above.all() or not above.any() else _means(vectors, above)


def _two_means(vectors: Vectors, means: Vectors) -> tuple[float, Vectors]:
    """What the parting explains, and the means, where Lloyd's steps end; a part that empties ends them."""
    before = None
    for _ in range(STEPS):
        second = _nearer_second(vectors, means)
        if second.all() or not second.any():
            return 0.0, means
        if before is not None and (second == before).all():
            break
        before, means = second, _means(vectors, second)
    return _explained(vectors, second), means


def _means(vectors: Vectors, second: NDArray[np.bool_]) -> Vectors:
    """(2, D): of those that are not in the second part, and of those that are."""
    inside = second.astype(np.float32) @ vectors
    count = int(second.sum())
    return np.stack([(vectors.sum(axis=0) - inside) / (len(vectors) - count), inside / count])


def _nearer_second(vectors: Vectors, means: Vectors) -> NDArray[np.bool_]:
    """(M,) bool: whether the second mean is nearer than the first."""
    first, second = means[0], means[1]
    return np.asarray(vectors @ (second - first) > (second @ second - first @ first) / 2, dtype=np.bool_)


def _explained(vectors: Vectors, part: NDArray[np.bool_]) -> float:
    """The share of the sum of squared distances to the mean that lies between the two parts."""
    first, second = _means(vectors, part).astype(np.float64)
    share = float(part.mean())
    mean = (1 - share) * first + share * second
    total = float(np.einsum("md,md->", vectors, vectors, dtype=np.float64)) / len(vectors) - float(mean @ mean)
    between = share * (1 - share) * float(((first - second) ** 2).sum())
    return min(1.0, between / total) if total > 1e-6 else 0.0
