"""SCAN (Van Gansbeke et al. 2020): the losses of its clustering step and of its self-labelling step.

H heads, B images in a batch, C clusters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ConfidentLoss(NamedTuple):
    """Scalars: the loss, and the share of images that taught."""

    loss: Tensor
    used: Tensor


def scan_loss(anchors: Tensor, neighbors: Tensor, entropy_weight: float) -> Tensor:
    """Images and their neighbours belong together, and all clusters are used (equation 2).

    -mean over B of log <p_i, p_k>, plus the weight times sum over C of p'_c log p'_c, where p' is the mean of the p_i.
    Both are computed from log-probabilities, so that neither value nor gradient is lost where a probability underflows.

    Args:
        anchors: (H, B, C) float logits of images i.
        neighbors: (H, B, C) float logits of one mined neighbour k of each.
        entropy_weight: lambda, at least 0.

    Returns:
        (H,) float32: for each head a loss of at least -entropy_weight * log C; that is reached where images and
        neighbours are sure of the same cluster and the clusters are equally large.
    """
    own = F.log_softmax(anchors.float(), dim=2)
    agreement = torch.logsumexp(own + F.log_softmax(neighbors.float(), dim=2), dim=2)
    log_shares = torch.logsumexp(own, dim=1) - math.log(own.shape[1])
    return entropy_weight * (log_shares.exp() * log_shares).sum(dim=1) - agreement.mean(dim=1)


def select_confident(probabilities: Tensor, threshold: float, floor: float) -> Tensor:
    """The images to learn from: those surer than the threshold (section 2.3).

    Where none is, which the paper leaves open, each cluster gives its surest ones, the share `floor` and at least one.

    Args:
        probabilities: (B, C) float, B > 0.
        threshold: probability to exceed.
        floor: in (0, 1].

    Returns:
        (B,) bool, not empty. Of equally sure images the lower number comes first.
    """
    confidence, labels = probabilities.max(dim=1)
    confident = confidence > threshold
    order = confidence.argsort(descending=True, stable=True)
    members = F.one_hot(labels[order], probabilities.shape[1])
    places = (members.cumsum(dim=0) * members).sum(dim=1)  # 1 for the surest of its cluster
    quotas = (members.sum(dim=0).double() * floor - 1e-9).ceil().clamp(min=1)  # 0.07 * 100 may exceed 7 in the last bit
    surest = torch.empty_like(confident)
    surest[order] = places <= quotas[labels[order]]
    return torch.where(confident.any(), confident, surest)


def confident_loss(weak: Tensor, strong: Tensor, threshold: float, floor: float) -> ConfidentLoss:
    """Cross-entropy of strong views against the clusters of confident weak ones, weighted (section 2.3).

    A cluster's weight is one over the number of its images that teach, so that all clusters present count alike.

    Args:
        weak: (B, C) float logits of weak views; they teach and get no gradient.
        strong: (B, C) float logits of strong views of the same images.
        threshold, floor: as in `select_confident`.
    """
    probabilities = weak.detach().float().softmax(dim=1)
    used = select_confident(probabilities, threshold, floor)
    taught = probabilities.argmax(dim=1)[used]
    weights = 1 / taught.bincount(minlength=weak.shape[1]).clamp(min=1)
    return ConfidentLoss(F.cross_entropy(strong[used].float(), taught, weight=weights), used.float().mean())
