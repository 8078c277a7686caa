"""Exact nearest neighbours by cosine, in tiles, so that memory does not grow with N squared.

N images, D features, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE_BYTES = 64 * 2**20  # of the similarities held at once


def nearest_neighbors(embeddings: Tensor, k: int, tile_bytes: int = TILE_BYTES) -> tuple[Tensor, Tensor]:
    """The K nearest other images of every image.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        k: K, at most N - 1.
        tile_bytes: memory for the similarities of one tile; it changes the speed, and the result by rounding only.

    Returns:
        (N, K) int64 neighbours from the nearest on, the image itself left out, and (N, K) float32 their cosines.
    """
    n = len(embeddings)
    assert 0 < k < n, (k, n)
    rows = max(1, tile_bytes // (4 * n))
    indices = torch.empty((n, k), dtype=torch.int64, device=embeddings.device)
    cosines = torch.empty((n, k), dtype=torch.float32, device=embeddings.device)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        tile = embeddings[start:stop] @ embeddings.T
        own = torch.arange(start, stop, device=tile.device)
        tile[own - start, own] = -torch.inf
        cosines[start:stop], indices[start:stop] = tile.topk(k, dim=1)
    return indices, cosines
