"""Image files that do harm: real photographs, damaged and rebuilt in the ways that break decoders."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm", ".jp2", ".avif", ".heic", ".txt", ".JPEG", ""]
Draw = np.random.Generator


@cache
def photographs() -> list[bytes]:
    """Two photographs, as they are and in every format and mode."""
    originals = [files("sklearn.datasets.images").joinpath(name).read_bytes() for name in ("china.jpg", "flower.jpg")]
    found = list(originals)
    for content, side in zip(originals * 2, (37, 64, 150, 320), strict=True):
        photo = Image.open(io.BytesIO(content)).resize((side * 3 // 2, side))
        clear = photo.copy()
        clear.putalpha(photo.convert("L"))
        exif = Image.Exif()
        exif[0x112], exif[0x10F] = side % 8 + 1, "a maker"
        for picture, kind, options in (
            (photo, "JPEG", {"exif": exif}),
            (photo, "JPEG", {"progressive": True, "subsampling": 0}),
            (photo.convert("CMYK"), "JPEG", {}),
            (photo, "PNG", {"exif": exif}),
            (clear, "PNG", {}),
            (photo.quantize(32), "PNG", {"transparency": 3}),
            (Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 16), "PNG", {}),
            (photo, "GIF", {"save_all": True, "append_images": [photo.rotate(9), photo.rotate(18)]}),
            (photo, "BMP", {}),
            (clear, "WEBP", {"lossless": True}),
            (photo, "WEBP", {"save_all": True, "append_images": [photo.rotate(9)]}),
            (photo, "TIFF", {"compression": "tiff_lzw"}),
            (photo, "TIFF", {"compression": "jpeg"}),
            (photo.convert("1"), "TIFF", {"compression": "group4"}),
            (Image.fromarray(np.asarray(photo.convert("L")).astype(np.float32)), "TIFF", {}),
            (photo, "PPM", {}),
            (photo, "JPEG2000", {}),
            (photo, "AVIF", {"speed": 10}),
        ):
            found.append(encoded(picture, kind, **options))
    return found


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def some(draw: Draw) -> bytearray:
    return bytearray(photographs()[draw.integers(len(photographs()))])


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """Of a PNG; with `length`, one that lies about it."""
    size = len(content) if length is None else length
    return struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@cache
def zeros(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """Little-endian, with one directory of (tag, type, count, value) and an offset of the next one."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + data


def plain_tiff(width: int, height: int, **changes: Any) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: width * height % 2**32}
    tags |= changes.pop("tags", {})
    return tiff([(tag, 4, 1, value) for tag, value in sorted(tags.items())], data=bytes(400), **changes)


# Damage


def cut(draw: Draw) -> bytes:
    content = some(draw)
    return bytes(content[: int(len(content) * draw.random())])


def flipped(draw: Draw) -> bytes:
    content = some(draw)
    reach = len(content) if draw.random() < 0.5 else min(len(content), 600)  # headers do more harm than pixels
    for _ in range(int(draw.integers(1, 40))):
        content[draw.integers(reach)] ^= 1 << draw.integers(8)
    return bytes(content)


def overwritten(draw: Draw) -> bytes:
    content = some(draw)
    start, length = int(draw.integers(len(content))), int(draw.integers(1, 200))
    fill = (draw.bytes(length), b"\0" * length, b"\xff" * length)[draw.integers(3)]
    content[start : start + length] = fill
    return bytes(content)


def repeated(draw: Draw) -> bytes:
    content = some(draw)
    start, length = int(draw.integers(len(content))), int(draw.integers(1, 5000))
    return bytes(content[:start] + content[start : start + length] * int(draw.integers(2, 9)) + content[start:])


def spliced(draw: Draw) -> bytes:
    first, second = some(draw), some(draw)
    return bytes(first[: draw.integers(len(first))] + second[draw.integers(len(second)) :])


def numbers(draw: Draw) -> bytes:
    """A field of the header is the largest there is, or negative."""
    content = some(draw)
    start = int(draw.integers(4, min(len(content) - 4, 300)))
    content[start : start + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")[
        draw.integers(4)
    ]
    return bytes(content)


# Bombs


