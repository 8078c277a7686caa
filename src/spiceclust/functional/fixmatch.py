"""FixMatch (Sohn et al. 2020), equations 3 and 4: the loss of SPICE-Semi.

B labelled and U unlabelled images, C clusters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class FixMatchLoss(NamedTuple):
    """Scalars: the loss, and the share of unlabelled images whose weak view was confident enough to teach."""

    loss: Tensor
    used: Tensor


def fixmatch_loss(
    labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, threshold: float, unlabelled_weight: float
) -> FixMatchLoss:
    """Cross-entropy on labelled weak views, plus on strong views against confident weak ones.

    Args:
        labelled: (B, C) logits of the labelled images' weak views.
        labels: (B,) int64 in [0, C).
        weak: (U, C) logits of the unlabelled images' weak views; they teach and get no gradient.
        strong: (U, C) logits of the same images' strong views.
        threshold: tau, least confidence of the weak view.
        unlabelled_weight: lambda.
    """
    confidence, taught = weak.detach().float().softmax(dim=1).max(dim=1)
    used = (confidence >= threshold).float()
    unlabelled = (F.cross_entropy(strong.float(), taught, reduction="none") * used).mean()
    return FixMatchLoss(F.cross_entropy(labelled.float(), labels) + unlabelled_weight * unlabelled, used.mean())


def fixmatch_schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: cos(7 pi t / 16 T), from 1 down to 0.195."""
    return math.cos(7 * math.pi * step / (16 * steps))
