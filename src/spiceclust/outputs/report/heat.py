"""Heat maps on the cards: for which images, and how the page gets them. m images with a map."""

from __future__ import annotations

import base64
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.outputs.report.cards import cards_of
from spiceclust.result import Result

MOST: Final = 2000  # maps: 256 bytes each
MOST_PIXELS: Final = 2**22  # of the images that are looked at again: seconds, at the most half a minute


class Heat(NamedTuple):
    """What made images belong to their clusters.

    Attributes:
        rows: m rows of the manifest.
        maps: (m, side, side) uint8, 255 at the hottest place of each image.
    """

    rows: list[int]
    maps: NDArray[np.uint8]


def rows_to_heat(result: Result, image_size: int) -> list[int]:
    """Typical images of all clusters, those first that are the most typical of theirs; at least one of each cluster."""
    ranks = zip_longest(*(card.typical for card in cards_of(result)))
    rows = [row for rank in ranks for row in rank if row is not None]
    return rows[: max(result.n_clusters, min(MOST, MOST_PIXELS // image_size**2))]


def heat_content(result: Result, heat: Heat | None) -> dict[str, Any] | None:
    """JSON values: `side`, numbers of `points` and `values` as base64, map by map; None where there is no map."""
    if heat is None or not heat.rows:
        return None
    point = np.cumsum(result.labels >= 0) - 1
    values = base64.b64encode(np.ascontiguousarray(heat.maps).tobytes()).decode("ascii")
    return {"side": heat.maps.shape[1], "points": point[heat.rows].tolist(), "values": values}
