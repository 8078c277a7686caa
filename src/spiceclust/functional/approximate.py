"""Nearest neighbours by cosine of more images than all pairs can be compared of: an inverted file of faiss.

The embeddings are gathered in cells, and an image is compared with those in the few cells nearest to it. How many cells
that must be is measured: enough for the recall wanted, on a sample of images whose exact neighbours are computed.
N images, D features, K neighbours.
"""

from __future__ import annotations

import importlib.util
import math
from typing import NamedTuple

import torch
from torch import Tensor

from spiceclust.functional.neighbors import Each, nearest_neighbors

EXACT_UP_TO = 200_000  # images on a CPU
RECALL = 0.99  # mean share of neighbours that must be as near as the exact ones
ROUNDING = 1e-5  # of a cosine
SAMPLE = 1000  # images on which that is measured
FIRST_PROBES = 8  # cells looked into at first; doubled until the recall is reached


class Neighbors(NamedTuple):
    """Neighbours, and how good they are.

    Attributes:
        indices: (N, K) int64, from the nearest on, the image itself left out.
        recall: mean share in [0, 1] of the neighbours that are no farther than the K-th exact one, on a sample; 1 where
            all pairs were compared.
        exact: whether they were.
    """

    indices: Tensor
    recall: float
    exact: bool


def find_neighbors(
    embeddings: Tensor, k: int, exact_up_to: int = EXACT_UP_TO, each: Each = map, rows: Tensor | None = None
) -> Neighbors:
    """The K nearest others of every image, or of some: exact up to a number of images, or where faiss is not installed.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        k: K, at most N - 1.
        exact_up_to: N up to which all pairs are compared on a CPU; a GPU always does.
        each: how tiles of pairs are gone through, as in `nearest_neighbors`.
        rows: (B,) int64 numbers of the images whose neighbours are wanted; all N by default.
    """
    n = len(embeddings)
    if n <= exact_up_to or k == n - 1 or embeddings.device.type != "cpu" or not faiss_is_there():
        return Neighbors(nearest_neighbors(embeddings, k, rows=rows, each=each)[0], 1.0, exact=True)
    return approximate_neighbors(embeddings, k, rows=rows)


def faiss_is_there() -> bool:
    """Whether faiss is installed (the extra `faiss`)."""
    return importlib.util.find_spec("faiss") is not None


def approximate_neighbors(embeddings: Tensor, k: int, recall: float = RECALL, rows: Tensor | None = None) -> Neighbors:
    """Nearly the K nearest other images of every image.

    Args:
        embeddings: (N, D) float32 on the CPU, L2-normalised.
        k: K, at most N - 2.
        recall: wanted; where few cells do not reach it, all are looked into.
        rows: as in `find_neighbors`.
    """
    import faiss

    n, dim = embeddings.shape
    assert 0 < k < n - 1, (k, n)
    points = embeddings.contiguous().numpy()
    cells = min(n, round(4 * math.sqrt(n)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 0, 1, 64
    index.train(points)
    index.add(points)

    def search(rows: Tensor) -> tuple[Tensor, Tensor]:
        queries = points if len(rows) == n else points[rows.numpy()]
        cosines, found = (torch.from_numpy(each) for each in index.search(queries, k + 1))
        others = _others(found, rows)
        return cosines[others].view(-1, k), found[others].view(-1, k)

    sample = torch.linspace(0, n - 1, min(SAMPLE, n)).long()
    farthest = nearest_neighbors(embeddings, k, rows=sample)[1][:, -1:] - ROUNDING
    index.nprobe = min(FIRST_PROBES, cells)
    while (share := float((search(sample)[0] >= farthest).double().mean())) < recall and index.nprobe < cells:
        index.nprobe = min(2 * index.nprobe, cells)
    wanted = torch.arange(n) if rows is None else rows
    _, indices = search(wanted)
    short = (indices < 0).any(dim=1).nonzero().squeeze(1)  # their cells hold too few images
    indices[short] = nearest_neighbors(embeddings, k, rows=wanted[short])[0]
    return Neighbors(indices, share, exact=False)


def _others(found: Tensor, own: Tensor) -> Tensor:
    """(B, K + 1) bool: of the images found all but the (B,) images themselves, or but the last where these are not."""
    is_own = found == own.unsqueeze(1)
    is_own[:, -1] |= ~is_own.any(dim=1)
    return ~is_own
