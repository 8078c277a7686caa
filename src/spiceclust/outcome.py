"""From what the stages found of the distinct images to a Result of every input.

N distinct readable images, n rows of the manifest, C clusters, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spiceclust.data.images import Images
from spiceclust.functional.prototypes import typicality
from spiceclust.result import Result


def result_of(
    images: Images,
    probabilities: Tensor,
    embeddings: Tensor,
    positions: Tensor,
    reliable: Tensor,
    record: dict[str, Any],
    metrics: dict[str, Any],
) -> Result:
    """Spreads the N distinct images over the n rows of the manifest.

    Args:
        images: as they were read.
        probabilities: (N, C) float32.
        embeddings: (N, D) float32, L2-normalised.
        positions: (N, 2) float32, places on the map.
        reliable: (N,) bool.
        record: run.json.
        metrics: metrics.json.
    """
    labels = probabilities.argmax(dim=1)
    return Result(
        rows=images.rows,
        labels=_spread(images, labels, -1),
        probabilities=_spread(images, probabilities, 0),
        reliable=_spread(images, reliable, False),
        typicality=_spread(images, typicality(labels, embeddings, probabilities.shape[1]), 0),
        run=record,
        metrics=metrics,
        positions=_spread(images, positions, 0),
    )


def _spread(images: Images, values: Tensor, missing: float) -> NDArray[Any]:
    """(n, ...) for the manifest's rows of (N, ...) for the distinct images; `missing` where one could not be read."""
    rows: NDArray[Any] = values.cpu().numpy()[np.maximum(images.index, 0)]
    rows[images.index < 0] = missing
    return rows
