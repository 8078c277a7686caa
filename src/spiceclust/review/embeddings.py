"""The embeddings of a run's images: which lie near each other.

n rows of the manifest, N distinct images, D features.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.encoded import parts
from spiceclust.embeddings import read_embeddings
from spiceclust.errors import RunFolderError
from spiceclust.manifest import Row

AT_ONCE: Final = 8192  # rows that are compared together


class Embeddings:
    """What the classifier made of the images, read from the run folder when it is asked for.

    Args:
        run: the folder.
        record: its run.json.
        rows: the manifest.

    Attributes:
        index: (n,) int64, which embedding is a row's: copies share one, quarantined rows have -1.
        rows: (N,) int64, the row of the manifest that each is of.
    """

    def __init__(self, run: Path, record: dict[str, Any], rows: list[Row]) -> None:
        self._run, self._record, self._lock = run, record, threading.Lock()
        self._found: NDArray[np.float16] | None = None
        self.rows = np.array([i for i, row in enumerate(rows) if row.status == "ok"], dtype=np.int64)
        first = {rows[row].sha256: place for place, row in enumerate(self.rows.tolist())}
        self.index = np.array([first[row.sha256] if row.status != "quarantined" else -1 for row in rows], np.int64)
        self.index[self.rows] = np.arange(len(self.rows))

    def all(self) -> NDArray[np.float16]:
        """(N, D), each row of length 1.

        Raises:
            RunFolderError: they are not there, or are damaged.
        """
        with self._lock:
            if self._found is None:
                found = read_embeddings(self._run, self._record)
                if found.ndim != 2 or len(found) != len(self.rows):
                    raise RunFolderError(f"the embeddings in {self._run} are of other images: restore them")
                self._found = found
            return self._found

    def nearest(self, row: int, k: int) -> NDArray[np.int64]:
        """Rows of the manifest of the images most like another by cosine, from the most like down; itself left out.

        Args:
            row: of the manifest, not quarantined.
            k: how many at the most.

        Raises:
            RunFolderError: as `all`.
        """
        vectors, place = self.all(), self.index[row]
        query = vectors[place].astype(np.float32)
        pieces = parts(len(vectors), AT_ONCE)
        likeness = np.concatenate([vectors[part.start : part.stop].astype(np.float32) @ query for part in pieces])
        likeness[place] = -np.inf
        k = min(k, len(vectors) - 1)
        best = np.argpartition(-likeness, k - 1)[:k] if k else np.empty(0, np.int64)
        return self.rows[best[np.lexsort((best, -likeness[best]))]]
