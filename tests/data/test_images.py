import hashlib
import os
import random
import shutil
import socket
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data import files as module
from spiceclust.data.arrays import Array
from spiceclust.data.datasets import digits
from spiceclust.data.decode import DecodeError, square
from spiceclust.data.encoded import AT_ONCE, spread
from spiceclust.data.files import Files
from spiceclust.data.images import Images, load, planes, stamp
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError
from spiceclust.progress import Silent

Pixels = NDArray[np.uint8]


def picture(seed: int, width: int = 10, height: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def read(source: Any, size: int = 8, channels: Any = None) -> Images:
    return load(open_source(source), size, channels, Silent())


def statuses(images: Images) -> dict[str, str]:
    return {row.path: row.status for row in images.rows}


def reasons(images: Images) -> dict[str, str]:
    return {row.path: row.reason for row in images.rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures at three depths; names of several scripts."""
    save(tmp_path / "b.png", picture(0))
    save(tmp_path / "фото 1" / "猫" / "a.png", picture(1))
    save(tmp_path / "images.v2" / ".hidden.bmp", picture(2))
    return tmp_path


# Folders


def test_a_folder_gives_a_row_for_each_file_at_any_depth(folder: Path) -> None:
    source = open_source(folder)
    assert isinstance(source, Files)
    assert source.paths == ["b.png", "images.v2/.hidden.bmp", "фото 1/猫/a.png"]
    assert source.description == f"folder {folder}, 3 files"
    assert len(source) == 3
    for i, seed in enumerate((0, 2, 1)):
        assert np.array_equal(source.picture(i), picture(seed))


def test_rows_and_pixels_of_a_folder(folder: Path) -> None:
    images = read(folder, 8)
    assert [(row.status, row.reason, row.width, row.height) for row in images.rows] == [("ok", "", 10, 8)] * 3
    assert [row.sha256 for row in images.rows] == [
        hashlib.sha256((folder / row.path).read_bytes()).hexdigest() for row in images.rows
    ]
    assert images.pixels.shape == (3, 3, 8, 8)
    assert images.pixels.dtype == np.uint8
    assert images.pixels.flags.c_contiguous
    assert images.index.tolist() == [0, 1, 2]
    assert images.index.dtype == np.int64
    for i, seed in enumerate((0, 2, 1)):
        assert np.array_equal(images.pixels[i], picture(seed)[:, 1:9].transpose(2, 0, 1))


@pytest.mark.parametrize("form", [str, Path, lambda path: f"{path}/"])
def test_a_folder_as_text_or_path(folder: Path, form: Any) -> None:
    assert open_source(form(folder)).paths == open_source(folder).paths


def test_a_relative_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_source(folder).paths
    monkeypatch.chdir(folder)
    assert open_source(".").paths == expected
    monkeypatch.chdir(folder / "фото 1")
    assert open_source("..").paths == expected
    assert open_source("猫").paths == ["a.png"]


def test_the_order_does_not_depend_on_the_file_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z", "Z", "a", "10", "9", "é", "a.b"):
        save(folder / name / "x.png", picture(3))
    expected = open_source(folder).paths
    walk = os.walk

    def shuffled(*arguments: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        found = list(walk(*arguments, **options))
        random.Random(0).shuffle(found)
        return iter(found)

    monkeypatch.setattr(os, "walk", shuffled)
    assert open_source(folder).paths == expected


def test_the_run_folder_is_left_out(folder: Path) -> None:
    save(folder / "runs" / "one" / "contact_sheet.png", picture(4))
    save(folder / "runs" / "one two" / "c.png", picture(5))
    assert len(open_source(folder)) == 5
    assert open_source(folder, exclude=[folder / "runs" / "one"]).paths == [
        "b.png",
        "images.v2/.hidden.bmp",
        "runs/one two/c.png",
        "фото 1/猫/a.png",
    ]


def test_the_run_folder_is_known_by_any_of_its_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "run" / "contact_sheet.png", picture(4))
    (folder.parent / "alias").symlink_to(folder)
    monkeypatch.chdir(folder)
    for exclude in (Path("run"), Path("images.v2/../run"), folder.parent / "alias" / "run"):
        assert len(open_source(folder, exclude=[exclude])) == 3
        assert len(open_source(folder.parent / "alias", exclude=[exclude])) == 3
    (folder.parent / "alias").unlink()


@pytest.mark.parametrize("exclude", ["elsewhere", "."])
def test_a_run_folder_elsewhere_hides_nothing(folder: Path, exclude: str) -> None:
    assert len(open_source(folder, exclude=[folder / exclude])) == 3


def test_links_to_folders_are_not_followed_and_loops_end(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    save(outside / "c.png", picture(6))
    (folder / "loop").symlink_to(folder)
    (folder / "фото 1" / "up").symlink_to("..")
    (folder / "away").symlink_to(outside)
    assert len(open_source(folder)) == 3


def test_links_to_files_are_followed_and_broken_ones_quarantined(folder: Path) -> None:
    (folder / "link.png").symlink_to("b.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    images = read(folder)
    assert reasons(images) | {"b.png": ""} == {
        "b.png": "",
        "link.png": "same content as b.png",
        "gone.png": "cannot be opened: No such file or directory",
        "round.png": "cannot be opened: Too many levels of symbolic links",
        "images.v2/.hidden.bmp": "",
        "фото 1/猫/a.png": "",
    }


def test_a_link_as_the_source_itself_is_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "photos"
    link.symlink_to(folder)
    assert open_source(link).paths == open_source(folder).paths


def test_names_that_are_not_utf8_are_printable_and_still_open(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    save(folder / "x" / "plain.png", picture(7))
    os.rename(folder / "x" / "plain.png", folder / "x" / name)
    images = read(folder)
    assert statuses(images)["x/caf\\xe9.png"] == "ok"
    for row in images.rows:
        row.path.encode("utf-8")
    source = open_source(folder)
    assert np.array_equal(source.picture(source.paths.index("x/caf\\xe9.png")), picture(7))


# What is no picture


def test_pipes_sockets_and_devices_are_quarantined_unopened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    opened: list[str] = []
    plain_open = open

    def watch(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(os.path.basename(path))
        return plain_open(path, *arguments, **options)

    monkeypatch.setitem(module.__dict__, "open", watch)
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("talk.jpg")
        source = open_source(folder)
        source.native_size()
        images = load(source, 8, None, Silent())
    found = reasons(images)
    assert found["pipe.jpg"] == "a named pipe, not a file"
    assert found["talk.jpg"] == "a socket, not a file"
    assert found["zero.jpg"] == "a device, not a file"
    assert images.index[[row.status == "quarantined" for row in images.rows]].tolist() == [-1] * 3
    assert set(opened) == {"b.png", "a.png", ".hidden.bmp"}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Runs a block as a user whom permissions bind, also where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own is closed to others."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for found in path.rglob("*"):
        if found.is_dir():
            found.chmod(0o755)
    shutil.rmtree(path)


def test_unreadable_files_and_folders_are_quarantined(open_folder: Path) -> None:
    save(open_folder / "a.png", picture(0))
    save(open_folder / "closed.png", picture(1)).chmod(0)
    save(open_folder / "listed only" / "b.png", picture(2))
    save(open_folder / "shut" / "c.png", picture(3))
    (open_folder / "listed only").chmod(0o744 if os.geteuid() == 0 else 0o444)
    (open_folder / "shut").chmod(0)
    read(open_folder / "a.png")  # what is imported late is imported now, while all of it can be read
    with unprivileged():
        images = read(open_folder)
    assert reasons(images) == {
        "a.png": "",
        "closed.png": "cannot be opened: Permission denied",
        "listed only/b.png": "cannot be opened: Permission denied",
        "shut": "a folder; what it holds was not read",
    }


def test_an_unreadable_source_says_so(open_folder: Path) -> None:
    save(open_folder / "shut" / "a.png", picture(0))
    (open_folder / "shut").chmod(0)
    with unprivileged(), pytest.raises(SourceError, match=r"shut.*Permission denied"):
        open_source(open_folder / "shut")
    with unprivileged(), pytest.raises(SourceError, match=r"shut.*Permission denied"):
        open_source(open_folder / "shut" / "a.png")


def test_bad_files_are_quarantined_with_a_reason(folder: Path) -> None:
    whole = save(folder / "whole.jpg", picture(8, 64, 64)).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.jpg").write_text("notes")
    (folder / "._b.png").write_bytes(bytes.fromhex("00051607000200004d6163204f532058"))
    (folder / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    found = read(folder)
    assert {path: reason for path, reason in reasons(found).items() if reason} == {
        "half.jpg": "truncated: the JPEG data end early",
        "empty.jpg": "empty file",
        "notes.jpg": "not an image in a supported format",
        "._b.png": "not an image in a supported format",
        "noise.png": reasons(found)["noise.png"],
    }
    assert reasons(found)["noise.png"].startswith("damaged PNG file: ")
    for row in found.rows:
        if row.status == "quarantined":
            assert (row.width, row.height) == (0, 0)
            assert row.sha256 == hashlib.sha256((folder / row.path).read_bytes()).hexdigest()


def test_a_file_too_large_is_not_read(folder: Path) -> None:
    with (folder / "film.png").open("wb") as file:
        file.truncate(2**40)  # a sparse file: a terabyte that takes no room
    row = {row.path: row for row in read(folder).rows}["film.png"]
    assert (row.status, row.sha256) == ("quarantined", "")
    assert row.reason == "too large: 1,099,511,627,776 bytes, limit 268,435,456"


def test_a_file_that_vanishes_is_quarantined(folder: Path) -> None:
    source = open_source(folder)
    (folder / "b.png").unlink()
    images = load(source, 8, None, Silent())
    assert reasons(images)["b.png"] == "cannot be opened: No such file or directory"
    assert images.index.tolist() == [-1, 0, 1]
    with pytest.raises(DecodeError, match="No such file"):
        source.picture(0)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1200, 24), (24, 1200), (3000, 1)])
def test_odd_shapes(tmp_path: Path, width: int, height: int) -> None:
    save(tmp_path / "odd.png", np.full((height, width, 3), (10, 20, 30), np.uint8))
    images = read(tmp_path, 16)
    assert (images.rows[0].width, images.rows[0].height) == (width, height)
    assert (images.pixels == np.array([10, 20, 30]).reshape(1, 3, 1, 1)).all()
    assert images.pixels.shape == (1, 3, 16, 16)


def test_mixed_sizes_and_constant_colour(tmp_path: Path) -> None:
    shapes = [(1, 1), (40, 30), (16, 16), (200, 17)]
    for i, (width, height) in enumerate(shapes):
        save(tmp_path / f"{i}.png", picture(i, width, height))
    save(tmp_path / "white.jpg", np.full((20, 20, 3), 255, np.uint8))
    images = read(tmp_path, 16)
    assert images.pixels.shape == (5, 3, 16, 16)
    assert [(row.width, row.height) for row in images.rows] == [*shapes, (20, 20)]
    for i, (width, height) in enumerate(shapes):
        assert np.array_equal(images.pixels[i], square(picture(i, width, height), 16).transpose(2, 0, 1))
    assert images.pixels[4].min() == 255


# Duplicates


def test_copies_share_the_pixels_of_the_first(tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 1, "c": 0, "d": 2, "e": 1, "f": 0}.items():
        save(tmp_path / f"{name}.png", picture(seed))
    images = read(tmp_path)
    assert images.index.tolist() == [0, 1, 0, 2, 1, 0]
    assert len(images.pixels) == 3
    assert reasons(images) == {
        "a.png": "",
        "b.png": "",
        "c.png": "same content as a.png",
        "d.png": "",
        "e.png": "same content as b.png",
        "f.png": "same content as a.png",
    }
    assert Counter(statuses(images).values()) == {"ok": 3, "duplicate": 3}
    assert [row.width for row in images.rows] == [10] * 6  # a duplicate keeps what is known of it


def test_the_original_name_comes_before_the_names_that_systems_give_copies(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a b - Copy.jpg", "a b (1).jpg", "a b copy.jpg", "a b_1.jpg", "a b-1.jpg"):
        save(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert read(tmp_path).rows[0].path == "a b.jpg"


def test_bad_files_with_equal_bytes_are_all_quarantined(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0))
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_text("the same text")
    assert statuses(read(tmp_path)) == {"a.png": "ok", "x.jpg": "quarantined", "y.jpg": "quarantined"}


def test_the_same_pixels_in_other_bytes_are_no_duplicate(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0))
    save(tmp_path / "a.bmp", picture(0))
    images = read(tmp_path)
    assert images.index.tolist() == [0, 1]
    assert np.array_equal(images.pixels[0], images.pixels[1])


# Channels


def test_grey_pictures_give_one_channel(tmp_path: Path) -> None:
    grey = picture(0)[..., 0]
    save(tmp_path / "grey.png", grey)
    save(tmp_path / "rgb.png", np.repeat((grey // 2)[..., None], 3, axis=2))
    images = read(tmp_path)
    assert images.pixels.shape == (2, 1, 8, 8)
    assert images.pixels.flags.c_contiguous
    assert np.array_equal(images.pixels[0, 0], grey[:, 1:9])
    assert read(tmp_path, channels=3).pixels.shape == (2, 3, 8, 8)


def test_one_coloured_picture_gives_all_three(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0)[..., 0])
    colour = np.full((8, 8, 3), 100, np.uint8)
    colour[7, 7, 2] = 101
    save(tmp_path / "b.png", colour)
    images = read(tmp_path)
    assert images.pixels.shape == (2, 3, 8, 8)
    assert images.pixels[1, :, 7, 7].tolist() == [100, 100, 101]


def test_the_planes_of_many_pictures_are_those_of_each() -> None:
    many = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7, 3), dtype=np.uint8)
    many[0, 0] = [[[level, level, level] for level in range(7)]] * 5
    for channels in (1, 3):
        found = planes(many, channels)
        assert found.shape == (2, 3, channels, 5, 7)
        for i, j in np.ndindex(2, 3):
            picture = Image.fromarray(many[i, j])
            bands = [picture.convert("L")] if channels == 1 else picture.split()
            assert np.array_equal(found[i, j], [np.asarray(band) for band in bands])


def test_one_channel_on_demand_is_the_luminance_of_pillow(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0, 8, 8))
    images = read(tmp_path, channels=1)
    assert images.pixels.shape == (1, 1, 8, 8)
    assert np.array_equal(images.pixels[0, 0], np.asarray(Image.fromarray(picture(0, 8, 8)).convert("L")))


# Lists and single files


def test_a_list_keeps_its_order_and_its_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    source = open_source(["images.v2/.hidden.bmp", str(folder / "b.png"), Path("фото 1/猫/a.png")])
    assert source.paths == ["images.v2/.hidden.bmp", f"{folder}/b.png", "фото 1/猫/a.png"]
    assert source.description == "list of 3 files"
    images = load(source, 8, None, Silent())
    assert np.array_equal(images.pixels[1], picture(0)[:, 1:9].transpose(2, 0, 1))


def test_what_a_list_names_in_vain_is_quarantined(folder: Path) -> None:
    images = read([folder / "b.png", "missing.png", str(folder), "nul\0byte.png", "\ud800.png", folder / "b.png"])
    assert [row.status for row in images.rows] == ["ok", *["quarantined"] * 4, "duplicate"]
    assert images.rows[1].reason == "cannot be opened: No such file or directory"
    assert images.rows[2].reason == "a folder; what it holds was not read"
    assert all("\n" not in row.reason for row in images.rows)
    assert images.rows[4].path == "\\ud800.png"
    assert images.rows[5].reason == f"same content as {folder}/b.png"


def test_a_single_picture(folder: Path) -> None:
    source = open_source(folder / "b.png")
    assert source.paths == [str(folder / "b.png")]
    assert load(source, 8, None, Silent()).rows[0].status == "ok"


@pytest.mark.parametrize("name", ["photos.zip", "notes.txt", "pipe"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(SourceError, match=r"neither a folder, nor a \.npy or \.npz file, nor a picture"):
        open_source(tmp_path / name)


# Sources that are none


@pytest.mark.parametrize("source", ["", "no/such/folder", "nul\0byte", "x" * 5000, Path("gone.npz"), "ftp://x/y"])
def test_a_missing_source_says_what_would_do(source: str | Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be opened .*: give a folder, a picture, a .npy or .npz file"):
        open_source(source)


def test_an_unknown_built_in_lists_what_there_is() -> None:
    with pytest.raises(SourceError, match="unknown built-in data set 'builtin:cats': choose one of builtin:digits"):
        open_source("builtin:cats")


@pytest.mark.parametrize("source", [None, 7, b"photos", {"a": 1}, iter(["a"])])
def test_a_source_of_another_type(source: Any) -> None:
    with pytest.raises(SourceError, match="cannot read images from a"):
        open_source(source)


def test_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no files"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="list of paths is empty"):
        open_source([])


def test_a_list_of_arrays_says_how_to_stack_them() -> None:
    with pytest.raises(SourceError, match="item 0 of the list is a ndarray, not a path; stack"):
        open_source([picture(0)])  # type: ignore[list-item]


def test_nothing_readable_counts_and_names_the_commonest_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    for name in "bcd":
        (tmp_path / f"{name}.jpg").write_text(f"text {name}")
    source = open_source(tmp_path)
    assert source.native_size() == 0
    with pytest.raises(
        SourceError, match=r"4 files: none can be read; .* \(3 of 4\): not an image in a supported format$"
    ):
        load(source, 8, None, Silent())


# Arrays


def test_an_array_of_colour() -> None:
    array = np.stack([picture(i, 8, 8) for i in range(5)])
    source = open_source(array)
    assert isinstance(source, Array)
    assert source.paths == ["0", "1", "2", "3", "4"]
    assert source.description == "array, 5 pictures of 8 x 8"
    images = load(source, 8, None, Silent())
    assert np.array_equal(images.pixels, array.transpose(0, 3, 1, 2))
    assert images.pixels.flags.c_contiguous
    assert [(row.width, row.height, row.status) for row in images.rows] == [(8, 8, "ok")] * 5
    assert np.array_equal(source.picture(3), array[3])


def test_pictures_of_an_array_are_copies() -> None:
    array = np.stack([picture(0), picture(1)])
    open_source(array).picture(0)[:] = 0
    assert np.array_equal(array[0], picture(0))


@pytest.mark.parametrize("tail", [(), (1,)])
def test_an_array_of_grey(tail: tuple[int, ...]) -> None:
    array = picture(0, 6 * 9, 7)[..., 0].reshape(6, 7, 9)
    images = read(array.reshape(*array.shape, *tail), 7)
    assert images.pixels.shape == (6, 1, 7, 7)
    assert np.array_equal(images.pixels[:, 0], array[:, :, 1:8])
    assert open_source(array.reshape(*array.shape, *tail)).picture(2).shape == (7, 9, 3)
    assert (images.rows[0].width, images.rows[0].height) == (9, 7)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("size", [5, 8, 9, 20])
@pytest.mark.parametrize("kind", ["grey", "colour", "alpha", "uint16", "bool"])
def test_an_array_gives_what_files_of_the_same_pictures_give(
    tmp_path: Path, kind: str, size: int, channels: Any
) -> None:
    draw = np.random.default_rng(1)
    array: NDArray[Any] = {
        "grey": draw.integers(0, 256, (6, 8, 11), dtype=np.uint8),
        "colour": draw.integers(0, 256, (6, 8, 11, 3), dtype=np.uint8),
        "alpha": draw.integers(0, 256, (6, 8, 11, 4), dtype=np.uint8),
        "uint16": draw.integers(0, 4096, (6, 8, 11), dtype=np.uint16) << np.arange(6)[:, None, None].astype(np.uint16),
        "bool": draw.integers(0, 2, (6, 8, 11)).astype(bool),
    }[kind]
    for i, image in enumerate(array):
        save(tmp_path / f"{i}.png", image)
    files = load(open_source(tmp_path), size, channels, Silent())
    images = load(open_source(array), size, channels, Silent())
    assert np.array_equal(images.pixels, files.pixels)
    for i in range(6):
        assert np.array_equal(open_source(array).picture(i), open_source(tmp_path).picture(i))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_the_unit_interval(dtype: Any) -> None:
    array = np.array([[[0, 0.25], [0.5, 1]], [[1, 1], [0, 0.2]]], dtype)
    assert read(array, 2).pixels[:, 0].tolist() == [[[0, 64], [128, 255]], [[255, 255], [0, 51]]]


@given(hnp.arrays(np.uint8, (4, 5, 5)))
def test_bytes_as_floats_come_back_unchanged(array: Pixels) -> None:
    floats = open_source(array / np.float32(255))
    assert all(np.array_equal(floats.picture(i), open_source(array).picture(i)) for i in range(4))


def test_duplicates_in_an_array() -> None:
    array = np.stack([picture(seed, 8, 8) for seed in (0, 1, 0, 2, 1)])
    images = read(array)
    assert images.index.tolist() == [0, 1, 0, 2, 1]
    assert reasons(images)["2"] == "same content as 0"
    assert np.array_equal(images.pixels, array[[0, 1, 3]].transpose(0, 3, 1, 2))


BAD_ARRAYS = {
    "int64": (np.zeros((3, 4, 4), np.int64), r"given int64 of shape \(3, 4, 4\), needed uint8"),
    "objects": (np.array([None, "x"]), "given object of shape"),
    "text": (np.array([["a"]]), "given <U1 of shape"),
    "complex": (np.zeros((3, 4, 4), np.complex64), "given complex64"),
    "one picture": (np.zeros((40, 60, 3), np.uint8), "looks like a single picture"),
    "one grey picture": (np.zeros((40, 60), np.uint8), r"given uint8 of shape \(40, 60\), needed \(N, H, W\) or"),
    "channels first": (np.zeros((9, 3, 32, 32), np.uint8), r"\(9, 3, 32, 32\), needed \(N, H, W\) or"),
    "video": (np.zeros((2, 2, 4, 4, 3), np.uint8), r"needed \(N, H, W\) or"),
    "none": (np.zeros((0, 4, 4), np.uint8), "holds no pixels"),
    "flat": (np.zeros((5, 0, 4), np.uint8), "holds no pixels"),
    "scalar": (np.array(3, np.uint8), r"of shape \(\), needed"),
    "floats to 255": (np.full((2, 4, 4), 255.0), r"values from 255 to 255; floats must lie in \[0, 1\]"),
    "negative": (np.full((2, 4, 4), -0.5), "values from -0.5 to -0.5"),
    "nan": (np.full((2, 4, 4), np.nan), "2 of 2 pictures hold values that are not finite"),
    "an inf": (
        np.float32([[[0, 1], [1, 0]], [[0, np.inf], [1, 0]]]),
        "1 of 2 pictures hold values that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_holds_no_pictures(case: str) -> None:
    array, message = BAD_ARRAYS[case]
    with pytest.raises(SourceError, match=message):
        open_source(array)


def test_seventy_thousand_small_pictures_take_seconds() -> None:
    array = np.random.default_rng(0).integers(0, 256, (70_000, 28, 28), dtype=np.uint8)
    start = time.monotonic()
    images = read(array, 28)
    assert time.monotonic() - start < 30  # about 2 s on two quiet cores
    assert np.array_equal(images.pixels[:, 0], array)


# Array files


def test_npy(tmp_path: Path) -> None:
    array = np.stack([picture(i) for i in range(3)])
    np.save(tmp_path / "some.npy", array)
    source = open_source(tmp_path / "some.npy")
    assert source.description == f"file {tmp_path}/some.npy, 3 pictures of 10 x 8"
    assert type(source.picture(0)) is np.ndarray
    assert np.array_equal(load(source, 8, None, Silent()).pixels, read(array).pixels)


def test_npz_reads_images_and_never_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.stack([picture(i) for i in range(3)])
    np.savez_compressed(tmp_path / "set.npz", labels=np.arange(3), images=array, class_names=np.array(["a", "b"]))
    members: list[str] = []
    plain_open = zipfile.ZipFile.open

    def watch(archive: zipfile.ZipFile, name: Any, *arguments: Any, **options: Any) -> Any:
        members.append(getattr(name, "filename", name))
        return plain_open(archive, name, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", watch)
    images = read(tmp_path / "set.npz")
    assert np.array_equal(images.pixels, read(array).pixels)
    assert set(members) == {"images.npy"}


def test_damaged_labels_do_no_harm(tmp_path: Path) -> None:
    array = np.stack([picture(i) for i in range(3)])
    np.save(tmp_path / "images.npy", array)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.write(tmp_path / "images.npy", "images.npy")
        archive.writestr("labels.npy", b"\x80\x04 this is a pickle, or worse")
    assert len(open_source(tmp_path / "set.npz")) == 3


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["trap.npy", "trap.npz"])
def test_pickles_are_never_loaded(tmp_path: Path, name: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    if name.endswith("npy"):
        np.save(tmp_path / name, trap, allow_pickle=True)
    else:
        np.savez(tmp_path / name, images=trap)
    with pytest.raises(SourceError, match="cannot be read as arrays"):
        open_source(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_npz_without_images_lists_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(SourceError, match="no array named images; it has: x, labels"):
        open_source(tmp_path / "set.npz")


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz"])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_damaged_array_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as arrays"):
        open_source(tmp_path / name)


def test_a_cut_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", images=np.stack([picture(i) for i in range(3)]))
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as arrays"):
        open_source(tmp_path / "set.npz")


def test_built_in_digits() -> None:
    source = open_source("builtin:digits")
    assert source.description == "builtin:digits, 1797 pictures of 8 x 8"
    assert source.native_size() == 8
    images = load(source, 8, None, Silent())
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert np.array_equal(images.pixels[:, 0], digits())


# Native size


def test_native_size_is_the_median_of_the_shorter_sides(tmp_path: Path) -> None:
    for i, (width, height) in enumerate([(10, 90), (30, 31), (200, 50), (64, 64), (20, 500)]):
        save(tmp_path / f"{i}.png", picture(i, width, height))
    (tmp_path / "notes.txt").write_text("no picture")
    assert open_source(tmp_path).native_size() == 30
    assert open_source(np.zeros((2, 40, 60, 3), np.uint8)).native_size() == 40


def test_native_size_of_turned_photos(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture(0, 40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_source(tmp_path).native_size() == 20
    row = read(tmp_path).rows[0]
    assert (row.width, row.height) == (20, 40)


def test_native_size_reads_few_headers_from_all_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def header(source: Files, i: int) -> tuple[int, int]:
        looked.append(source.files[i])
        return i, 10**6

    monkeypatch.setattr(Files, "header", header)
    n = 10_000
    source = Files([str(i) for i in range(n)], "", [str(i) for i in range(n)])
    assert abs(source.native_size() - n / 2) < n / 50
    assert len(set(looked)) == len(looked) == 256
    assert max(np.diff(np.sort([int(path) for path in looked]))) < 3 * n / 256


def test_native_size_finds_the_pictures_among_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i:04}.{kind}" for i in range(1024) for kind in ("jpg", "xmp")]
    monkeypatch.setattr(Files, "header", lambda source, i: (33, 44) if source.files[i].endswith("jpg") else None)
    assert Files(names, "", names).native_size() == 33
    last_only = [f"{i}.xmp" for i in range(999)] + ["a.jpg"]
    assert Files(last_only, "", last_only).native_size() == 33


@given(st.integers(1, 2000))
def test_the_spread_visits_each_once(n: int) -> None:
    assert sorted(spread(n)) == list(range(n))


# Reading in threads


class Counted:
    """A progress that adds up what it is told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.done = 0
        self.closed = False

    def say(self, text: str) -> None:
        raise AssertionError(text)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator["Counted"]:
        self.tasks.append((name, total))
        try:
            yield self
        finally:
            self.closed = True

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps


@pytest.mark.parametrize("n", [1, 3, 4, 5, 50])
def test_progress_counts_every_file(tmp_path: Path, n: int) -> None:
    for i in range(n):
        save(tmp_path / f"{i}.png", picture(i))
    progress = Counted()
    load(open_source(tmp_path), 8, None, progress)
    assert progress.tasks == [("reading images", n)]
    assert progress.done == n


def test_the_result_does_not_depend_on_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        save(tmp_path / f"{i}.png", picture(i % 15))
    (tmp_path / "bad.png").write_bytes(b"")
    expected = read(tmp_path)
    plain, draw, lock = module.file_bytes, random.Random(0), threading.Lock()

    def slow(path: str, *limits: int) -> bytes:
        with lock:
            seconds = draw.random() * 0.01
        time.sleep(seconds)
        return plain(path, *limits)

    monkeypatch.setattr(module, "file_bytes", slow)
    monkeypatch.setattr("spiceclust.data.encoded.AT_ONCE", 2)
    found = load(open_source(tmp_path, workers=7), 8, None, Silent())
    assert found.rows == expected.rows
    assert found.fingerprint == expected.fingerprint
    assert np.array_equal(found.pixels, expected.pixels)
    assert np.array_equal(found.index, expected.index)


def test_few_pictures_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 200
    for i in range(n):
        save(tmp_path / f"{i:02}.png", picture(i))
    started, plain, consumed = [0], module.file_bytes, [0]
    furthest = [0]

    def count(path: str, *limits: int) -> bytes:
        started[0] += 1
        furthest[0] = max(furthest[0], started[0] - consumed[0])
        return plain(path, *limits)

    class Slow(Counted):
        def advance(self, steps: int = 1, note: str = "") -> None:
            time.sleep(0.02)  # a consumer that lags behind
            consumed[0] += steps

    monkeypatch.setattr(module, "file_bytes", count)
    load(open_source(tmp_path, workers=1), 8, None, Slow())
    assert started[0] == consumed[0] == n
    assert furthest[0] <= (2 * 2 + 1) * AT_ONCE < n


def test_an_interrupt_while_reading_ends_the_threads(folder: Path) -> None:
    class Interrupt(Counted):
        def advance(self, steps: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        load(open_source(folder), 8, None, Interrupt())
    assert threading.active_count() == before


def test_an_error_outside_the_threads_ends_them_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Pixels) -> Pixels:
        raise KeyboardInterrupt

    monkeypatch.setattr("spiceclust.data.images._luminance", fail)
    before, progress = threading.active_count(), Counted()
    with pytest.raises(KeyboardInterrupt) as caught:
        load(open_source(folder), 8, 1, progress)
    assert progress.closed  # while the traceback, which `caught` holds, keeps every frame alive
    assert threading.active_count() == before
    assert caught.tb is not None


@pytest.mark.parametrize(("shape", "length"), [((50, 1024, 1024), 4), ((10**6, 2, 2), 2**20), ((3, 4096, 4096), 1)])
def test_large_arrays_are_read_in_small_parts(shape: tuple[int, int, int], length: int) -> None:
    parts = open_source(np.zeros(shape, np.uint8)).parts()
    assert [i for part in parts for i in part] == list(range(shape[0]))
    assert max(map(len, parts)) == min(length, shape[0])


# Fingerprint


def test_the_fingerprint_tells_contents_names_and_statuses_apart(folder: Path) -> None:
    seen = {read(folder).fingerprint}
    assert read(folder, 16, 3).fingerprint in seen  # size and channels are config, not content
    save(folder / "b.png", picture(9))
    seen.add(read(folder).fingerprint)
    os.rename(folder / "b.png", folder / "c.png")
    seen.add(read(folder).fingerprint)
    (folder / "empty.png").write_bytes(b"")
    assert read(folder).fingerprint in seen  # what cannot be read is clustered in neither run
    save(folder / "empty.png", picture(9))
    seen.add(read(folder).fingerprint)
    assert len(seen) == 4
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in seen)


def test_the_fingerprint_follows_the_status_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "large.png", picture(0, 10, 8))
    save(tmp_path / "small.png", picture(1, 4, 4))
    before = read(tmp_path)
    monkeypatch.setattr("spiceclust.data.decode.MAX_PIXELS", 50)
    after = load(open_source(tmp_path, workers=0), 8, None, Silent())
    assert [row.sha256 for row in after.rows] == [row.sha256 for row in before.rows]
    assert [row.status for row in after.rows] == ["quarantined", "ok"]
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_of_an_array_follows_its_pixels_and_shape() -> None:
    array = picture(0, 8, 8)[..., 0].reshape(4, 4, 4)
    other = array.copy()
    other[3, 3, 3] ^= 1
    assert read(array).fingerprint == read(array.copy()).fingerprint
    assert read(array).fingerprint != read(other).fingerprint
    assert read(array.reshape(4, 2, 8)).fingerprint != read(array).fingerprint


