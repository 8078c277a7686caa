"""Scores against true labels.

This is the only module that true labels enter: `evaluate` and the benchmarks call it after training, and an import
contract keeps everything else away from it.

n images, C clusters, L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Agreement of clusters with true classes.

    Attributes:
        acc: accuracy in [0, 1] under the best one-to-one match of clusters and classes (Hungarian).
        nmi: normalised mutual information in [0, 1], arithmetic mean.
        ari: adjusted Rand index in [-0.5, 1].
        n: images scored.
        match: cluster number to class name, for the clusters that the match pairs.
        confusion: cluster number to class name to how many images are in both, without those that would be 0.
    """

    acc: float
    nmi: float
    ari: float
    n: int
    match: dict[int, str]
    confusion: dict[int, dict[str, int]]


class Trust(NamedTuple):
    """How far a clustering can be believed in what it says of itself.

    Attributes:
        ece: expected calibration error in [0, 1] of the confidence.
        reliable_share: share in [0, 1] of the images that are called reliable.
        reliable_precision: share in [0, 1] of the reliable images that are right; None when no image is reliable.
    """

    ece: float
    reliable_share: float
    reliable_precision: float | None


def score_clusters(clusters: NDArray[np.int64], classes: NDArray[np.generic]) -> Scores:
    """Scores a clustering.

    Args:
        clusters: (n,) integers.
        classes: (n,) true class names or numbers; there may be more or fewer classes than clusters.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    numbers, rows = np.unique(clusters, return_inverse=True)
    names, columns = np.unique(classes, return_inverse=True)
    counts = np.zeros((len(numbers), len(names)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    paired_rows, paired_columns = linear_sum_assignment(counts, maximize=True)
    return Scores(
        acc=float(counts[paired_rows, paired_columns].sum() / len(clusters)),
        nmi=float(normalized_mutual_info_score(columns, rows)),
        ari=float(adjusted_rand_score(columns, rows)),
        n=len(clusters),
        match={
            int(numbers[row]): str(names[column])
            for row, column in zip(paired_rows, paired_columns, strict=True)
            if counts[row, column]
        },
        confusion={
            int(number): {str(name): count for name, count in zip(names, row, strict=True) if count}
            for number, row in zip(numbers, counts.tolist(), strict=True)
        },
    )


def rightly_clustered(
    clusters: NDArray[np.int64], classes: NDArray[np.generic], match: Mapping[int, str]
) -> NDArray[np.bool_]:
    """(n,) bool: whether an image's class is the one that the match of `score_clusters` pairs with its cluster."""
    pairs = zip(clusters.tolist(), classes, strict=True)
    return np.array([cluster in match and match[cluster] == str(name) for cluster, name in pairs], dtype=bool)


def score_trust(right: NDArray[np.bool_], confidence: NDArray[np.floating], reliable: NDArray[np.bool_]) -> Trust:
    """Scores what a clustering says of itself.

    Args:
        right: (n,) bool, from `rightly_clustered`.
        confidence: (n,) in [0, 1].
        reliable: (n,) bool.
    """
    return Trust(
        ece=expected_calibration_error(confidence, right),
        reliable_share=float(reliable.mean()),
        reliable_precision=float(right[reliable].mean()) if reliable.any() else None,
    )


def expected_calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15) -> float:
    """How far confidence is from the share that is right, on average over images (Guo et al. 2017, equation 5).

    ECE = sum over bins b of |b| / n * |share right in b - mean confidence in b|, where bin k of K holds the confidences
    in ((k - 1) / K, k / K], and the first one 0 too.

    Args:
        confidence: (n,) in [0, 1], n >= 1.
        right: (n,) bool.
        bins: K bins of equal width, at least 1.

    Returns:
        A number in [0, 1]; 0 when each bin's images are as often right as they claim.
    """
    edges = np.arange(1, bins) / bins
    bin_of = np.searchsorted(edges, confidence, side="left")
    gaps = np.bincount(bin_of, weights=right - confidence.astype(np.float64))  # |b| cancels: sums instead of means
    return float(np.abs(gaps).sum() / len(confidence))