def promises(draw: Draw) -> bytes:
    """A huge size in a header of some bytes."""
    side = int(draw.choice([9_000, 13_300, 16_383, 30_000, 65_500]))
    jpeg = bytearray(photographs()[0])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    webp = bytearray(
        encoded(Image.new("RGBA", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGBA", (8, 8))])
    )
    webp[24:30] = (min(side, 2**24) - 1).to_bytes(3, "little") * 2
    jp2 = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG2000"))
    at = jp2.index(b"ihdr") + 4
    jp2[at : at + 8] = struct.pack(">II", side, side)
    at = jp2.index(b"\xff\x51") + 6
    jp2[at : at + 8] = struct.pack(">II", side, side)
    bmp = bytearray(encoded(Image.new("RGB", (4, 4)), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    gif = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    return [
        png(side, side, zlib.compress(draw.bytes(30))),
        png(side, side, zlib.compress(draw.bytes(30)), 16, 6),
        bytes(jpeg),
        bytes(webp),
        bytes(jp2),
        bytes(bmp),
        bytes(gif),
        plain_tiff(side, side),
        b"P6 %d %d 255\n" % (side, side) + draw.bytes(50),
    ][draw.integers(9)]


def bombs(draw: Draw) -> bytes:
    """What is as large as it says, and as small on the disk."""
    which = int(draw.integers(6))
    if which == 0:
        side = int(draw.choice([4_000, 9_000, 13_300]))
        return png(side, side, zeros(side * (side + 1))) + draw.bytes(8)
    if which == 1:
        return png(9_000, 9_000, zeros(9_000 * (4 * 9_000 + 1)), 8, 6) + draw.bytes(8)
    if which == 2:
        return blank("JPEG", 12_000) + draw.bytes(8)
    if which == 3:
        return blank("GIF", 9_000) + draw.bytes(8)
    if which == 4:
        return blank("WEBP", 4_000) + draw.bytes(8)
    text = chunk(b"zTXt", b"Comment\0\0" + zeros(60_000_000)) * int(draw.integers(1, 4))
    return png(8, 8, zlib.compress(draw.bytes(72)), before=text)


@cache
def blank(kind: str, side: int) -> bytes:
    options = {"JPEG": {"progressive": True}, "WEBP": {"lossless": True, "method": 0}}
    return encoded(Image.new("L" if kind == "GIF" else "RGB", (side, side)), kind, **options.get(kind, {}))


def directories(draw: Draw) -> bytes:
    """A TIFF whose directories are a circle, lie outside of the file, or hold what cannot be."""
    return [
        plain_tiff(16, 16, following=8),
        plain_tiff(16, 16, following=2**31),
        plain_tiff(16, 16, tags={330: 8}),
        plain_tiff(16, 16, tags={273: 2**32 - 1}),
        plain_tiff(16, 16, tags={279: 2**32 - 1}),
        plain_tiff(16, 16, tags={258: 2**31, 277: 60_000}),
        plain_tiff(16, 16, tags={259: int(draw.choice([5, 7, 8, 32773, 34712, 50001]))}),
        plain_tiff(16, 16, tags={322: 2**20, 323: 2**20, 324: 8, 325: 2**31}),
        plain_tiff(2**31, 2**31),
        tiff([(256, 4, 2**31, 8)] * int(draw.integers(1, 3000))),
    ][draw.integers(10)] + draw.bytes(4)


def exif(draw: Draw) -> bytes:
    """Sound pixels beside EXIF that is not."""
    bad = [
        draw.bytes(300),
        b"II*\0" + struct.pack("<IH", 8, 65535) + draw.bytes(900),
        tiff([(0x112, 3, 1, 65535)]),
        tiff([(0x112, 2, 4, 0x39393939), (0x8769, 4, 1, 8)], following=8),
        tiff([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)]),
        tiff([(0x9286, 7, 2**31, 8)]),
    ][draw.integers(6)]
    photo = Image.open(io.BytesIO(photographs()[draw.integers(2)])).resize((40, 30)).rotate(int(draw.integers(360)))
    kind = ("JPEG", "PNG", "WEBP")[draw.integers(3)]
    with warnings.catch_warnings(action="ignore"):  # Pillow, too, finds it strange
        return encoded(photo, kind, exif=b"Exif\0\0" + bad)


# Odd ones


def strips(draw: Draw) -> bytes:
    size = [(1, 1), (30_000, 1), (1, 30_000), (16_000, 3)][draw.integers(4)]
    kind = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM")[draw.integers(6)]
    return encoded(Image.new("RGB", size, tuple(draw.integers(256, size=3).tolist())), kind)


def animated(draw: Draw) -> bytes:
    frames = [Image.new("P", (50, 50), int(i)) for i in draw.permutation(256)]
    kind = ("GIF", "PNG", "WEBP", "TIFF")[draw.integers(4)]
    many = [frame.convert("RGB") for frame in frames[:60]] if kind in ("WEBP", "TIFF") else frames
    content = bytearray(encoded(many[0], kind, save_all=True, append_images=many[1:]))
    if kind == "GIF" and draw.random() < 0.5:
        at = content.index(b"\x2c\0\0\0\0") + 1  # the first frame lies outside, and is larger
        content[at : at + 8] = struct.pack("<HHHH", 40_000, 40_000, 60_000, 60_000)
    return bytes(content)


def polyglots(draw: Draw) -> bytes:
    content = bytes(some(draw))
    return [
        content + b"PK\x03\x04" + draw.bytes(200),
        content + b"<script>alert(1)</script>",
        b"%PDF-1.7\n" + content,
        b"#!/bin/sh\nexit 1\n" + content,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\nsystemdict /quit\n" + content,
        b"\x00\x00\x00\x18ftypheic" + content,
        b"8BPS\0\1" + content,
    ][draw.integers(7)]


def no_pictures(draw: Draw) -> bytes:
    noise = draw.bytes(int(draw.integers(1, 4000)))
    begins = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"P6 ", b"P4\n"]
    begins += [b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x1cftypavif", b"\xff\x4f\xff\x51"]
    texts = [b"", b"\0" * 5000, b"Notes of a day. " * 50, b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
    return begins[draw.integers(len(begins))] + noise if draw.random() < 0.8 else texts[draw.integers(4)]


def untouched(draw: Draw) -> bytes:
    return bytes(some(draw))


# What is written as a file, and how many of a hundred.
KINDS: dict[Callable[[Draw], bytes], int] = {
    untouched: 10, cut: 12, flipped: 18, overwritten: 8, repeated: 5, spliced: 5, numbers: 8, promises: 6, bombs: 2,
    directories: 6, exif: 5, strips: 3, animated: 2, polyglots: 4, no_pictures: 6,
}  # fmt: skip
ODD = ("a pipe", "a circle", "a link to nothing", "a link to a device", "a link to a file", "a closed folder")


def write(folder: Path, count: int, seed: int) -> int:
    """Writes `count` entries below `folder`, a few of them no files.

    Returns:
        How many there are; a folder that cannot be opened is one.
    """
    draw = np.random.default_rng(seed)
    makers, weights = list(KINDS), np.array(list(KINDS.values())) / sum(KINDS.values())
    odd = ODD[: max(1, count // 50)]
    for number in range(count - len(odd)):
        place = folder / f"{number // 100:02}"
        place.mkdir(parents=True, exist_ok=True)
        maker = makers[draw.choice(len(makers), p=weights)]
        suffix = SUFFIXES[draw.integers(len(SUFFIXES))]
        (place / f"{number:04}-{maker.__name__}{suffix}").write_bytes(maker(draw))
    for name in odd:
        _odd(folder, name)
    return count


def _odd(folder: Path, name: str) -> None:
    path = folder / f"{name}.jpg"
    targets = {
        "a circle": path.name,
        "a link to nothing": "nothing.png",
        "a link to a device": "/dev/zero",
        "a link to a file": next(folder.glob("00/*")),
    }
    if name in targets:
        path.symlink_to(targets[name])
    elif name == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir(mode=0)
        if os.access(path, os.R_OK):  # nothing is closed to the administrator: an empty folder would be no entry
            path.chmod(0o700)
            (path / "inside.png").write_bytes(b"")
