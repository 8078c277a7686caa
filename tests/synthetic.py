"""Small images whose classes are easy: what the whole pipeline must sort without fail."""

import numpy as np
from numpy.typing import NDArray


def shapes(per_class: int, seed: int = 0, size: int = 16) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bars, squares and rings at random places and greys on black.

    Returns:
        (3 * per_class, size, size) uint8 in shuffled order, and (3 * per_class,) int64 classes.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images, classes = [], []
    for kind in range(3):
        for _ in range(per_class):
            y, x = rng.uniform(size * 0.4, size * 0.6, 2)
            reach = rng.uniform(size * 0.25, size * 0.35)
            down, across = np.abs(rows - y), np.abs(columns - x)
            if kind == 0:
                ink = (across < 1.5) & (down < reach)
            elif kind == 1:
                ink = (across < reach) & (down < reach)
            else:
                ink = np.abs(np.hypot(down, across) - reach) < 1.2
            grey = rng.uniform(150, 255)
            noise = rng.uniform(0, 12, (size, size))
            images.append(np.where(ink, grey, noise).astype(np.uint8))
            classes.append(kind)
    order = rng.permutation(len(images))
    return np.stack(images)[order], np.array(classes, dtype=np.int64)[order]
