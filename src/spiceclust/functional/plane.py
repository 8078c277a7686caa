"""A place in the plane for every image: what a map shows.

N images, D features.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 65_536  # rows in double precision at a time
TSNE_FROM, TSNE_UP_TO = 100, 50_000  # images: fewer have no neighbourhoods to show, more would take many minutes
PERPLEXITY = 30.0  # neighbours that an image is kept with


def place_in_plane(embeddings: Tensor, seed: int) -> tuple[Tensor, str]:
    """A place for every image, by t-SNE where openTSNE is installed (the extra `map`), else in the principal plane.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        seed: of the search for neighbours of t-SNE.

    Returns:
        (N, 2) float32, and how it came about: `t-SNE` or `PCA`.
    """
    seen = principal_plane(embeddings)
    if not TSNE_FROM <= len(embeddings) <= TSNE_UP_TO or importlib.util.find_spec("openTSNE") is None:
        return seen, "PCA"
    import openTSNE

    tsne = openTSNE.TSNE(
        perplexity=PERPLEXITY,
        initialization=openTSNE.initialization.rescale(seen.cpu().double().numpy()),  # so that it shows the whole too
        random_state=seed,
        n_jobs=torch.get_num_threads(),
    )
    return torch.from_numpy(np.array(tsne.fit(embeddings.cpu().numpy()), dtype=np.float32)), "t-SNE"


def principal_plane(embeddings: Tensor) -> Tensor:
    """The embeddings seen along their two directions of greatest variance (PCA), greatest first.

    A direction has no sign of its own: it is turned so that its entry of largest magnitude, of equal ones the first, is
    positive. So equal embeddings always give the same map.

    Args:
        embeddings: (N, D) float, finite.

    Returns:
        (N, 2) float32, mean 0; the second column is 0 where D is 1.
    """
    n, n_features = embeddings.shape
    mean = torch.zeros(n_features, dtype=torch.float64, device=embeddings.device)
    scatter = torch.zeros((n_features, n_features), dtype=torch.float64, device=embeddings.device)
    for part in torch.split(embeddings, AT_ONCE):
        mean += part.double().sum(dim=0) / n
    for part in torch.split(embeddings, AT_ONCE):
        centred = part.double() - mean
        scatter += centred.T @ centred
    directions = torch.linalg.eigh(scatter).eigenvectors[:, -2:].flip(1)
    largest = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    seen = torch.cat([((part.double() - mean) @ directions).float() for part in torch.split(embeddings, AT_ONCE)])
    return torch.nn.functional.pad(seen, (0, 2 - seen.shape[1]))
