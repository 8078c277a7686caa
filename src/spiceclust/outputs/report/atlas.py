"""Small pictures of many images in few files: atlases of square tiles, as WebP.

What matters most is drawn first and largest, and what no longer fits into the budget of bytes has no tile.
"""

from __future__ import annotations

import io
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.images import readers
from spiceclust.data.sources import Source
from spiceclust.manifest import Row
from spiceclust.outputs.contact_sheet import TINY
from spiceclust.progress import Progress

COLUMNS: Final = 16  # of tiles in an atlas, and at most as many rows
PER_ATLAS: Final = COLUMNS * COLUMNS
LARGE, SMALL = 96, 48  # side of a tile in pixels
MOST_LARGE = 2500  # images with large tiles: all of so many, else those that must have one
MOST = 10_000  # images with a tile: each must be read
QUALITY, EFFORT = 76, 2  # of WebP


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
        gone: the SHA-256 of images that were sought, and are not in the source as the run saw them.
    """

    atlases: list[Atlas]
    places: dict[str, int]
    gone: set[str]


def draw_tiles(
    source: Source, rows: list[Row], first: list[int], then: list[int], budget: int, progress: Progress
) -> Tiles:
    """Reads images, in the order of the source, and draws their tiles, the centre square of each, as the run saw it.

    Args:
        source: where the images are; what it no longer holds, or holds changed, gets no tile.
        rows: the manifest.
        first: rows that must have a tile, as large as it can be; those before others that may not find room.
        then: rows that get one while there is room.
        budget: bytes of all atlases at the most.
        progress: told of each image.
    """
    order = [*first, *then][:MOST]
    n_first = min(len(first), MOST_LARGE, MOST)
    tiles, left = Tiles([], {}, set()), budget
    with readers(source) as pool:
        native = source.native_size() or LARGE
        side = min(LARGE if len(order) <= MOST_LARGE else SMALL, native)
        sides = dict.fromkeys(order, side) | dict.fromkeys(order[:n_first], min(LARGE, native))

        def read(place: int, row: int) -> NDArray[np.uint8] | None:
            now, pixels = source.read(range(place, place + 1), sides[row])[0]
            return pixels if now.sha256 == rows[row].sha256 else None

        numbers = {path: i for i, path in enumerate(source.paths)}
        sought = sorted((numbers[rows[row].path], row) for row in order if rows[row].path in numbers)
        pictures: dict[int, NDArray[np.uint8]] = {}
        with progress.task("pictures for the report", len(sought)) as task:
            for (_, row), picture in zip(sought, pool.map(lambda pair: read(*pair), sought), strict=True):
                task.advance(1)
                if picture is not None:
                    pictures[row] = picture
    tiles.gone.update(rows[row].sha256 for row in order if row not in pictures)
    for start, stop in [*_spans(0, n_first), *_spans(n_first, len(order))]:
        piece = sorted(row for row in order[start:stop] if row in pictures)
        if not piece:
            continue
        side = sides[piece[0]]
        content = encode_sheet([pictures[row] for row in piece], side, lossless=native <= TINY)
        left -= len(content)
        if left < 0:
            break
        begin = len(tiles.atlases) * PER_ATLAS
        tiles.places.update({rows[row].sha256: begin + number for number, row in enumerate(piece)})
        tiles.atlases.append(Atlas(side, content))
    return tiles


def _spans(start: int, stop: int) -> list[tuple[int, int]]:
    """`start` to `stop` in pieces that fill an atlas each."""
    return [(at, min(at + PER_ATLAS, stop)) for at in range(start, stop, PER_ATLAS)]


def encode_sheet(pictures: list[NDArray[np.uint8]], side: int, lossless: bool, effort: int = EFFORT) -> bytes:
    """Pictures, (side, side, 3) uint8 each, as the tiles of one WebP file: row by row, `COLUMNS` wide.

    Args:
        pictures: some.
        side: in pixels.
        lossless: whether every pixel counts.
        effort: from 0 to 6: less is quicker.
    """
    high = -(-len(pictures) // COLUMNS)
    sheet = np.zeros((high * side, COLUMNS * side, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        y, x = divmod(number, COLUMNS)
        sheet[y * side : (y + 1) * side, x * side : (x + 1) * side] = picture
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="WEBP", lossless=lossless, quality=QUALITY, method=effort)
    return content.getvalue()
