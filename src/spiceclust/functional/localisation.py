"""Where in an image the evidence for its cluster lies: class activation, at one stage of a network and at several.

Of a piecewise linear network without biases the gradient of a score times the activations of any stage sums to the
score, so that this product, summed over the channels alone, says what each place contributes: CAM (Zhou et al. 2016)
of a linear head on averaged features, Grad-CAM (Selvaraju et al. 2017) at the last stage, HiResCAM (Draelos and Carin
2020) at the others. The last stage knows clusters and has few places, earlier ones the reverse, hence the product.
B images, C clusters, D channels, h x w places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHED = 3  # places a side over which the product is averaged


def margin(logits: Tensor, clusters: Tensor) -> Tensor:
    """(B,) the logit of a cluster less the log-sum-exp of all others: the log-odds of the cluster.

    Args:
        logits: (B, C), C > 1.
        clusters: (B,) int64 in [0, C).
    """
    own = F.one_hot(clusters, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(dim=1)


def contributions(features: Tensor, gradients: Tensor) -> Tensor:
    """(B, h, w) what each place contributes to a score, of either sign.

    Args:
        features: (B, D, h, w) of a stage.
        gradients: (B, D, h, w) of the score with respect to them.
    """
    return (gradients * features).sum(dim=1)


def combined(stages: Sequence[Tensor]) -> Tensor:
    """(B, h, w) in [0, 1], the places of the finest stage: where all stages speak for the cluster.

    Contributions against it count as none. The largest value of an image is 1, unless none of its places speaks for it.

    Args:
        stages: contributions (B, h_i, w_i) of each stage.
    """
    finest = max((tuple(stage.shape[1:]) for stage in stages), key=lambda size: size[0] * size[1])
    product = torch.ones((len(stages[0]), *finest), device=stages[0].device)
    for stage in stages:
        finer = F.interpolate(_scaled(stage.relu())[:, None], size=finest, mode="bilinear", align_corners=False)
        product = product * finer[:, 0]
    smooth = F.avg_pool2d(_scaled(product)[:, None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
    return _scaled(smooth[:, 0])


def _scaled(maps: Tensor) -> Tensor:
    """Maps (B, h, w) >= 0 over the largest value of each."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
