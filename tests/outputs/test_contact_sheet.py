"""Every picture gets a flat colour of its own, and the sheet's pixels are read back to see what stands where."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.outputs.contact_sheet import GROUND, PAPER, THUMB, contact_sheet, thumbnail, write_contact_sheet
from spiceclust.result import Result

MakeResult = Callable[..., Result]


class Shown(NamedTuple):
    """A square on the sheet: which picture, and its top left corner."""

    index: int
    x: int
    y: int


def flat(index: int) -> NDArray[np.uint8]:
    """Picture number `index`: 8 x 8 pixels of a colour that nothing else on the sheet has."""
    return np.broadcast_to(np.array([200, index % 256, 10 + index // 256], dtype=np.uint8), (8, 8, 3)).copy()


def squares(sheet: Image.Image) -> list[Shown]:
    """What stands on the sheet; fails where a picture stands twice, is cut or has another size."""
    pixels = np.asarray(sheet).astype(int)
    ys, xs = np.nonzero((pixels[..., 0] == 200) & (pixels[..., 2] >= 10) & (pixels[..., 2] < 30))
    indices = pixels[ys, xs, 1] + 256 * (pixels[ys, xs, 2] - 10)
    found = []
    order = np.argsort(indices, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(indices[order])) + 1):
        left, top = xs[places].min(), ys[places].min()
        assert len(places) == THUMB * THUMB
        assert xs[places].max() - left == ys[places].max() - top == THUMB - 1
        found.append(Shown(int(indices[places[0]]), int(left), int(top)))
    return sorted(found, key=lambda square: (square.y, square.x))


def read(sheet: Image.Image) -> list[tuple[list[int], list[int]]]:
    """The typical and the doubtful pictures of each row that has any, from left to right."""
    found = squares(sheet)
    steps = [b.x - a.x for a, b in itertools.pairwise(found) if a.y == b.y]
    step, left = min(steps, default=THUMB), min(square.x for square in found)
    rows = []
    for y in sorted({square.y for square in found}):
        row = [square for square in found if square.y == y]
        halves: tuple[list[int], list[int]] = ([], [])
        for place, square in enumerate(row):
            halves[square.x != left + place * step].append(square.index)
        rows.append(halves)
    return rows


def test_typical_and_doubtful_images_are_the_right_ones_in_order(make_result: MakeResult) -> None:
    n, numbers = 150, np.random.default_rng(1)
    labels = numbers.integers(0, 3, n)
    result = make_result(labels, 3, reliable=numbers.random(n) < 0.7)
    expected = []
    for cluster in range(3):
        members = [i for i in range(n) if labels[i] == cluster]
        typical = sorted((i for i in members if result.reliable[i]), key=lambda i: -result.typicality[i])[:12]
        doubtful = sorted((i for i in members if i not in typical), key=lambda i: result.confidence[i])[:8]
        expected.append((typical, doubtful))
    assert read(contact_sheet(result, flat)) == expected


def test_equal_confidence_puts_the_least_typical_first(make_result: MakeResult) -> None:
    result = make_result([0] * 40, 1, confidence=[1.0] * 40, typicality=np.linspace(-1, 1, 40))
    ((typical, doubtful),) = read(contact_sheet(result, flat))
    assert typical == list(range(39, 27, -1))
    assert doubtful == list(range(8))


def test_too_few_reliable_images_are_followed_by_the_most_typical_others(make_result: MakeResult) -> None:
    reliable = [i in (3, 5) for i in range(40)]
    result = make_result([0] * 40, 1, typicality=np.linspace(-1, 1, 40), reliable=reliable)
    ((typical, _),) = read(contact_sheet(result, flat))
    assert typical == [5, 3, *range(39, 29, -1)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 19, 20, 21])
def test_a_small_cluster_is_shared_between_the_halves(size: int, make_result: MakeResult) -> None:
    result = make_result([0] * size + [1] * 30, 2)
    (typical, doubtful), _ = read(contact_sheet(result, flat))
    shown = typical + doubtful
    assert len(shown) == len(set(shown)) == min(size, 20)
    assert set(shown) <= set(range(size))
    assert len(doubtful) == min(8, size * 8 // 20)


def test_duplicates_and_quarantined_rows_are_neither_opened_nor_shown(make_result: MakeResult) -> None:
    result = make_result([0, -1, 0, 0, 1, 1, -1], 2, status={2: "duplicate", 5: "duplicate"})
    opened: list[int] = []

    def picture(index: int) -> NDArray[np.uint8]:
        opened.append(index)
        return flat(index)

    assert sorted(square.index for square in squares(contact_sheet(result, picture))) == [0, 3, 4]
    assert sorted(opened) == [0, 3, 4]


@pytest.mark.parametrize("n_clusters", [2, 100])
def test_rows_are_evenly_spaced_and_an_empty_cluster_keeps_its_row(n_clusters: int, make_result: MakeResult) -> None:
    labels = [cluster for cluster in range(n_clusters + 1) if cluster != 1 for _ in range(3)]
    found = squares(contact_sheet(make_result(labels, n_clusters + 1), flat))
    tops = [square.y for square in found if square.x == found[0].x]
    assert len(tops) == n_clusters
    steps = set(np.diff(tops).tolist())
    assert steps == {tops[1] - tops[0], (tops[1] - tops[0]) // 2} if n_clusters > 2 else len(steps) == 1
    assert (tops[1] - tops[0]) % 2 == 0


def test_the_gap_between_the_halves_is_wider_than_any_other(make_result: MakeResult) -> None:
    found = squares(contact_sheet(make_result([0] * 50, 1), flat))
    steps = np.diff([square.x for square in found])
    assert np.flatnonzero(steps > steps.min()).tolist() == [11]
    assert steps[11] - THUMB > 6 * (steps[0] - THUMB)


def test_columns_set_the_number_of_pictures_in_a_row(make_result: MakeResult) -> None:
    result = make_result([0] * 50, 1)
    for columns in (4, 5, 10, 31):
        typical, doubtful = read(contact_sheet(result, flat, columns=columns))[0]
        assert len(typical) + len(doubtful) == columns
        assert len(doubtful) == columns * 2 // 5


@pytest.mark.parametrize("columns", [3, 0, -1])
def test_too_few_columns_are_refused(columns: int, make_result: MakeResult) -> None:
    with pytest.raises(ConfigError, match=f"columns={columns} should be >= 4"):
        contact_sheet(make_result([0, 0], 1), flat, columns=columns)


def test_text_is_drawn_clear_of_pictures_and_edges(make_result: MakeResult) -> None:
    sheet = contact_sheet(make_result([0] * 1234 + [1] * 30 + [3] * 7, 4), flat)
    ink = (np.asarray(sheet) != PAPER).any(axis=2)
    found = squares(sheet)
    left, top = found[0].x, found[0].y
    labels = ink[top:, :left]
    assert labels.any(axis=0).sum() > 30
    assert not labels[:, -24:].any()  # between the numbers and the pictures
    assert not ink[:24].any()
    assert not ink[-24:].any()
    assert not ink[:, :24].any()
    assert not ink[:, -24:].any()


def test_numbers_are_aligned_on_the_right(make_result: MakeResult) -> None:
    sheet = contact_sheet(make_result([0] * 1234 + [1] * 30 + [2] * 7, 3), flat)
    ink = (np.asarray(sheet) != PAPER).any(axis=2)
    found = squares(sheet)
    left = found[0].x
    ends = []
    for top in sorted({square.y for square in found}):
        columns = np.flatnonzero(ink[top : top + THUMB, :left].any(axis=0))
        breaks = np.flatnonzero(np.diff(columns) > 20)  # wider than any gap within a number
        ends.append([int(columns[place]) for place in (*breaks, -1)])
    assert all(len(row) == 3 for row in ends)
    assert np.ptp(np.array(ends), axis=0).max() <= 2  # a glyph's own side bearing


def test_the_words_and_numbers_are_those_of_the_result(
    make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = make_result(
        [0] * 1200 + [1] + [-1] * 3 + [3] * 3,
        4,
        reliable=[True] * 900 + [False] * 307,
        status={1: "duplicate"},
    )
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, xy, text, *rest, **more: texts.append(text))
    contact_sheet(result, flat)
    header = ["1,204 images in 4 clusters", "1 duplicate · 3 quarantined"]
    headings = ["cluster", "images", "reliable", "most typical", "most doubtful"]
    rows = ["0", "1,200", "75%", "1", "1", "0%", "2", "0", "", "no images", "3", "3", "0%"]
    assert texts == header + headings + rows


def test_the_font_has_every_sign_that_is_drawn() -> None:
    font = ImageFont.load_default(20)
    missing = bytes(font.getmask("\uffff"))
    assert [sign for sign in "0123456789,%·abcdefghijklmnopqrstuvwxyz" if bytes(font.getmask(sign)) == missing] == []


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1, 1, (64, 64)),
        (8, 8, (64, 64)),
        (3, 12, (15, 60)),
        (1200, 24, (64, 1)),
        (9, 1800, (1, 64)),
        (50, 100, (32, 64)),
    ],
)
def test_a_thumbnail_shows_the_whole_picture_centred(height: int, width: int, expected: tuple[int, int]) -> None:
    square = np.asarray(thumbnail(np.full((height, width, 3), (200, 0, 10), dtype=np.uint8)))
    assert square.shape == (THUMB, THUMB, 3)
    covered = (square != GROUND).any(axis=2)
    ys, xs = np.nonzero(covered)
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == expected
    assert covered.sum() == expected[0] * expected[1]
    for low, high in ((ys.min(), THUMB - 1 - ys.max()), (xs.min(), THUMB - 1 - xs.max())):
        assert abs(low - high) <= 1


def test_both_ends_of_a_long_picture_are_seen() -> None:
    long = np.zeros((60, 240, 3), dtype=np.uint8)
    long[:, :120], long[:, 120:] = (255, 0, 0), (0, 0, 255)
    middle = np.asarray(thumbnail(long))[THUMB // 2].astype(int)
    assert (middle[:28] == (255, 0, 0)).all()
    assert (middle[-28:] == (0, 0, 255)).all()


def test_the_pixels_of_a_tiny_picture_stay_equal_squares() -> None:
    numbers = np.random.default_rng(0)
    tiny = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(thumbnail(tiny)), np.kron(tiny, np.ones((8, 8, 1), dtype=np.uint8)))


def test_a_larger_picture_is_smoothed() -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert len(np.unique(np.asarray(thumbnail(stripes)))) > 2


def test_the_file_is_the_sheet(make_result: MakeResult, tmp_path: Path) -> None:
    result, path = make_result([0, 0, 1], 2), tmp_path / "contact_sheet.png"
    write_contact_sheet(path, result, flat)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(contact_sheet(result, flat)))


@pytest.mark.parametrize("broken", ["picture", "disk"])
def test_a_failure_leaves_the_old_file(
    broken: str, make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "contact_sheet.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> NDArray[np.uint8]:
        raise OSError(broken)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if broken == "disk":
        monkeypatch.setattr(os, "replace", full)
    error, text = (RunFolderError, "No space left") if broken == "disk" else (OSError, "picture")
    with pytest.raises(error, match=text):
        write_contact_sheet(path, make_result([0, 0, 1], 2), fail if broken == "picture" else flat)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
