"""How far embeddings lie apart and how many clusters are in use: what shrinks when features or heads collapse.

N images, D features, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 2**14  # that are float64 together
SAMPLE = 2000  # rows from which the rank is found: their spectrum costs min(rows, D)^2 times the other


def mean_cosine(embeddings: Tensor) -> float:
    """Mean cosine of two different images, in [-1, 1]: 1 where all embeddings are one.

    Args:
        embeddings: (N, D) float32, L2-normalised, N > 1.
    """
    n, own = len(embeddings), embeddings.norm(dim=1).double().square().sum()
    parts = [embeddings[start : start + ROWS_AT_ONCE] for start in range(0, n, ROWS_AT_ONCE)]
    total = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0)
    return float((total.square().sum() - own) / (n * (n - 1)))


def effective_rank(embeddings: Tensor) -> float:
    """How many directions embeddings differ in: exp of the entropy of their singular values (Roy and Vetterli 2007).

    The values are those of the embeddings less their mean, each divided by the sum of all; of 2,000 evenly spread rows
    where there are more.

    Args:
        embeddings: (N, D) float32.

    Returns:
        From 1 to min(N - 1, D); 0 where all embeddings are one.
    """
    rows = torch.linspace(0, len(embeddings) - 1, min(SAMPLE, len(embeddings)), device=embeddings.device).round().long()
    sample = embeddings[rows].double()
    values = torch.linalg.svdvals(sample - sample.mean(dim=0))
    if float(values.max()) < 1e-12:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def effective_clusters(sizes: Tensor) -> float:
    """How many clusters of equal size are as uneven as these: exp of the entropy of their shares, in [1, C].

    Args:
        sizes: (C,) images in each, not all 0.
    """
    shares = sizes.double() / sizes.sum()
    return float(torch.special.entr(shares).sum().exp())
