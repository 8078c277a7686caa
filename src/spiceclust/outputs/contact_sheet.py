"""The contact sheet: one row of pictures per cluster, the most typical ones left, the most doubtful ones right.

One look tells whether the clusters mean something: a typical half that shows one thing is a good cluster, and the
doubtful half shows where it frays. All lengths are pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spiceclust.errors import ConfigError
from spiceclust.files import write_bytes
from spiceclust.result import Result

THUMB = 64
TINY = 16  # up to this side the single pixels are what there is to see, so they stay squares
GAP = 4
ROW_GAP = 14
HALVES_GAP = 40
MARGIN = 48
COLUMNS = {"cluster": 45, "images": 132, "reliable": 204}  # right edges of the numbers, from the margin
PICTURES = MARGIN + COLUMNS["reliable"] + 32  # where the typical half begins
TITLE_Y, FACTS_Y, HEADINGS_Y, RULE_Y = 66, 92, 142, 154  # the first three are baselines
ROWS_Y = RULE_Y + ROW_GAP

PAPER = (247, 247, 245)
GROUND = (232, 232, 229)
RULE = (216, 216, 212)
INK = (34, 36, 40)
QUIET = (122, 124, 128)

Picture = Callable[[int], NDArray[np.uint8]]


def contact_sheet(result: Result, picture: Picture, columns: int = 20) -> Image.Image:
    """Draws the sheet.

    Typical are the images whose embedding is nearest to the mean of their cluster, reliable ones first; doubtful are
    those with the lowest confidence. No image is shown twice, duplicates and quarantined rows are not shown at all.

    Args:
        result: a finished clustering.
        picture: gives manifest row i as (H, W, 3) uint8 RGB; called once for each image shown.
        columns: images in a row, at least 4; three fifths of them typical.

    Raises:
        ConfigError: fewer than 4 columns.
    """
    if columns < 4:
        raise ConfigError(f"columns={columns} should be >= 4: a row shows typical and doubtful images")
    doubtful_columns = columns * 2 // 5
    doubtful_x = PICTURES + (columns - doubtful_columns) * (THUMB + GAP) - GAP + HALVES_GAP
    width = doubtful_x + doubtful_columns * (THUMB + GAP) - GAP + MARGIN
    height = ROWS_Y + result.n_clusters * (THUMB + ROW_GAP) - ROW_GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, result, doubtful_x, width)
    ok = np.array([row.status == "ok" for row in result.rows], dtype=bool)
    for cluster in range(result.n_clusters):
        y = ROWS_Y + cluster * (THUMB + ROW_GAP)
        _draw_label(draw, result, cluster, y)
        members = np.flatnonzero(ok & (result.labels == cluster))
        typical, doubtful = choose_images(result, members, columns - doubtful_columns, doubtful_columns)
        for x, chosen in ((PICTURES, typical), (doubtful_x, doubtful)):
            for place, row in enumerate(chosen):
                sheet.paste(thumbnail(picture(row)), (x + place * (THUMB + GAP), y))
    return sheet


def write_contact_sheet(path: Path, result: Result, picture: Picture) -> None:
    """Draws the sheet and writes it atomically to `path` as PNG; the arguments are those of `contact_sheet`."""
    content = io.BytesIO()
    contact_sheet(result, picture).save(content, format="PNG", optimize=True)
    write_bytes(path, content.getvalue())


def choose_images(
    result: Result, members: NDArray[np.int64], typical: int, doubtful: int
) -> tuple[list[int], list[int]]:
    """Picks what stands for a cluster; a small cluster is shared out in the same proportion.

    Args:
        result: a finished clustering.
        members: (n,) manifest rows of one cluster.
        typical: most images in the first list.
        doubtful: most images in the second list.

    Returns:
        Manifest rows, typical ones from the most typical down, and doubtful ones from the most doubtful down.
    """
    n_doubtful = min(doubtful, len(members) * doubtful // (typical + doubtful))
    n_typical = min(typical, len(members) - n_doubtful)
    by_typicality = members[np.lexsort((-result.typicality[members], ~result.reliable[members]))]
    rest = np.sort(by_typicality[n_typical:])
    confidence = result.probabilities[rest, result.labels[rest]]
    by_doubt = rest[np.lexsort((result.typicality[rest], confidence))]
    return by_typicality[:n_typical].tolist(), by_doubt[:n_doubtful].tolist()


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """Fits a whole picture, (H, W, 3) uint8 RGB, into a THUMB x THUMB square; the rest is neutral ground."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest <= TINY:
        factor = THUMB // longest  # a whole number, so that all its pixels come out equal
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        size = [max(1, round(side * THUMB / longest)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    square = Image.new("RGB", (THUMB, THUMB), GROUND)
    square.paste(image, ((THUMB - image.width) // 2, (THUMB - image.height) // 2))
    return square


def _draw_header(draw: ImageDraw.ImageDraw, result: Result, doubtful_x: int, width: int) -> None:
    statuses = [row.status for row in result.rows]
    duplicates, quarantined = statuses.count("duplicate"), statuses.count("quarantined")
    title = f"{_count(len(statuses) - quarantined, 'image')} in {_count(result.n_clusters, 'cluster')}"
    facts = f"{_count(duplicates, 'duplicate')} · {quarantined:,} quarantined"
    draw.text((MARGIN, TITLE_Y), title, INK, _font(26), anchor="ls")
    draw.text((MARGIN, FACTS_Y), facts, QUIET, _font(14), anchor="ls")
    for heading, right in COLUMNS.items():
        draw.text((MARGIN + right, HEADINGS_Y), heading, QUIET, _font(14), anchor="rs")
    draw.text((PICTURES, HEADINGS_Y), "most typical", QUIET, _font(14), anchor="ls")
    draw.text((doubtful_x, HEADINGS_Y), "most doubtful", QUIET, _font(14), anchor="ls")
    draw.line((MARGIN, RULE_Y, width - MARGIN - 1, RULE_Y), RULE)


def _draw_label(draw: ImageDraw.ImageDraw, result: Result, cluster: int, y: int) -> None:
    members = result.labels == cluster
    size = int(members.sum())
    share = f"{result.reliable[members].mean():.0%}" if size else ""
    middle = y + THUMB // 2
    texts = {"cluster": (f"{cluster}", INK, 20), "images": (f"{size:,}", INK, 16), "reliable": (share, INK, 16)}
    for column, (text, colour, points) in texts.items():
        draw.text((MARGIN + COLUMNS[column], middle + 6), text, colour, _font(points), anchor="rs")
    if not size:
        draw.text((PICTURES, middle + 6), "no images", QUIET, _font(16), anchor="ls")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)
