"""Pictures of a run under review: sheets and single ones, and what there is where there is none."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _review.runs import make_run, rows_of
from PIL import Image

from pictures import picture
from review_runs import TOKEN, Reviewed, reviewed
from spiceclust.data.images import readers
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
from spiceclust.review import pictures as module
from spiceclust.review.pictures import Pictures
from spiceclust.review.session import open_session


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Reviewed]:
    with reviewed(tmp_path) as page:
        yield page


def kept(page: Reviewed, path: str) -> bool:
    return "immutable" in page.client.get(f"/{TOKEN}/{path}").headers["cache-control"]


def test_a_sheet_has_sixteen_tiles_in_a_row(page: Reviewed) -> None:
    rows = [*range(5, 25), 5]
    sheet = page.sheet(f"tiles?rows={','.join(map(str, rows))}&side=20").astype(int)
    assert sheet.shape == (40, 320, 3)
    for number, row in enumerate(rows):
        y, x = divmod(number, 16)
        tile = sheet[y * 20 : y * 20 + 20, x * 20 : x * 20 + 20]
        assert np.abs(tile.mean(axis=(0, 1)) - picture(row, 20, 20).mean(axis=(0, 1))).max() < 8
    assert sheet[20:, 6 * 20 :].mean() < 3  # no image
    assert kept(page, "tiles?rows=5,6")


def test_tiny_pictures_become_squares_of_their_very_pixels(page: Reviewed) -> None:
    tile = page.sheet("tiles?rows=3&side=32")[:, :32]
    np.testing.assert_array_equal(tile, picture(3, 8, 8).repeat(4, axis=0).repeat(4, axis=1))


def test_what_is_not_to_be_had_is_grey_and_not_kept(page: Reviewed) -> None:
    (page.photos / "005.png").unlink()
    shutil.copy(page.photos / "007.png", page.photos / "006.png")
    address = "tiles?rows=0,5,6,7&side=16"
    sheet = page.sheet(address).astype(int)
    for number, grey in enumerate((True, True, True, False)):
        tile = sheet[:, number * 16 : number * 16 + 16]
        assert (np.abs(tile - 128).max() < 6) == grey
    assert not kept(page, address)
    assert kept(page, "tiles?rows=7&side=16")
    Image.fromarray(picture(5, 20, 20)).save(page.photos / "005.png")
    assert kept(page, "tiles?rows=5&side=16")  # it is there again


@pytest.mark.parametrize("query", ["", "rows=", "rows=1,", "rows=a", "rows=-1", "rows=40", "rows=1&side=7",
    "rows=1&side=257", "rows=1&side=x", "rows=" + ",".join("1" * 257), "rows=٣", "rows=1e1", f"rows={9**99}",
])  # fmt: skip
def test_sheets_that_cannot_be(page: Reviewed, query: str) -> None:
    assert set(page.get(f"tiles?{query}", 400)) == {"error"}


def test_a_sheet_may_be_full(page: Reviewed) -> None:
    assert page.sheet("tiles?side=8&rows=" + ",".join("1" * 256)).shape == (128, 128, 3)


def test_a_large_picture_keeps_its_shape(page: Reviewed) -> None:
    answer = page.client.get(f"/{TOKEN}/picture?row=4")
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (512, 171)
    assert kept(page, "picture?row=4")


def test_a_tiny_picture_loses_nothing(page: Reviewed) -> None:
    assert page.client.get(f"/{TOKEN}/picture?row=3").headers["content-type"] == "image/png"
    np.testing.assert_array_equal(page.sheet("picture?row=3"), picture(3, 8, 8))
    np.testing.assert_array_equal(page.sheet("picture?row=2"), picture(1, 20, 20))  # a copy


def test_a_picture_that_is_not_to_be_had_says_why(page: Reviewed) -> None:
    (page.photos / "005.png").unlink()
    shutil.copy(page.photos / "007.png", page.photos / "006.png")
    assert page.get("picture?row=5", 404)["error"].startswith("005.png: cannot be opened")
    assert page.get("picture?row=6", 404) == {"error": "006.png: changed since the fit"}
    assert page.get("picture?row=0", 400) == {"error": "image 0 could not be read"}
    page.get("picture?row=40", 400)
    page.get("picture", 400)


def test_without_the_images_the_rest_works(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    with reviewed(tmp_path):
        pass
    shutil.rmtree(photos)
    with open_session(tmp_path / "run", None, Silent()) as session:
        assert "photos" in session.facts()["missing"]
        assert session.pictures is None
        session.act({"do": "name", "cluster": 0, "name": "A"})


def test_arrays_are_checked_too(tmp_path: Path) -> None:
    images = np.stack([picture(i, 12, 12) for i in range(20)])
    rows = rows_of(open_source(images))
    now = images.copy()
    now[3] = 0
    source = open_source(now)
    with readers(source) as pool:
        found = Pictures(source, rows, pool)
        content, whole = found.sheet([2, 3], 12)
        sheet = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(sheet[:, :12], images[2])
        assert (sheet[:, 12:24] == 128).all()
        assert not whole
        picture_of_two = np.asarray(Image.open(io.BytesIO(found.picture(2).content)))
        np.testing.assert_array_equal(picture_of_two, images[2])
        with pytest.raises(module.SourceError, match="changed since the fit"):
            found.picture(3)


def test_the_cache_is_bounded_and_keeps_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.stack([picture(i, 12, 12) for i in range(20)])
    source = open_source(images)
    monkeypatch.setattr(module, "CACHE_BYTES", 4 * 12 * 12 * 3)
    with readers(source) as pool:
        found = Pictures(source, rows_of(source), pool)
        for row in (0, 1, 2, 3, 0, 4):
            found.sheet([row], 12)
        assert [row for row, _ in found._cache._tiles] == [2, 3, 0, 4]
        found.sheet(list(range(20)), 12)
        assert found._cache._bytes == sum(tile.nbytes for tile in found._cache._tiles.values()) <= 4 * 12 * 12 * 3


def test_a_run_of_an_array_is_reviewed_with_the_array(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.stack([picture(i, 12, 12) for i in range(20)]))
    rows = rows_of(open_source(tmp_path / "images.npy"))
    make_run(tmp_path / "run", rows, 3)
    with open_session(tmp_path / "run", None, Silent()) as session:
        assert "--source" in session.facts()["missing"]
    with open_session(tmp_path / "run", str(tmp_path / "images.npy"), Silent()) as session:
        assert session.pictures is not None
        assert session.pictures.sheet([3, 4], 12)[1]
