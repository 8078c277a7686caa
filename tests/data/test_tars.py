"""Tars are written with the standard library and read with ours; what is damaged is cut and patched by hand."""

import hashlib
import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pictures import encoded, picture, write_tar
from spiceclust.data import tars as module
from spiceclust.data.decode import DecodeError
from spiceclust.data.images import Images, load
from spiceclust.data.sources import open_source
from spiceclust.data.tars import Tars
from spiceclust.errors import SourceError
from spiceclust.progress import Silent

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(source: Any) -> Images:
    return load(open_source(source), 8, None, Silent())


def reasons(images: Images) -> dict[str, str]:
    return {row.path: row.reason for row in images.rows}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three samples as WebDataset writes them: an image, its class and a note."""
    members = []
    for i in range(3):
        members += [(f"猫/{i:03}.jpg", encoded(i, "JPEG")), (f"猫/{i:03}.cls", b"7"), (f"猫/{i:03}.json", b'{"a": 1}')]
    return write_tar(tmp_path / "shard-0.tar", members)


def test_images_of_a_tar_are_read_where_they_lie(shard: Path) -> None:
    source = open_source(shard)
    assert isinstance(source, Tars)
    assert source.paths == [f"shard-0.tar/猫/{i:03}.jpg" for i in range(3)]
    assert source.description == f"tar {shard}, 3 files; passed over: 3 .cls, 3 .json"
    assert source.root == str(shard.parent)
    assert source.native_size() == 8
    images = read(str(shard))
    for i, row in enumerate(images.rows):
        content = encoded(i, "JPEG")
        assert (row.status, row.width, row.height) == ("ok", 10, 8)
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert np.array_equal(source.picture(i), np.asarray(Image.open(io.BytesIO(content))))
    assert [path.name for path in shard.parent.iterdir()] == ["shard-0.tar"]


def test_a_tar_gives_what_a_folder_of_the_same_files_gives(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    members = [
        (f"{i}.{kind.lower()}", encoded(i, kind)) for i, kind in enumerate(["PNG", "BMP", "GIF", "TIFF", "WEBP"])
    ]
    members += [
        ("copy.png", encoded(0)),
        ("notes.bin", b"no picture"),
        ("empty.png", b""),
        ("half.png", encoded(9)[:99]),
    ]
    for name, content in members:
        (folder / name).write_bytes(content)
    tar = write_tar(
        tmp_path / "all.tar", [(path.name, path.read_bytes()) for path in map(Path, open_source(folder).files)]
    )  # type: ignore[union-attr]
    files, images = read(folder), read(tar)
    assert np.array_equal(images.pixels, files.pixels)
    assert np.array_equal(images.index, files.index)
    for mine, theirs in zip(images.rows, files.rows, strict=True):
        assert mine.path == f"all.tar/{theirs.path}"
        assert mine.reason.replace("all.tar/", "") == theirs.reason
        assert (mine.status, mine.width, mine.height, mine.sha256) == (
            *(theirs.status, theirs.width, theirs.height, theirs.sha256),
        )


NAMES = {
    "ascii": "a.png",
    "unicode": "фото/été 猫.PNG",
    "99 bytes": "x" * 95 + ".png",
    "two parts": "d" * 90 + "/" + "x" * 90 + ".png",
    "long": "d" * 200 + "/" + "x" * 200 + ".png",
    "odd extension": "sample.input.Jpeg2",
    "no extension": "0001",
    "dots": "./a/../b.png",
    "newline": "a\nb.png",
    "absolute": "/etc/passwd.png",
}


HOLDABLE = [(form, name) for form in FORMATS for name in NAMES if (form, name) != ("ustar", "long")]


@pytest.mark.parametrize(("form", "name"), HOLDABLE)
def test_any_name_in_any_format(tmp_path: Path, form: str, name: str) -> None:
    write_tar(tmp_path / "a.tar", [(NAMES[name], encoded(0)), ("z.png", encoded(1))], FORMATS[form])
    with tarfile.open(tmp_path / "a.tar") as archive:
        known = [f"a.tar/{member.name.removeprefix('./')}" for member in archive]
    assert open_source(tmp_path / "a.tar").paths == known
    assert [row.status for row in read(tmp_path / "a.tar").rows] == ["ok", "ok"]


def test_names_that_are_not_utf8_are_printable(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(os.fsdecode(b"caf\xe9.png"), encoded(0))], tarfile.GNU_FORMAT)
    assert open_source(tar).paths == ["a.tar/caf\\xe9.png"]


def test_a_pattern_takes_all_shards_in_order(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        write_tar(tmp_path / f"s-{i:02}.tar", [("a.png", encoded(i))])
    (tmp_path / "notes.txt").write_text("notes")
    source = open_source(f"{tmp_path}/s-*.tar")
    assert source.paths == ["s-01.tar/a.png", "s-02.tar/a.png", "s-10.tar/a.png"]
    assert open_source(f"{tmp_path}/s-0[12].tar").paths == source.paths[:2]
    assert open_source(tmp_path).paths == source.paths  # a folder of nothing else
    assert open_source(sorted(tmp_path.glob("*.tar"))).paths == source.paths
    assert source.root == str(tmp_path)
    assert np.array_equal(source.picture(2), picture(10))
    with pytest.raises(SourceError, match="no file fits the pattern"):
        open_source(f"{tmp_path}/t-*.tar")


def test_shards_in_several_folders_keep_their_folders(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "0.tar", [("a.png", encoded(0))])
    assert open_source(f"{tmp_path}/**/*.tar").paths == ["train/0.tar/a.png", "val/0.tar/a.png"]


def test_labels_beside_images_are_not_even_read(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(shard) as archive:
        labels = [range(m.offset_data, m.offset_data + m.size) for m in archive if not m.name.endswith(".jpg")]
    assert len(labels) == 6
    taken: list[tuple[int, int]] = []
    plain = os.pread

    def watch(handle: int, length: int, offset: int) -> bytes:
        taken.append((offset, offset + length))
        return plain(handle, length, offset)

    monkeypatch.setattr(os, "pread", watch)
    source = open_source(shard)
    source.native_size()
    load(source, 8, None, Silent())
    assert len(taken) > 9
    for start, end in taken:
        assert not any(start < label.stop and label.start < end for label in labels)


def test_other_labels_change_nothing(shard: Path, tmp_path: Path) -> None:
    with tarfile.open(shard) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    changed = [(name, b"\x80garbage" if name.endswith("cls") else content) for name, content in members]
    (tmp_path / "other").mkdir()
    other = write_tar(tmp_path / "other" / "shard-0.tar", changed)
    assert read(other).fingerprint == read(shard).fingerprint


def special(kind: bytes, name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def test_links_and_devices_are_quarantined_and_folders_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(special(tarfile.DIRTYPE, "folder"))
        archive.addfile(special(tarfile.SYMTYPE, "soft.png"))
        archive.addfile(special(tarfile.LNKTYPE, "hard.png"))
        archive.addfile(special(tarfile.CHRTYPE, "zero.png"))
        archive.addfile(special(tarfile.FIFOTYPE, "pipe.png"))
        good = tarfile.TarInfo("folder/a.png")
        good.size = len(encoded(0))
        archive.addfile(good, io.BytesIO(encoded(0)))
    assert reasons(read(tmp_path / "a.tar")) == {
        "a.tar/soft.png": "a link within the archive",
        "a.tar/hard.png": "a link within the archive",
        "a.tar/zero.png": "a device, not a file",
        "a.tar/pipe.png": "a named pipe, not a file",
        "a.tar/folder/a.png": "",
    }


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["a.tar.{}", "a.tar"])
def test_a_compressed_tar_says_how_to_decompress_it(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name.format(mode)
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    remedy = {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz"}[mode]
    with pytest.raises(SourceError, match=rf"is compressed, .*: decompress it first \({remedy}\)$"):
        open_source(path)


def test_a_tar_that_is_cut_keeps_what_came_before(tmp_path: Path) -> None:
    whole = write_tar(
        tmp_path / "a.tar", [(f"{i}.png", encoded(i)) for i in range(4)], tarfile.USTAR_FORMAT
    ).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        third = archive.getmembers()[2]
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: third.offset_data + 50])
    found = reasons(read(cut))
    assert found == {
        "cut.tar/0.png": "",
        "cut.tar/1.png": "",
        "cut.tar/2.png": "truncated: the archive ends within it",
        "cut.tar": "the archive is cut off after 3 members; what followed is lost",
    }
    cut.write_bytes(whole[: third.offset + 100])  # within a header
    assert reasons(read(cut)) == {
        "cut.tar/0.png": "",
        "cut.tar/1.png": "",
        "cut.tar": "the archive is cut off after 2 members; what followed is lost",
    }


def test_a_damaged_header_is_told_and_ends_the_archive(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", encoded(i)) for i in range(3)], tarfile.USTAR_FORMAT)
    with tarfile.open(path) as archive:
        at = archive.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert reasons(read(path)) == {"a.tar/0.png": "", "a.tar": f"damaged at byte {at:,}; what follows was not read"}


def test_one_bad_shard_does_not_stop_the_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.png", encoded(0))])
    (tmp_path / "1.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "2.tar").write_bytes(b"")
    (tmp_path / "3.tar").symlink_to("gone.tar")
    os.mkfifo(tmp_path / "4.tar")
    assert reasons(read(f"{tmp_path}/*.tar")) == {
        "0.tar/a.png": "",
        "1.tar": "not a tar archive",
        "2.tar": "the archive is cut off after 0 members; what followed is lost",
        "3.tar": "cannot be opened: No such file or directory",
        "4.tar": "a named pipe, not a file",
    }


def test_a_tar_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images in tar .*a\.tar, 0 files; passed over: 2 \.json$"):
        open_source(write_tar(tmp_path / "a.tar", [("a.json", b"{}"), ("b.json", b"{}")]))
    with pytest.raises(SourceError, match=r"no images in tar .*, 0 files$"):
        open_source(write_tar(tmp_path / "a.tar", []))


def header(size: bytes, kind: bytes = b"0", name: bytes = b"a.png") -> bytes:
    """A header with any 12 bytes for its size, and a checksum that holds."""
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT)[:512])
    block[:100] = name.ljust(100, b"\0")
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def pax(*records: bytes) -> bytes:
    content = b"".join(records)
    return header(f"{len(content):011o}\0".encode(), b"x") + content.ljust(-(-len(content) // 512) * 512, b"\0")


HOSTILE = {
    "negative": header(b"\xff" * 11 + b"\x00"),
    "negative pax header": header(b"\xff" * 12, b"x"),
    "beyond 64 bits": header(b"\x80" + b"\xff" * 11),
    "no number": header(b"zzzzzzzzzzzz"),
    "a terabyte": header(b"\x80\0\0\0" + (2**40).to_bytes(8)),
    "a long name of a terabyte": header(b"\x80\0\0\0" + (2**40).to_bytes(8), b"L"),
    "a global header beyond 64 bits": header(b"\x80" + b"\xff" * 11, b"g"),
    "a record of no length": pax(b"0 path=x\n"),
    "a record longer than all": pax(b"999 path=x\n"),
    "a record that is none": pax(b"garbage"),
    "a size of many digits": pax(b"5017 size=" + b"9" * 5006 + b"\n") + header(b"00000000010\0"),
    "a size beyond 64 bits": pax(b"29 size=9999999999999999999\n") + header(b"00000000010\0"),
    "sparse": header(b"00000000010\0", b"S"),
    "unknown kind": header(b"00000000010\0", b"Q"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_end_in_a_reason(tmp_path: Path, case: str) -> None:
    good = write_tar(tmp_path / "good.tar", [("good.png", encoded(0))], tarfile.USTAR_FORMAT).read_bytes()
    path = tmp_path / "a.tar"
    assert len(encoded(0)) <= 512  # a block behind its header
    path.write_bytes(good[:1024] + HOSTILE[case] + b"after" * 300)
    images = read(path)
    assert images.rows[0].status == "ok"
    assert len(images.rows) > 1
    for row in images.rows[1:]:
        assert row.status == "quarantined"
        assert row.reason
        assert "\n" not in row.reason


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 4607), st.integers(0, 255)), max_size=6), end=st.integers(0, 4608))
def test_whatever_is_patched_or_cut_the_rest_is_read_or_refused(
    tmp_path: Path, places: list[tuple[int, int]], end: int
) -> None:
    path = tmp_path / "patched.tar"
    if not (tmp_path / "whole.tar").exists():
        write_tar(tmp_path / "whole.tar", [("é.png", encoded(0)), ("b.png", encoded(1))])
    content = bytearray((tmp_path / "whole.tar").read_bytes())
    for place, value in places:
        content[place] = value
    path.write_bytes(content[:end])
    with suppress(SourceError):  # any other error fails
        source = open_source(path)
        for i in range(len(source)):
            with suppress(DecodeError):
                assert source.picture(i).shape[2] == 3


def test_an_archive_that_changes_meanwhile_is_quarantined(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", encoded(0)), ("b.png", encoded(1))], tarfile.USTAR_FORMAT)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:1100])
    assert reasons(load(source, 8, None, Silent()))["a.tar/b.png"] == "truncated: the archive ends within it"
    path.unlink()
    with pytest.raises(SourceError, match=r"cannot be opened: No such file"):
        load(source, 8, None, Silent())


def test_a_member_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header(b"\x80\0\0\0" + (2**31).to_bytes(8)))
        file.truncate(2**31 + 2048)  # sparse on the disk
    assert open_source(tmp_path / "a.tar").native_size() == 0
    with pytest.raises(SourceError, match="too large: 2,147,483,648 bytes"):
        read(tmp_path / "a.tar")


def test_sizes_are_learned_from_the_front_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(0) + b"\0" * 2**20
    source = open_source(write_tar(tmp_path / "a.tar", [("a.png", content)]))
    lengths = []
    plain = os.pread
    monkeypatch.setattr(os, "pread", lambda *given: lengths.append(given[1]) or plain(*given))
    assert source.native_size() == 8
    assert lengths == [module.FRONT]
