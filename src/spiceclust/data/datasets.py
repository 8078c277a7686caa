"""Data sets that need no download: the handwritten digits that scikit-learn brings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def digits() -> NDArray[np.uint8]:
    """The 8 x 8 handwritten digits of scikit-learn, without their labels.

    Returns:
        (1797, 8, 8) uint8 in [0, 255]; the original levels 0..16 are spread over the whole range.
    """
    from sklearn.datasets import load_digits

    return np.asarray(np.rint(load_digits().images * (255 / 16)), dtype=np.uint8)
