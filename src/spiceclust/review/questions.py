"""Which images to ask about.

n rows of the manifest, C' clusters, N distinct readable images, D features, B questions in a batch.
"""

from __future__ import annotations

import warnings
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.corrections import State
from spiceclust.review.purity import Frame

BATCH: Final = 50
AT_RANDOM: Final = 15  # of these
MOST: Final = 20_000  # images among which questions are sought; of more, a random part
FLOOR: Final = 0.1  # weight of an image without doubt: what is surely wrong must be asked about too

Ints = NDArray[np.int64]


class Questions(NamedTuple):
    """A batch.

    Attributes:
        rows: up to B rows of the manifest, open and distinct.
        random: for each, whether it was drawn at random.
    """

    rows: list[int]
    random: list[bool]


def choose(
    frame: Frame,
    state: State,
    probabilities: NDArray[np.float32],
    embeddings: NDArray[np.floating],
    places: Ints,
    count: int = BATCH,
    at_random: int = AT_RANDOM,
) -> Questions:
    """The images whose answer helps most, and some at random.

    The former are spread over what is doubtful: k-means over the embeddings, in which an image weighs 1 less the margin
    between its two best clusters, and of each mean the nearest image (Prabhu et al. 2021, clustering embeddings
    weighted by uncertainty). So they are doubtful, have many like them, and are unlike each other. The latter are
    the next of the frame's order. They alone tell how pure clusters are, since the former are chosen for being wrong.

    Args:
        frame: that holds for the state.
        state: of the corrections.
        probabilities: (n, C'), of the head in force.
        embeddings: (N, D), L2-normalised.
        places: (n,), which of the N is that of a row.
        count: B; fewer are given where fewer are open.
        at_random: how many of them are drawn at random; more, where images are too alike to part.
    """
    rows = frame.order[~state.fixed[frame.order]]
    sought = rows[:MOST]
    helpful = _helpful(embeddings[places[sought]], probabilities[sought], min(count - at_random, len(sought)))
    asked = np.isin(rows, sought[helpful])
    drawn = rows[~asked][: count - int(asked.sum())]
    return Questions([*rows[asked].tolist(), *drawn.tolist()], [False] * int(asked.sum()) + [True] * len(drawn))


def _helpful(embeddings: NDArray[np.floating], probabilities: NDArray[np.float32], count: int) -> Ints:
    """Numbers of up to so many of the images, in any order."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if count <= 0:
        return np.empty(0, dtype=np.int64)
    best = np.sort(probabilities, axis=1)[:, -2:]
    weights = 1 - (best[:, 1] - best[:, 0]) + FLOOR
    points = embeddings.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different embeddings than means
        means = KMeans(count, n_init=1, random_state=0, max_iter=30).fit(points, sample_weight=weights)
    return np.unique(means.transform(points).argmin(axis=0))
