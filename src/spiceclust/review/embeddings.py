"""The embeddings of a run's images: which lie near each other, and how a cluster parts in two.

n rows of the manifest, N distinct images, D features, M images of a cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.encoded import parts
from spiceclust.errors import RunFolderError
from spiceclust.files import read_sealed, sha256_file
from spiceclust.manifest import Row

STAGE, TENSORS = "2-embed", "tensors.safetensors"
FORMAT: Final = 2  # of done.json
AT_ONCE: Final = 8192  # rows that are compared together
Vectors = NDArray[np.float32]


class Embeddings:
    """What stage 2 made of the images, read from the run folder when it is asked for.

    Attributes:
        index: (n,) int64, which embedding is a row's: copies share one, quarantined rows have -1.
        rows: (N,) int64, the row of the manifest that each is of.
    """

    def __init__(self, run: Path, rows: list[Row]) -> None:
        self._folder = run / STAGE
        self._lock = threading.Lock()
        self._whole = False
        self.rows = np.array([i for i, row in enumerate(rows) if row.status == "ok"], dtype=np.int64)
        first = {rows[row].sha256: place for place, row in enumerate(self.rows.tolist())}
        self.index = np.array([first[row.sha256] if row.status != "quarantined" else -1 for row in rows], np.int64)
        self.index[self.rows] = np.arange(len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, places: NDArray[np.int64]) -> Vectors:
        """Those at some places, which are in order.

        Returns:
            (M, D) float32, each row of length 1.

        Raises:
            RunFolderError: they are not there any more, or are damaged.
        """
        found = []
        with self._opened() as read:
            for part in self._parts():
                begin, end = np.searchsorted(places, (part.start, part.stop))
                if begin < end:
                    found.append(read(part)[places[begin:end] - part.start])
        return np.concatenate(found)

    def nearest(self, row: int, k: int) -> NDArray[np.int64]:
        """Rows of the manifest of the images most like another by cosine, from the most like down; itself left out.

        Args:
            row: of the manifest, not quarantined.
            k: how many at the most.

        Raises:
            RunFolderError: as `of`.
        """
        place = self.index[row]
        query = self.of(np.array([place]))[0]
        with self._opened() as read:
            likeness = np.concatenate([read(part) @ query for part in self._parts()])
        likeness[place] = -np.inf
        k = min(k, len(self) - 1)
        best = np.argpartition(-likeness, k - 1)[:k] if k else np.empty(0, np.int64)
        return self.rows[best[np.lexsort((best, -likeness[best]))]]

    def _parts(self) -> list[range]:
        return parts(len(self), AT_ONCE)

    @contextmanager
    def _opened(self) -> Iterator[Callable[[range], Vectors]]:
        """What reads a part of them; only that is in memory then."""
        from safetensors import SafetensorError, safe_open

        self._check()
        try:
            with safe_open(self._folder / TENSORS, "numpy") as tensors:
                plain = tensors.get_slice("plain")
                if plain.get_shape()[0] != len(self):
                    raise _missing(self._folder, "they are of other images")
                yield lambda part: _unit(plain[part.start : part.stop])
        except (SafetensorError, OSError) as error:
            raise _missing(self._folder, str(error)) from None

    def _check(self) -> None:
        """Refuses, at the first use, what is not as the stage wrote it."""
        with self._lock:
            if self._whole:
                return
            try:
                done = read_sealed(self._folder / "done.json", FORMAT, lambda content: content.get("format") == 1)
                whole = done["sha256"][TENSORS] == sha256_file(self._folder / TENSORS)
            except (RunFolderError, OSError, KeyError, TypeError) as error:
                raise _missing(self._folder, str(error)) from None
            if not whole:
                raise _missing(self._folder, f"{TENSORS} is damaged")
            self._whole = True


def _missing(folder: Path, why: str) -> RunFolderError:
    return RunFolderError(f"the embeddings of the run, in {folder}, cannot be used ({why})")


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
