"""Pairs of images that must be in one cluster, and pairs that cannot: the loss of constrained clustering.

H heads, B images in a batch, P pairs, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def link_loss(logits: Tensor, pairs: Tensor, together: Tensor) -> Tensor:
    """-log p.q of pairs that must link, and -log(1 - p.q) of those that cannot, their mean.

    p.q is the probability that two images, drawn independently, fall into one cluster. Both terms are computed from
    log-probabilities, so that neither is lost where a probability underflows; 1 - p.q is at least 1e-6.

    Args:
        logits: (H, B, C) float.
        pairs: (P, 2) int64 numbers of images in the batch.
        together: (P,) bool, True for a pair that must link.

    Returns:
        (H,) float32; 0 where there are no pairs.
    """
    if not len(pairs):
        return logits.new_zeros(len(logits))
    log_p = F.log_softmax(logits.float(), dim=2)
    one = torch.logsumexp(log_p[:, pairs[:, 0]] + log_p[:, pairs[:, 1]], dim=2)
    apart = (1 - one.exp()).clamp(min=1e-6).log()
    return -torch.where(together, one, apart).mean(dim=1)
