"""The pictures of a run as a page shows them: small ones in sheets, and single ones; only what the run saw."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.arrays import Array
from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import AT_ONCE
from spiceclust.data.sources import Source
from spiceclust.errors import SourceError
from spiceclust.manifest import Row
from spiceclust.outputs.contact_sheet import TINY
from spiceclust.outputs.report.atlas import encode_sheet

LARGEST: Final = 512  # pixels, longer side of a single picture
LOSSLESS: Final = 64  # pixels, longer side up to which a single picture loses nothing
CACHE_BYTES: Final = 96_000_000  # of tiles that are kept
AT_WORK: Final = 2  # sheets or pictures that are made at the same time
GREY: Final = 128  # of a tile whose picture is not to be had
CHANGED: Final = "changed since the fit"
GONE: Final = "not in the source any more"


class Picture(NamedTuple):
    """An encoded picture."""

    content: bytes
    media_type: str


class _Sought(NamedTuple):
    """A tile to make: where the image is in the source, the side to read it with, and its row."""

    place: int
    size: int
    row: int


class Pictures:
    """Pictures by row of the manifest, read when they are asked for.

    Args:
        source: where they are.
        rows: the manifest.
        pool: threads that read the source, as `data.images.readers` gives them.
    """

    def __init__(self, source: Source, rows: list[Row], pool: ThreadPoolExecutor) -> None:
        self._source, self._rows, self._pool = source, rows, pool
        self._places = {path: place for place, path in enumerate(source.paths)}
        self._cache = _Cache(CACHE_BYTES)
        self._gate = threading.Semaphore(AT_WORK)

    def sheet(self, rows: Sequence[int], side: int) -> tuple[bytes, bool]:
        """The centre squares of images in one WebP file, 16 in a row; grey where there is none as the run saw it.

        Args:
            rows: of the manifest.
            side: of a tile in pixels; a smaller picture is enlarged as it is, in squares.

        Returns:
            The file, and whether every tile is there.
        """
        with self._gate:
            tiles = {row: tile for row in rows if (tile := self._cache.get((row, side))) is not None}
            pieces = self._pieces([row for row in dict.fromkeys(rows) if row not in tiles], side)
            for found in self._pool.map(self._read, pieces):
                for row, tile in found.items():
                    tiles[row] = _enlarged(tile, side)
                    self._cache.put((row, side), tiles[row])
            tiny = all(self._size(row, side) <= TINY for row in tiles)
            empty = np.full((side, side, 3), GREY, np.uint8)
            content = encode_sheet([tiles.get(row, empty) for row in rows], side, lossless=tiny, effort=0)
            return content, len(tiles) == len(set(rows))

    def picture(self, row: int) -> Picture:
        """A whole image, up to 512 pixels.

        Raises:
            SourceError: it is not there as the run saw it.
        """
        with self._gate:
            try:
                image = Image.fromarray(self._whole(row))
            except DecodeError as error:
                raise SourceError(f"{self._rows[row].path}: {error}") from None
            small = max(image.size) <= LOSSLESS
            image.thumbnail((LARGEST, LARGEST))
            content = io.BytesIO()
            if small:
                image.save(content, format="PNG")
            else:
                image.save(content, format="WEBP", quality=85, method=0)
        return Picture(content.getvalue(), "image/png" if small else "image/webp")

    def square(self, row: int, side: int) -> NDArray[np.uint8]:
        """(side, side, 3) uint8: the centre square, as a classifier is shown it.

        Raises:
            SourceError: as `picture`.
        """
        known = self._rows[row]
        place = self._places.get(known.path)
        if place is None:
            raise SourceError(f"{known.path}: {GONE}")
        now, pixels = self._source.read(range(place, place + 1), side)[0]
        if pixels is None or now.sha256 != known.sha256:
            raise SourceError(f"{known.path}: {CHANGED if pixels is not None else now.reason}")
        return pixels

    def _whole(self, row: int) -> NDArray[np.uint8]:
        source, known = self._source, self._rows[row]
        place = self._places.get(known.path)
        if place is None:
            raise DecodeError(GONE)
        if isinstance(source, Array):
            if source.read(range(place, place + 1), 1)[0][0].sha256 != known.sha256:
                raise DecodeError(CHANGED)
            return source.picture(place)

        def fetch() -> bytes:
            content = source.fetch(place)
            if hashlib.sha256(content).hexdigest() != known.sha256:
                raise DecodeError(CHANGED)
            return content

        answer = source.decoder.picture(fetch)
        if isinstance(answer, DecodeError):
            raise DecodeError(str(answer))  # itself would be held by this frame, and keep the decoder
        assert answer[0] is not None
        return answer[0]

    def _pieces(self, rows: list[int], side: int) -> list[list[_Sought]]:
        """What is in the source, in its order; neighbours there that are read alike come together."""
        placed = [(self._places.get(self._rows[row].path), row) for row in rows]
        pieces: list[list[_Sought]] = []
        for sought in sorted(_Sought(place, self._size(row, side), row) for place, row in placed if place is not None):
            last = pieces[-1] if pieces else []
            if last and (last[-1].place + 1, last[-1].size) == sought[:2] and len(last) < AT_ONCE:
                last.append(sought)
            else:
                pieces.append([sought])
        return pieces

    def _read(self, piece: list[_Sought]) -> dict[int, NDArray[np.uint8]]:
        """The squares of a piece by row, but for those that are not what the run saw."""
        found = self._source.read(range(piece[0].place, piece[-1].place + 1), piece[0].size)
        return {
            sought.row: pixels
            for sought, (now, pixels) in zip(piece, found, strict=True)
            if pixels is not None and now.sha256 == self._rows[sought.row].sha256
        }

    def _size(self, row: int, side: int) -> int:
        """The side to read a tile with: what the picture has, at the most."""
        known = self._rows[row]
        return min(side, known.width or side, known.height or side)


class _Cache:
    """Tiles that were used last, up to a number of bytes; for any number of threads."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._tiles: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> NDArray[np.uint8] | None:
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
            return self._tiles.get(key)

    def put(self, key: tuple[int, int], tile: NDArray[np.uint8]) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._most:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes


def _enlarged(tile: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(side, side, 3) of a tile that may be smaller: each pixel becomes a square."""
    if len(tile) == side:
        return tile
    nearest = np.arange(side) * len(tile) // side
    return tile[nearest[:, None], nearest]
