"""A real mess of 280 files, accounted for one by one. The data lie beside the repository where there are any."""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest

from spiceclust.data.images import Images, load
from spiceclust.data.sources import Source, open_source
from spiceclust.manifest import Row
from spiceclust.progress import Silent

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "messy.tar.xz").exists(), reason=f"needs {DATA / 'messy.tar.xz'}, which is not part of the repository"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("messy")
    with tarfile.open(DATA / "messy.tar.xz") as archive:
        archive.extractall(root, filter="data")
    return open_source(root)


@pytest.fixture(scope="module")
def images(source: Source) -> Images:
    return load(source, 32, None, Silent())


@pytest.fixture(scope="module")
def notes() -> dict[str, str]:
    with (DATA / "messy_truth.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: line["note"] for line in csv.DictReader(file)}


def expected(note: str) -> tuple[str, str | None]:
    """Status, and the reason where the note fixes it."""
    if note.startswith("exact duplicate of "):
        return "duplicate", f"same content as {note.removeprefix('exact duplicate of ')}"
    if note.startswith(("bad", "not an image")):
        return "quarantined", None
    assert note.startswith(("ok", "odd", "near duplicate of ")), note
    return "ok", ""


def test_each_file_has_the_row_that_the_truth_says(images: Images, notes: dict[str, str]) -> None:
    rows = {row.path: row for row in images.rows}
    assert len(images.rows) == len(rows) == 280
    assert set(rows) == set(notes)
    for path, note in notes.items():
        status, reason = expected(note)
        assert rows[path].status == status, path
        if reason is not None:
            assert rows[path].reason == reason, path


def test_the_reasons_tell_the_bad_files_apart(images: Images, notes: dict[str, str]) -> None:
    words = {
        "bad: truncated jpeg": "truncated: the JPEG data end early",
        "bad: zero bytes": "empty file",
        "bad: text with .jpg name": "not an image in a supported format",
        "bad: AppleDouble sidecar, .jpg name": "not an image in a supported format",
        "bad: png signature then noise": "damaged PNG file: ",
        "not an image": "not an image in a supported format",
        "not an image, hidden": "not an image in a supported format",
    }
    bad: list[Row] = [row for row in images.rows if row.status == "quarantined"]
    assert {notes[row.path] for row in bad} == set(words)
    for row in bad:
        assert row.reason.startswith(words[notes[row.path]]), row


def test_every_readable_picture_has_pixels(images: Images) -> None:
    readable = [row.status != "quarantined" for row in images.rows]
    assert np.array_equal(images.index >= 0, readable)
    assert images.pixels.shape == (len({row.sha256 for row in images.rows if row.status != "quarantined"}), 3, 32, 32)
    assert sorted(set(images.index[readable].tolist())) == list(range(len(images.pixels)))


def test_no_picture_is_all_black_or_all_white_but_the_one_that_is(images: Images) -> None:
    """As a 16-bit picture that is clipped would be, a float one that is not scaled, or an alpha that is lost."""
    lost = {
        row.path
        for row, i in zip(images.rows, images.index.tolist(), strict=True)
        if i >= 0 and (images.pixels[i].max() < 8 or images.pixels[i].min() > 247)
    }
    assert lost == {"messy/blank_white.jpg"}


def test_pictures_and_rows_agree_on_the_size(source: Source, images: Images) -> None:
    for i, row in enumerate(images.rows):
        if row.status != "quarantined":
            assert source.picture(i).shape == (row.height, row.width, 3), row.path


def test_odd_sizes(images: Images) -> None:
    rows = {row.path: (row.width, row.height) for row in images.rows}
    assert rows["messy/one_pixel.png"] == (1, 1)
    assert rows["messy/panorama strip.png"] == (1200, 24)
