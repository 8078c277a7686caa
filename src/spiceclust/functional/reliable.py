"""Local semantic consistency: which labels can be trusted, and how consistent a labelling is, without true labels.

SPICE section III-C. N images, K neighbours, C clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_CONFIDENT = 10  # of so many agreeing images of a cluster, the least confident one is left out
ROUNDING = 1e-9  # a product such as 0.07 * 100 may exceed 7 by this little
NEIGHBOR_GRID = (5, 10, 20, 30, 50, 70, 100)


def agreement(labels: Tensor, neighbors: Tensor) -> Tensor:
    """(N,) float32: the share of an image's K neighbours that carry its label.

    Args:
        labels: (N,) int64.
        neighbors: (N, K) int64.
    """
    return (labels[neighbors] == labels.unsqueeze(1)).float().mean(dim=1)


def consistency(labels: Tensor, neighbors: Tensor, n_clusters: int) -> float:
    """Mean agreement corrected for chance, times the share of the C clusters that hold images.

    (a - a0) / (1 - a0) with a0 the sum of squared cluster shares: at most 1, about 0 for labels that ignore the
    neighbours. A labelling that puts everything into one cluster agrees everywhere and says nothing: it scores 0. One
    that merges two of C clusters agrees as well as the right one or better, but leaves a cluster empty.

    Args:
        labels: (N,) int64 in [0, C).
        neighbors: (N, K) int64.
        n_clusters: C.
    """
    shares = torch.bincount(labels, minlength=n_clusters).double() / len(labels)
    filled = int((shares > 0).sum()) / n_clusters
    chance = float((shares**2).sum())
    if chance >= 1:
        return 0.0
    return (float(agreement(labels, neighbors).double().mean()) - chance) / (1 - chance) * filled


def choose_k(labels: Tensor, neighbors: Tensor, threshold: float) -> int:
    """The K that maximises K times the share of images of which at least `threshold` of K neighbours agree.

    Large K is strict evidence but only for large clusters; the product finds where strictness stops paying.

    Args:
        labels: (N,) int64.
        neighbors: (N, K_max) int64, from the nearest on.
        threshold: share of the neighbours that must agree, in (0, 1].

    Returns:
        One of 5, 10, 20, ... up to K_max, or K_max itself when it is below 5.
    """
    most = neighbors.shape[1]
    grid = [k for k in NEIGHBOR_GRID if k <= most] or [most]
    values = [k * float((agreement(labels, neighbors[:, :k]) >= threshold).double().mean()) for k in grid]
    return grid[values.index(max(values))]


def select_reliable(
    labels: Tensor, confidence: Tensor, agreements: Tensor, n_clusters: int, threshold: float, floor: float
) -> Tensor:
    """The images whose neighbours agree, less the tenth of them in each cluster that is least confident.

    Of each cluster at least the share `floor`, and one image, is taken: the most agreeing first, then the most
    confident. So no cluster with images is left without, and the set is never empty.

    Args:
        labels: (N,) int64 in [0, C).
        confidence: (N,) float32 in [0, 1].
        agreements: (N,) float32 in [0, 1], from `agreement`.
        n_clusters: C.
        threshold: share of the neighbours that must agree.
        floor: least share of each cluster, in (0, 1].

    Returns:
        (N,) bool.
    """
    reliable = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for cluster in range(n_clusters):
        members = (labels == cluster).nonzero().squeeze(1)
        if len(members) == 0:
            continue
        agrees = agreements[members] >= threshold
        if agrees.any():
            sure = confidence[members]
            left_out = -((1 - int(agrees.sum())) // LEAST_CONFIDENT)
            agrees &= sure >= sure[agrees].kthvalue(left_out + 1).values
        least = max(1, math.ceil(floor * len(members) - ROUNDING))
        if int(agrees.sum()) < least:
            by_confidence = members[confidence[members].argsort(descending=True, stable=True)]
            order = by_confidence[agreements[by_confidence].argsort(descending=True, stable=True)]
            reliable[order[:least]] = True
        else:
            reliable[members[agrees]] = True
    return reliable
