"""Temperature scaling (Guo et al. 2017) without true labels.

A classifier trained on its own confident labels is too sure. The temperature is fitted so that its probabilities
predict the votes of those who have a second opinion. N images, C clusters.
"""

from __future__ import annotations

from torch import Tensor

SHARPEST, FLATTEST = 20.0, 0.05  # limits of 1 / T
HALVINGS = 50


def fit_temperature(logits: Tensor, votes: Tensor) -> float:
    """The T > 0 that minimises the mean cross-entropy of softmax(logits / T) against the votes.

    The cross-entropy is convex in 1 / T, so its derivative, mean logit under softmax less mean logit under the votes,
    is halved in on; T stays within [0.05, 20].

    Args:
        logits: (N, C) float.
        votes: (N, C) float, rows sum to 1.
    """
    logits, votes = logits.double(), votes.double()
    wanted = (votes * logits).sum(dim=1).mean()
    low, high = FLATTEST, SHARPEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = ((logits * middle).softmax(dim=1) * logits).sum(dim=1).mean()
        low, high = (middle, high) if found < wanted else (low, middle)
    return 2 / (low + high)
