"""Partitions of the neighbour graph: the first labels, from which the heads learn.

k-means cuts by distance alone and wants clusters of one size. A graph is cut where few images are neighbours, whatever
the sizes on both sides. To be quick at any N, k-means first gathers the images in G small groups, and the links between
the groups are all that is cut. Two ways of cutting fail on different data, so both are tried and a label-free score
decides. N images, D features, K neighbours, G groups, C clusters.
"""

from __future__ import annotations

import math
import warnings

import torch
from scipy.linalg import qr
from threadpoolctl import threadpool_limits
from torch import Tensor

from spiceclust.functional.reliable import agreement

MOST_GROUPS = 1000  # the cost grows with the third power
BALANCE = 3.5  # what a gain in evenness is worth (docs/log.md)
WEAKEST_LINK = 1e-3  # between any two groups: a graph in several pieces has no single spectrum
TOLERANCE = 0.01  # share of disagreeing neighbours below which differences are noise


def partition(embeddings: Tensor, neighbors: Tensor, n_clusters: int, groups_per_cluster: int, seed: int) -> Tensor:
    """Parts the images by the links between neighbours.

    Args:
        embeddings: (N, D) float32, L2-normalised; N >= 2 C.
        neighbors: (N, K) int64.
        n_clusters: C.
        groups_per_cluster: G / C; G is at most N / 10 and 1,000, and at least 2 C.
        seed: of k-means, below 2^31.

    Returns:
        (N,) int64 in [0, C): of the spectral and the linked partition the one that `partition_score` prefers. Every
        cluster is present, unless fewer than C embeddings differ.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    n = len(embeddings)
    count = max(2 * n_clusters, min(groups_per_cluster * n_clusters, n // 10, MOST_GROUPS))
    with warnings.catch_warnings(), threadpool_limits(1):  # it adds up what its threads found in any order
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer points differ than groups were asked for
        grouped = KMeans(count, n_init=1, random_state=seed).fit_predict(embeddings.cpu().numpy())
    groups = _numbered(torch.as_tensor(grouped, device=embeddings.device))
    if int(groups.max()) < n_clusters:
        return groups
    links = group_links(groups, neighbors)
    sizes = groups.bincount()
    candidates = [cut_spectrally(links, n_clusters)[groups], merge_linked(links, sizes, n_clusters)[groups]]
    return max(candidates, key=lambda labels: partition_score(labels, neighbors, n_clusters))


def group_links(groups: Tensor, neighbors: Tensor) -> Tensor:
    """How often members of two groups are neighbours.

    Args:
        groups: (N,) int64 in [0, G).
        neighbors: (N, K) int64.

    Returns:
        (G, G) float64, symmetric: links in either direction; the diagonal holds those within a group, twice.
    """
    count = int(groups.max()) + 1
    pairs = groups.unsqueeze(1) * count + groups[neighbors]
    links = pairs.flatten().bincount(minlength=count * count).view(count, count).double()
    return links + links.T


def merge_linked(links: Tensor, sizes: Tensor, n_clusters: int) -> Tensor:
    """Merges groups until C are left, always the two with the most links for each image of the smaller one.

    What is small and well connected is swallowed, what is large and apart stays, whatever its size.

    Args:
        links: (G, G) float64, of `group_links`; G >= C.
        sizes: (G,) images in each group.
        n_clusters: C.

    Returns:
        (G,) int64 cluster of each group.
    """
    between, weight = links.clone(), sizes.double().clone()
    cluster = torch.arange(len(links), device=links.device)
    merged = torch.zeros(len(links), dtype=torch.bool, device=links.device)
    strength = between / torch.minimum(weight.unsqueeze(0), weight.unsqueeze(1))
    strength.fill_diagonal_(-1)
    for _ in range(len(links) - n_clusters):
        kept, gone = divmod(int(strength.argmax()), len(links))
        between[kept] += between[gone]
        between[:, kept] += between[:, gone]
        weight[kept] += weight[gone]
        merged[gone] = True
        cluster[cluster == gone] = kept
        own = between[kept] / torch.minimum(weight, weight[kept])
        own[merged] = -1
        own[kept] = -1
        strength[kept], strength[:, kept] = own, own
        strength[gone], strength[:, gone] = -1, -1
    return _numbered(cluster)


def cut_spectrally(links: Tensor, n_clusters: int) -> Tensor:
    """The normalised cut of the groups into C clusters (Shi and Malik 2000), rounded as in Damle et al. (2019).

    The links within a group count: without them a cluster of a single group would have no weight of its own.

    Args:
        links: (G, G) float64, of `group_links`; G >= C.
        n_clusters: C.

    Returns:
        (G,) int64 cluster of each group.
    """
    affinity = links + WEAKEST_LINK
    scale = affinity.sum(dim=1).sqrt()
    vectors = torch.linalg.eigh(affinity / torch.outer(scale, scale))[1][:, -n_clusters:]
    # Pivoted QR finds C groups far apart in the spectrum; the rotation that takes these to the axes takes all along.
    with threadpool_limits(1):  # the same on any number of threads
        _, _, pivots = qr(vectors.T.cpu().numpy(), pivoting=True)
    left, _, right = torch.linalg.svd(vectors[torch.as_tensor(pivots[:n_clusters].astype("int64"))].T)
    found: Tensor = (vectors @ (left @ right)).abs().argmax(dim=1)
    return found


def partition_score(labels: Tensor, neighbors: Tensor, n_clusters: int) -> float:
    """How well labels part the images, seen without a true one: few neighbours apart, and an even use of the clusters.

    3.5 H - log(1 - a + 0.01), with H the entropy of the cluster shares in nats and a the mean agreement of neighbours.
    Agreement alone prefers one large cluster and scraps; evenness alone is k-means' mistake.

    Args:
        labels: (N,) int64 in [0, C).
        neighbors: (N, K) int64.
        n_clusters: C.
    """
    shares = labels.bincount(minlength=n_clusters).double() / len(labels)
    entropy = float(torch.special.entr(shares).sum())
    apart = 1 - float(agreement(labels, neighbors).double().mean())
    return BALANCE * entropy - math.log(apart + TOLERANCE)


def neighbor_votes(labels: Tensor, neighbors: Tensor, n_clusters: int) -> Tensor:
    """Shares of the clusters among the neighbours of an image.

    Args:
        labels: (H, N) int64 in [0, C), of H partitions.
        neighbors: (B, K) int64 numbers of those whose labels count, for each of B images.
        n_clusters: C.

    Returns:
        (H, B, C) float32, rows sum to 1.
    """
    votes = torch.zeros((len(labels), len(neighbors), n_clusters), device=labels.device)
    each = torch.full((1, 1, 1), 1 / neighbors.shape[1], device=labels.device)
    return votes.scatter_add_(2, labels[:, neighbors], each.expand(len(labels), *neighbors.shape))


def _numbered(names: Tensor) -> Tensor:
    """The same classes under the numbers 0, 1, 2, ... in the order of their names."""
    numbers: Tensor = torch.unique(names, return_inverse=True)[1]
    return numbers
