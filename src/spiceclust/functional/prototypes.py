"""Prototype pseudo-labels and the loss that learns them: SPICE-Self (Niu et al. 2022, section III-B).

H heads, M images in a meta-batch, D features, C clusters, P = sum of the quotas.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def balanced_quotas(n_images: int, n_clusters: int) -> Tensor:
    """(C,) int64 quotas that differ by at most one and sum to `n_images`."""
    base, rest = divmod(n_images, n_clusters)
    return torch.tensor([base + (cluster < rest) for cluster in range(n_clusters)])


def prototypes(embeddings: Tensor, probabilities: Tensor, quotas: Tensor, ratio: float) -> Tensor:
    """Mean embedding of each cluster's most confident images (equation 2), L2-normalised.

    Args:
        embeddings: (M, D) float.
        probabilities: (H, M, C) float, of the weak views.
        quotas: (C,) int64, images expected in each cluster.
        ratio: share of the quota that is averaged; at least one image is.

    Returns:
        (H, C, D) float.
    """
    taken = (quotas.double() * ratio + 1e-9).long().clamp(min=1)  # 0.53 * 100 is 53, whatever the last bit
    ranks = _ranks(probabilities)
    weights = (ranks < taken.to(ranks.device)).to(embeddings.dtype)
    return F.normalize(weights.transpose(1, 2) @ embeddings, dim=2)


def pseudo_labels(embeddings: Tensor, prototypes: Tensor, quotas: Tensor) -> Tensor:
    """The nearest images of each prototype by cosine, as many as its quota (equation 3).

    An image may be taken by no prototype or by several.

    Args:
        embeddings: (M, D) float, L2-normalised.
        prototypes: (H, C, D) float, L2-normalised.
        quotas: (C,) int64.

    Returns:
        (H, P) int64 image numbers in [0, M): first the images of cluster 0, then those of cluster 1, and so on, each
        from the nearest on. `labels_of(quotas)` gives the clusters.
    """
    similarity = prototypes @ embeddings.T
    order = similarity.argsort(dim=2, descending=True, stable=True)
    return torch.cat([order[:, cluster, :quota] for cluster, quota in enumerate(quotas.tolist())], dim=1)


def labels_of(quotas: Tensor) -> Tensor:
    """(P,) int64 cluster numbers: 0 repeated quotas[0] times, then 1, and so on."""
    return torch.repeat_interleave(torch.arange(len(quotas)), quotas)


def double_softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of log_softmax applied to the softmax output (equation 4), summed over heads.

    The second softmax bounds the loss, so that wrong pseudo-labels cannot dominate.

    Args:
        logits: (H, B, C) float, of the strong views.
        labels: (H, B) int64 in [0, C).

    Returns:
        Scalar: for each head the mean over B, summed over the heads, which keeps the heads' gradients independent.
    """
    log_probabilities = F.log_softmax(logits.float().softmax(dim=2), dim=2)
    return -log_probabilities.gather(2, labels.unsqueeze(2)).squeeze(2).mean(dim=1).sum()


def _ranks(scores: Tensor) -> Tensor:
    """(H, M, C) scores to the place of each image in its column, 0 the highest; ties go to the lower image number."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).view(1, -1, 1).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def typicality(labels: Tensor, embeddings: Tensor, n_clusters: int) -> Tensor:
    """(N,) float32 in [-1, 1]: cosine of each image and the mean of its cluster; 0 for images without a label.

    Args:
        labels: (N,) int64 in [0, C), or -1.
        embeddings: (N, D) float32, L2-normalised.
        n_clusters: C.
    """
    members = F.one_hot(labels.clamp(min=0), n_clusters).float() * (labels >= 0).unsqueeze(1)
    centres = F.normalize(members.T @ embeddings, dim=1)
    return (embeddings * centres[labels.clamp(min=0)]).sum(dim=1) * (labels >= 0)
