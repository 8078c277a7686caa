"""InfoNCE with a queue of negatives: MoCo (He et al. 2020), equation 1.

B images in a batch, Q keys in the queue, d dimensions of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE loss: each query against its own key (positive) and the whole queue (negatives).

    Args:
        queries: (B, d) float, L2-normalised, with gradient.
        keys: (B, d) float, L2-normalised, without gradient.
        queue: (Q, d) float, L2-normalised keys of earlier batches.
        temperature: above 0.

    Returns:
        Scalar, the mean over the batch of -log softmax of the positive, in nats.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.T], dim=1).float() / temperature
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def enqueue(queue: Tensor, keys: Tensor, step: int) -> None:
    """Overwrites the oldest B entries of `queue` in place: the batch of `step` goes to rows step * B modulo Q.

    Args:
        queue: (Q, d); Q is a multiple of B.
        keys: (B, d).
        step: number of batches enqueued before this one.
    """
    assert len(queue) % len(keys) == 0, (len(queue), len(keys))
    start = step * len(keys) % len(queue)
    queue[start : start + len(keys)] = keys
