"""Scores against true labels.

This is the only module that true labels enter: `evaluate` and the benchmarks call it after training, and an import
contract keeps it out of every stage.

n images, C clusters, L classes.
"""

from __future__ import annotations

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
    """

    acc: float
    nmi: float
    ari: float
    n: int
    match: dict[int, str]


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
    )
