"""What stands for a cluster: typical and doubtful images, the cluster nearest to it, and the images between the two.

n rows of the manifest, C clusters.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.outputs.contact_sheet import choose_images
from spiceclust.result import Result

TYPICAL, DOUBTFUL, BETWEEN = 16, 8, 8  # images on a card: in rows of eight
HESITANT: Final = 0.1  # probability of the second cluster from which on an image hesitates


class Card(NamedTuple):
    """A cluster at a glance; images are rows of the manifest, and none is on a card twice.

    Attributes:
        size: images, duplicates among them.
        reliable: share in [0, 1] of them that are reliable; None where there are none.
        confidence: their mean confidence in [0, 1]; None where there are none.
        typical: from the most typical down.
        doubtful: from the most doubtful down.
        nearest: the other cluster that its images speak for most; None where they speak for none.
        between: images of both that hesitate between the two, from those that do most: they give the other one a
            probability of at least `HESITANT`.
    """

    size: int
    reliable: float | None
    confidence: float | None
    typical: list[int]
    doubtful: list[int]
    nearest: int | None
    between: list[int]


def cards_of(result: Result) -> list[Card]:
    """C cards, by cluster."""
    ok = np.array([row.status == "ok" for row in result.rows], dtype=bool)
    second = runners_up(result)
    return [_card(result, cluster, ok, second) for cluster in range(result.n_clusters)]


def runners_up(result: Result) -> NDArray[np.int64]:
    """(n,) int64 in [0, C): the second most probable cluster of each row; of no meaning for a quarantined one."""
    others = result.probabilities.copy()
    others[np.arange(len(others)), result.labels] = -1
    return np.asarray(others.argmax(axis=1), dtype=np.int64)


def _card(result: Result, cluster: int, ok: NDArray[np.bool_], second: NDArray[np.int64]) -> Card:
    inside = result.labels == cluster
    if not inside.any():
        return Card(0, None, None, [], [], None, [])
    typical, doubtful = choose_images(result, np.flatnonzero(inside & ok), TYPICAL, DOUBTFUL)
    spoken = result.probabilities[inside].mean(axis=0, dtype=np.float64)
    own, spoken[cluster] = float(spoken[cluster]), 0
    nearest = int(spoken.argmax()) if spoken.any() else None
    between = [] if nearest is None else _between(result, cluster, nearest, ok, second, {*typical, *doubtful})
    reliable = float(result.reliable[inside].mean())
    return Card(int(inside.sum()), reliable, own, typical, doubtful, nearest, between)


def _between(
    result: Result, one: int, other: int, ok: NDArray[np.bool_], second: NDArray[np.int64], shown: set[int]
) -> list[int]:
    here, there = (result.labels == one) & (second == other), (result.labels == other) & (second == one)
    rows = np.flatnonzero(ok & (here | there))
    rows = rows[~np.isin(rows, list(shown))]
    rows = rows[result.probabilities[rows, second[rows]] >= HESITANT]
    margin = np.abs(result.probabilities[rows, one] - result.probabilities[rows, other])
    return [int(row) for row in rows[np.argsort(margin, kind="stable")][:BETWEEN]]
