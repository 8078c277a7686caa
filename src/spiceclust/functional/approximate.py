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

from spiceclust.functional.neighbors import nearest_neighbors

EXACT_UP_TO = 200_000  # images on a CPU: about ten minutes on two cores
RECALL = 0.99  # mean share of the exact neighbours that must be found
SAMPLE = 1000  # images on which that is measured
FIRST_PROBES = 8  # cells looked into at first; doubled until the recall is reached


class Neighbors(NamedTuple):
    """Neighbours, and how many of the true ones they are.

    Attributes:
        indices: (N, K) int64, from the nearest on, the image itself left out.
        recall: mean share in [0, 1] of the K exact neighbours that were found, on a sample; 1 where all pairs were
            compared.
    """

    indices: Tensor
    recall: float


def find_neighbors(embeddings: Tensor, k: int, exact_up_to: int = EXACT_UP_TO) -> Neighbors:
    """The K nearest other images of every image: exact where that is a matter of minutes or faiss is not installed.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        k: K, at most N - 1.
        exact_up_to: N up to which all pairs are compared on a CPU; a GPU always does.
    """
    n = len(embeddings)
    if n <= exact_up_to or k == n - 1 or embeddings.device.type != "cpu" or not faiss_is_there():
        return Neighbors(nearest_neighbors(embeddings, k)[0], 1.0)
    return approximate_neighbors(embeddings, k)


def faiss_is_there() -> bool:
    """Whether faiss is installed (the extra `faiss`)."""
    return importlib.util.find_spec("faiss") is not None


def approximate_neighbors(embeddings: Tensor, k: int, recall: float = RECALL) -> Neighbors:
    """Nearly the K nearest other images of every image.

    Args:
        embeddings: (N, D) float32 on the CPU, L2-normalised.
        k: K, at most N - 2.
        recall: wanted; where few cells do not reach it, all are looked into.
    """
    import faiss

    n, dim = embeddings.shape
    assert 0 < k < n - 1, (k, n)
    points = embeddings.contiguous().numpy()
    cells = min(n, round(4 * math.sqrt(n)))
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 0, 1, 64
    index.train(points)
    index.add(points)

    def search(rows: Tensor) -> Tensor:
        queries = points if len(rows) == n else points[rows.numpy()]
        return _others(torch.from_numpy(index.search(queries, k + 1)[1]), rows)

    sample = torch.linspace(0, n - 1, min(SAMPLE, n)).long()
    exact, _ = nearest_neighbors(embeddings, k, rows=sample)
    index.nprobe = min(FIRST_PROBES, cells)
    while (share := _recall(search(sample), exact)) < recall and index.nprobe < cells:
        index.nprobe = min(2 * index.nprobe, cells)
    indices = search(torch.arange(n))
    short = (indices < 0).any(dim=1).nonzero().squeeze(1)  # their cells hold too few images
    indices[short] = nearest_neighbors(embeddings, k, rows=short)[0]
    return Neighbors(indices, share)


def _others(found: Tensor, own: Tensor) -> Tensor:
    """(B, K + 1) images found, less the (B,) images themselves, or less the last where these were not found."""
    is_own = found == own.unsqueeze(1)
    is_own[:, -1] |= ~is_own.any(dim=1)
    return found[~is_own].view(len(found), -1)


def _recall(found: Tensor, exact: Tensor) -> float:
    """Mean share of the (B, K) exact neighbours among the (B, K) found."""
    return float((exact.unsqueeze(2) == found.unsqueeze(1)).any(dim=2).double().mean())
