"""Small pictures of many images in few files: atlases of square tiles, as WebP.

What matters most is drawn first and largest, and what no longer fits into the budget of bytes has no tile.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.sources import Source
from spiceclust.manifest import Row
from spiceclust.outputs.contact_sheet import TINY
from spiceclust.progress import Progress

COLUMNS: Final = 16  # of tiles in an atlas, and at most as many rows
PER_ATLAS: Final = COLUMNS * COLUMNS
LARGE, SMALL = 96, 48  # side of a tile in pixels
MOST_LARGE = 2500  # images that all get large tiles
MOST = 10_000  # images with a tile: each must be read
BUDGET = 9_500_000  # bytes of all atlases; base64 makes a third more of them
QUALITY = 76  # of WebP


class Atlas(NamedTuple):
    """Tiles in one picture.

    Attributes:
        side: of a tile, in pixels.
        content: a WebP file, `COLUMNS` tiles wide.
    """

    side: int
    content: bytes


class Tiles(NamedTuple):
    """Atlases, and where an image is in them.

    Attributes:
        atlases: in their order.
        places: number of the atlas * `PER_ATLAS` + number of the tile, row by row, by the SHA-256 of the image: copies
            share theirs.
    """

    atlases: list[Atlas]
    places: dict[str, int]


def draw_tiles(source: Source, rows: list[Row], first: list[int], then: list[int], progress: Progress) -> Tiles:
    """Reads images and draws their tiles, the centre square of each, as the run saw it.

    Args:
        source: where the images are; what it no longer holds, or holds changed, gets no tile.
        rows: the manifest.
        first: rows that must have a tile, as large as it can be.
        then: rows that get one while there is room.
        progress: told of each image.
    """
    numbers = {path: i for i, path in enumerate(source.paths)}
    native = source.native_size() or LARGE
    then = then[: max(0, MOST - len(first))]
    large, small = min(LARGE, native), min(SMALL, native)
    pieces = _pieces(first, large) + _pieces(then, large if len(first) + len(then) <= MOST_LARGE else small)
    tiles, left = Tiles([], {}), BUDGET
    task_name, total = "pictures for the report", len(first) + len(then)
    with progress.task(task_name, total) as task, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for piece, side in pieces:
            wanted = [rows[i] for i in piece]
            pictures = pool.map(partial(_picture, source, numbers, side), wanted)
            found = {row.sha256: picture for row, picture in zip(wanted, pictures, strict=True) if picture is not None}
            task.advance(len(piece))
            if not found:
                continue
            content = _encode(list(found.values()), side, lossless=native <= TINY)
            left -= len(content)
            if left < 0:
                break
            start = len(tiles.atlases) * PER_ATLAS
            tiles.places.update({digest: start + number for number, digest in enumerate(found)})
            tiles.atlases.append(Atlas(side, content))
    return tiles


def _pieces(rows: list[int], side: int) -> list[tuple[list[int], int]]:
    return [(sorted(rows[start : start + PER_ATLAS]), side) for start in range(0, len(rows), PER_ATLAS)]


def _picture(source: Source, numbers: dict[str, int], side: int, row: Row) -> NDArray[np.uint8] | None:
    """(side, side, 3) uint8 of a row's image, if the source still holds what the run saw."""
    if row.path not in numbers:
        return None
    place = numbers[row.path]
    now, pixels = source.read(range(place, place + 1), side)[0]
    return pixels if now.sha256 == row.sha256 else None


def _encode(pictures: list[NDArray[np.uint8]], side: int, lossless: bool) -> bytes:
    high = -(-len(pictures) // COLUMNS)
    sheet = np.zeros((high * side, COLUMNS * side, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        y, x = divmod(number, COLUMNS)
        sheet[y * side : (y + 1) * side, x * side : (x + 1) * side] = picture
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="WEBP", lossless=lossless, quality=QUALITY, method=2)
    return content.getvalue()