def test_the_stamp_of_a_source_changes_with_its_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, grey in (("a.png", 10), ("b.png", 20)):
        Image.new("L", (4, 4), grey).save(tmp_path / "in" / name)
    first = stamp(open_source(tmp_path / "in"))
    assert stamp(open_source(tmp_path / "in")) == first
    Image.new("L", (5, 5), 30).save(tmp_path / "in" / "b.png")  # another picture under the same name
    second = stamp(open_source(tmp_path / "in"))
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "c.png")
    third = stamp(open_source(tmp_path / "in"))
    array = np.zeros((3, 4, 4), dtype=np.uint8)
    fourth = stamp(open_source(array))
    array[2, 1, 1] = 1
    assert len({first, second, third, fourth, stamp(open_source(array))}) == 5


def test_files_and_folders_that_a_command_writes_are_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "t.csv", "t.csv.parts/key.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert open_source(tmp_path, exclude=[tmp_path / "t.csv", tmp_path / "t.csv.parts"]).paths == ["a.png"]


def test_a_link_to_what_a_command_writes_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b/t.csv", "b/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("x")
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "in" / "b" / "t.csv")
    (tmp_path / "in" / "other.png").symlink_to("a.png")
    (tmp_path / "again").symlink_to(tmp_path / "in")
    for exclude in (tmp_path / "in" / "b" / "t.csv", tmp_path / "in" / "link.csv", tmp_path / "again" / "b" / "t.csv"):
        for folder in (tmp_path / "in", tmp_path / "again"):
            assert open_source(folder, exclude=[exclude]).paths == ["a.png", "other.png", "b/c.png"]
