"""Partitions of the neighbour graph: the first labels, from which the heads learn.

k-means cuts by distance alone and wants clusters of one size. A graph is cut where few images are neighbours, whatever
the sizes on both sides. To be quick at any N, k-means first gathers the images in G small groups, and the links between
the groups are all that is cut. Two ways of cutting fail on different data, so both are tried and a label-free score
decides. N images, D features, K neighbours, G groups, C clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.reliable import agreement

MOST_GROUPS = 1000  # the cost grows with the third power
BALANCE = 3.0  # what a gain in evenness is worth (docs/log.md)
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
        (N,) int64 in [0, C), every cluster present: of the spectral and the linked partition the one that
        `partition_score` prefers.
    """
    from sklearn.cluster import KMeans

    n = len(embeddings)
    count = max(2 * n_clusters, min(groups_per_cluster * n_clusters, n // 10, MOST_GROUPS))
    grouped = KMeans(count, n_init=1, random_state=seed).fit_predict(embeddings.cpu().numpy())
    groups = _numbered(torch.as_tensor(grouped, device=embeddings.device))
    links = group_links(groups, neighbors)
    sizes = groups.bincount()
    candidates = [cut_spectrally(links, n_clusters, seed)[groups], merge_linked(links, sizes, n_clusters)[groups]]
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
    between = links.clone()
    between.fill_diagonal_(0)
    weight = sizes.double().clone()
    cluster = torch.arange(len(links), device=links.device)
    alive = torch.ones(len(links), dtype=torch.bool, device=links.device)
    for _ in range(len(links) - n_clusters):
        strength = between / torch.minimum(weight.unsqueeze(0), weight.unsqueeze(1))
        strength[~alive] = -1
        strength[:, ~alive] = -1
        strength.fill_diagonal_(-1)
        kept, gone = divmod(int(strength.argmax()), len(links))
        between[kept] += between[gone]
        between[:, kept] += between[:, gone]
        between[kept, kept] = 0
        weight[kept] += weight[gone]
        alive[gone] = False
        cluster[cluster == gone] = kept
    return _numbered(cluster)


def cut_spectrally(links: Tensor, n_clusters: int, seed: int) -> Tensor:
    """The normalised cut of the groups into C clusters (Ng et al. 2001, Damle et al. 2019).

    Args:
        links: (G, G) float64, of `group_links`; G > C.
        n_clusters: C.
        seed: of the eigensolver.

    Returns:
        (G,) int64 cluster of each group.
    """
    from sklearn.cluster import SpectralClustering

    affinity = links.cpu().numpy() + 1e-3  # a graph in several pieces has no single spectrum
    cut = SpectralClustering(n_clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    return torch.as_tensor(cut.fit_predict(affinity), dtype=torch.int64, device=links.device)


def partition_score(labels: Tensor, neighbors: Tensor, n_clusters: int) -> float:
    """How well labels part the images, seen without a true one: few neighbours apart, and an even use of the clusters.

    3 H - log(1 - a + 0.01), with H the entropy of the cluster shares in nats and a the mean agreement of neighbours.
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
    """Shares of the clusters among an image and its neighbours.

    Args:
        labels: (H, N) int64 in [0, C), of H partitions.
        neighbors: (B, K) int64 numbers of the neighbours of B images, the image itself among them.
        n_clusters: C.

    Returns:
        (H, B, C) float32, rows sum to 1.
    """
    return F.one_hot(labels[:, neighbors], n_clusters).float().mean(dim=2)


def _numbered(names: Tensor) -> Tensor:
    """The same classes under the numbers 0, 1, 2, ... in the order of their names."""
    numbers: Tensor = torch.unique(names, return_inverse=True)[1]
    return numbers
