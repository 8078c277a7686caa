"""How unlike the training images an image is: its distance to the nearest of them, told as a share of their own.

The distance to the k-th nearest training embedding tells strange images from known ones (Sun et al. 2022, Deep Nearest
Neighbors). Calibrated by the same distance of the training images among themselves, it reads alike for every model:
0.99 means farther than 99 % of them. R reference images, B images, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spiceclust.functional.neighbors import nearest_neighbors

SIZE = 2000  # reference images at the most: they are part of the model, and every prediction is compared with each
NEIGHBOR = 5


class Reference(NamedTuple):
    """What a model keeps of its training images.

    Attributes:
        embeddings: (R, D) float32, L2-normalised.
        distances: (R,) float32 in [0, 2], ascending: 1 - cosine of each to its fifth nearest among the others.
    """

    embeddings: Tensor
    distances: Tensor


def make_reference(embeddings: Tensor) -> Reference:
    """Up to 2,000 of the training images, evenly spread over their order.

    Args:
        embeddings: (N, D) float32, L2-normalised, N > 1.
    """
    rows = torch.linspace(0, len(embeddings) - 1, min(SIZE, len(embeddings)), device=embeddings.device).round().long()
    kept = embeddings[rows]
    cosines = nearest_neighbors(kept, min(NEIGHBOR, len(kept) - 1))[1]
    return Reference(kept, (1 - cosines[:, -1]).sort().values)


def novelty(embeddings: Tensor, reference: Reference) -> Tensor:
    """(B,) float32 in [0, 1]: the share of the reference images that lie closer to the others than each image to them.

    Args:
        embeddings: (B, D) float32, L2-normalised.
        reference: of the model that made them.
    """
    cosines = embeddings @ reference.embeddings.T
    farthest = cosines.topk(min(NEIGHBOR, len(reference.distances) - 1), dim=1).values[:, -1]
    closer = torch.searchsorted(reference.distances, (1 - farthest).contiguous())
    return closer.float() / len(reference.distances)
