"""Second opinions: what other partitions of the same images say of a labelling.

Clusterings that were come by in different ways agree where the images leave no choice, and part where a boundary was a
matter of taste; neighbours alone do not tell, since they sit on the same side of a boundary wherever it was drawn. A
method with one way of clustering has only its ten heads to ask.
N images, H partitions, C clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CONVICTION = 3.0  # what a point of partition score is worth: 0.33 behind weighs 1 / e (docs/log.md)


def opinions(partitions: Tensor, scores: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """The clusters that partitions give an image to, in the names of `labels`, better partitions counting more.

    Args:
        partitions: (H, N) int64 in [0, C), each with its own numbering.
        scores: (H,) float, the `partition_score` of each.
        labels: (N,) int64 in [0, C), whose numbering counts.
        n_clusters: C.

    Returns:
        (N, C) float32, rows sum to 1: sum over h of w_h [partition h gives the image to c], w = softmax(3 scores).
    """
    said = torch.zeros((len(labels), n_clusters), device=labels.device)
    everyone = torch.arange(len(labels), device=labels.device)
    for weight, partition in zip((CONVICTION * scores.double()).softmax(dim=0).tolist(), partitions, strict=True):
        said[everyone, renumbered(partition, labels, n_clusters)] += weight
    return said


def consensus(partitions: Tensor, scores: Tensor, n_clusters: int) -> Tensor:
    """How far each partition agrees with all of them, better ones counting more.

    Args:
        partitions: (H, N) int64 in [0, C), each with its own numbering.
        scores: (H,) float, the `partition_score` of each.
        n_clusters: C.

    Returns:
        (H,) float64 in [0, 1]: sum over g of w_g times the share of images on which g agrees under the best match of
        the numberings, w = softmax(3 scores); itself included.
    """
    shares = torch.eye(len(partitions), dtype=torch.float64)
    for h, own in enumerate(partitions):
        for g in range(h):
            together = renumbered(partitions[g], own, n_clusters) == own
            shares[h, g] = shares[g, h] = float(together.double().mean())
    return shares @ (CONVICTION * scores.double().cpu()).softmax(dim=0)


def renumbered(partition: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """A partition with its clusters numbered as in `labels`, by the one-to-one match that agrees on most images.

    Args:
        partition: (N,) int64 in [0, C).
        labels: (N,) int64 in [0, C).
        n_clusters: C.

    Returns:
        (N,) int64.
    """
    together = (partition * n_clusters + labels).bincount(minlength=n_clusters * n_clusters)
    _, names = linear_sum_assignment(together.view(n_clusters, n_clusters).cpu().numpy(), maximize=True)
    return torch.as_tensor(names.astype(np.int64), device=labels.device)[partition]
