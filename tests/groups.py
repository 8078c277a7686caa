"""Embeddings in four clear groups, and results that cluster them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiceclust.manifest import Row
from spiceclust.result import Result

EACH, GROUPS, DIM = 50, 4, 8


def embeddings(seed: int = 0) -> NDArray[np.float16]:
    rng = np.random.default_rng(seed)
    points = 3 * np.eye(DIM)[np.repeat(np.arange(GROUPS), EACH)] + 0.5 * rng.standard_normal((GROUPS * EACH, DIM))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)


def result_of(labels: NDArray[np.int64], clusters: int, sure: float = 0.9) -> Result:
    probabilities = np.full((len(labels), clusters), (1 - sure) / (clusters - 1), dtype=np.float32)
    probabilities[np.arange(len(labels)), labels] = sure
    rows = [Row(f"{i}.png", "ok", "", 8, 8, str(i)) for i in range(len(labels))]
    return Result(
        rows,
        labels.astype(np.int64),
        probabilities,
        np.ones(len(labels), dtype=bool),
        np.zeros(len(labels), dtype=np.float32),
        run={},
        metrics={},
    )


TRUTH = np.repeat(np.arange(GROUPS), EACH)
FUSED = np.where(TRUTH == 3, 2, TRUTH)  # groups 2 and 3 in one cluster, and cluster 3 is empty
