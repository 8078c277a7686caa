import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pictures import encoded, picture, write_tar
from spiceclust.data import packed
from spiceclust.data.images import Images, load, mapped
from spiceclust.data.packed import ABOUT, OURS, discard, part_size
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import RunFolderError, SourceError
from spiceclust.progress import Silent

Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PART_ROWS", 4)


def grey(seed: int) -> Pixels:
    return np.repeat(picture(seed)[..., :1], 3, axis=2)


def write(folder: Path, pictures: list[Pixels]) -> Path:
    folder.mkdir()
    for i, each in enumerate(pictures):
        Image.fromarray(each).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """13 pictures, of which two are copies, and two files that are none."""
    folder = write(tmp_path / "photos", [picture(i % 11) for i in range(13)])
    (folder / "05 notes.png").write_text("no picture")
    (folder / "99.png").write_bytes(b"")
    return folder


class Counting(Silent):
    """Knows how many inputs were read, and what was said; ends reading after some."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.read, self.said, self.checked = most, 0, list[str](), 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def task(self, name: str, total: int) -> Any:
        counting = self

        class Task:
            def __enter__(self) -> "Task":
                return self

            def __exit__(self, *error: object) -> None: ...

            def advance(self, steps: int = 1, note: str = "") -> None:
                if name == "checking pixels":
                    counting.checked += steps
                    return
                counting.read += steps
                if counting.read > counting.most:
                    raise KeyboardInterrupt

        return Task()


def same(one: Images, other: Images) -> bool:
    return (
        one.rows == other.rows
        and one.fingerprint == other.fingerprint
        and np.array_equal(one.index, other.index)
        and one.pixels.shape == other.pixels.shape
        and np.array_equal(one.pixels, other.pixels)
    )


def sources(photos: Path) -> Iterator[Source]:
    yield open_source(photos)
    yield open_source(write_tar(photos.parent / "a.tar", [(f"{i}.png", encoded(i % 5)) for i in range(9)]))
    yield open_source(np.stack([picture(i % 7) for i in range(9)]))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_file_holds_what_memory_holds(photos: Path, tmp_path: Path, channels: Any) -> None:
    for number, source in enumerate(sources(photos)):
        kept = load(source, 8, channels, Silent(), tmp_path / f"pixels {number}")
        assert isinstance(kept.pixels, np.memmap)
        assert same(kept, load(source, 8, channels, Silent()))
        assert same(mapped(tmp_path / f"pixels {number}"), kept)


@pytest.mark.parametrize("first_colour", [0, 1, 5, 11, None])
def test_channels_are_one_until_a_colour_image_comes(tmp_path: Path, first_colour: int | None) -> None:
    pictures = [grey(i) if first_colour is None or i < first_colour else picture(i) for i in range(12)]
    source = open_source(write(tmp_path / "photos", pictures))
    kept = load(source, 8, None, Silent(), tmp_path / "pixels")
    assert kept.pixels.shape == (12, 1 if first_colour is None else 3, 8, 8)
    assert np.array_equal(
        kept.pixels, np.stack([each[:, 1:9].transpose(2, 0, 1) for each in pictures])[:, : kept.pixels.shape[1]]
    )
    assert same(load(source, 8, None, Silent()), kept)
    assert same(load(source, 8, None, Silent(), tmp_path / "pixels"), kept)
    assert len({name[0] for name in os.listdir(tmp_path / "pixels") if name != ABOUT}) == 1  # of one kind


def test_torch_takes_it_without_a_warning_and_without_a_copy(photos: Path, tmp_path: Path) -> None:
    kept = load(open_source(photos), 8, None, Silent(), tmp_path / "pixels")
    tensor = torch.from_numpy(kept.pixels)
    assert tensor.data_ptr() == kept.pixels.ctypes.data
    assert tensor.is_contiguous()


def test_what_is_whole_is_not_read_again(photos: Path, tmp_path: Path) -> None:
    source, again = open_source(photos), Counting()
    first = load(source, 8, None, Silent(), tmp_path / "pixels")
    assert same(load(source, 8, None, again, tmp_path / "pixels"), first)
    assert (again.read, again.checked) == (0, 4)
    assert again.said == [f"reading images: all of 15 are in {tmp_path / 'pixels'}"]


@pytest.mark.parametrize("most", [0, 3, 4, 9, 14])
def test_an_interrupted_reading_goes_on_after_the_last_whole_part(
    photos: Path, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiceclust.data.encoded.AT_ONCE", 1)
    source, again = open_source(photos), Counting()
    with pytest.raises(KeyboardInterrupt):
        load(source, 8, None, Counting(most), tmp_path / "pixels")
    assert same(load(source, 8, None, again, tmp_path / "pixels"), load(source, 8, None, Silent()))
    assert again.read == 15 - (most + 1) // 4 * 4  # the last one is told of once it is taken


@pytest.mark.parametrize("seed", range(8))
def test_damage_anywhere_is_found_and_made_again(photos: Path, tmp_path: Path, seed: int) -> None:
    source, draw = open_source(photos), random.Random(seed)
    first = load(source, 8, None, Silent(), tmp_path / "pixels")
    pixels = first.pixels.copy()
    file = draw.choice(sorted(path for path in (tmp_path / "pixels").iterdir() if path.name != ABOUT))
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content[: draw.choice([len(content), len(content) // 2])])
    again = Counting()
    assert same(load(source, 8, None, again, tmp_path / "pixels"), load(source, 8, None, Silent()))
    assert again.read > 0
    assert np.array_equal(mapped(tmp_path / "pixels").pixels, pixels)


def test_a_widening_that_was_cut_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(write(tmp_path / "photos", [grey(i) for i in range(9)] + [picture(9)]))
    append, left = packed.Packed.append, [4]

    def dies(self: packed.Packed, *given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        append(self, *given)

    for appends in (3, 4):  # two of grey images, then those of the widening, which is of two
        left[0] = appends
        monkeypatch.setattr(packed.Packed, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            load(source, 8, None, Silent(), tmp_path / "pixels")
        monkeypatch.setattr(packed.Packed, "append", append)
        again = Counting()
        assert same(load(source, 8, None, again, tmp_path / "pixels"), load(source, 8, None, Silent()))
        assert again.read == 2
        discard(tmp_path / "pixels")


def test_other_images_size_channels_or_version_are_read_anew(photos: Path, tmp_path: Path) -> None:
    folder, n = tmp_path / "pixels", 15
    for size, channels, version in ((8, None, ""), (6, None, ""), (6, 3, ""), (6, 3, "2")):
        reading = Counting()
        kept = load(open_source(photos), size, channels, reading, folder, version)
        assert reading.read == n
        assert kept.pixels.shape == (11, 3, size, size)
    Image.fromarray(picture(77)).save(photos / "00.png")
    reading = Counting()
    changed = load(open_source(photos), 6, 3, reading, folder, "2")
    assert reading.read == n
    assert same(changed, load(open_source(photos), 6, 3, Silent()))


def test_a_folder_of_others_is_refused_and_left_as_it_is(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pixels"
    folder.mkdir()
    (folder / "3.pixels.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds other files \(3.pixels.txt"):
        load(open_source(photos), 8, None, Silent(), folder)
    discard(folder)
    assert os.listdir(folder) == ["3.pixels.txt"]


def test_nothing_readable_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_text("none")
    with pytest.raises(SourceError, match="none can be read"):
        load(open_source(tmp_path / "photos"), 8, None, Silent(), tmp_path / "pixels")
    assert not [name for name in os.listdir(tmp_path / "pixels") if name != ABOUT]


def test_a_full_disk_is_one_line_and_what_is_there_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [0]
    sync = os.fdatasync

    def full(handle: int) -> None:
        written[0] += 1
        if written[0] == 3:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(RunFolderError, match=r"3.pixels cannot be used \(No space left on device\)"):
        load(open_source(photos), 8, None, Silent(), tmp_path / "pixels")
    again = Counting()
    load(open_source(photos), 8, None, again, tmp_path / "pixels")
    assert again.read == 15 - 8


def test_a_file_that_is_too_short_is_refused_and_not_made_longer(photos: Path, tmp_path: Path) -> None:
    load(open_source(photos), 8, None, Silent(), tmp_path / "pixels")
    os.truncate(tmp_path / "pixels/3.pixels", 100)
    with pytest.raises(RunFolderError, match=r"damaged \(100 bytes of 2,112\)"):
        mapped(tmp_path / "pixels")
    assert (tmp_path / "pixels/3.pixels").stat().st_size == 100
    with pytest.raises(RunFolderError, match=r"about\.json is missing"):
        mapped(tmp_path / "nowhere")


def test_what_is_discarded_is_ours_alone(photos: Path, tmp_path: Path) -> None:
    load(open_source(photos), 8, None, Silent(), tmp_path / "pixels")
    assert all(OURS.fullmatch(name) for name in os.listdir(tmp_path / "pixels"))
    discard(tmp_path / "pixels")
    discard(tmp_path / "pixels")  # not there
    assert not (tmp_path / "pixels").exists()


def test_parts_are_bounded_in_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [part_size(size) for size in (16, 32, 224, 10**5)] == [2**14, 2**25 // 3072, 222, 1]
