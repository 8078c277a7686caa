"""Exact nearest neighbours by cosine, in tiles, so that memory does not grow with N squared.

N images, D features, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor


class Each(Protocol):
    """`map`, or what does as it does with several items at once."""

    def __call__(self, function: Callable[[int], None], items: Iterable[int], /) -> Iterable[None]: ...


TILE_BYTES = 64 * 2**20  # of the similarities held at once


def nearest_neighbors(
    embeddings: Tensor,
    k: int,
    tile_bytes: int = TILE_BYTES,
    rows: Tensor | None = None,
    each: Each = map,
) -> tuple[Tensor, Tensor]:
    """The K nearest other images of every image, or of some.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        k: K, at most N - 1.
        tile_bytes: memory for the similarities of one tile; it changes the speed, and the result by rounding only.
        rows: (B,) int64 numbers of the images whose neighbours are wanted; all N by default.
        each: how the tiles are gone through.

    Returns:
        (B, K) int64 neighbours from the nearest on, the image itself left out, and (B, K) float32 their cosines.
    """
    n = len(embeddings)
    assert 0 < k < n, (k, n)
    if rows is None:
        rows = torch.arange(n, device=embeddings.device)
    indices = torch.empty((len(rows), k), dtype=torch.int64, device=embeddings.device)
    cosines = torch.empty((len(rows), k), dtype=torch.float32, device=embeddings.device)
    size = max(1, tile_bytes // (4 * n))

    def fill(start: int) -> None:
        own = rows[start : start + size]
        tile = embeddings[own] @ embeddings.T
        tile[torch.arange(len(own), device=tile.device), own] = -torch.inf
        cosines[start : start + size], indices[start : start + size] = tile.topk(k, dim=1)

    for _ in each(fill, range(0, len(rows), size)):
        pass
    return indices, cosines
