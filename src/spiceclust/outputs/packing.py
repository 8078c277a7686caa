"""Arrays as text, for pages that unpack them: base64 of little-endian numbers."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 65_535  # places along the longer side of the map, and from 0 to 1


def packed(values: NDArray[Any], kind: str) -> str:
    """Base64 of an array in C order, each number as `kind`, such as `<u2`."""
    return base64_of(np.ascontiguousarray(values.astype(kind)).tobytes())


def base64_of(content: bytes) -> str:
    """Base64 as text."""
    return base64.b64encode(content).decode("ascii")


def fitted(positions: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2) in [0, `STEPS`]: centred, both axes on one scale."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    return np.asarray(np.rint(((positions - (low + high) / 2) / span + 0.5) * STEPS), dtype=np.float64)
