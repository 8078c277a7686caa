import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from spiceclust.data import decode as module
from spiceclust.data.decode import (
    MAX_PIXELS,
    DecodeError,
    decode,
    decode_square,
    eight_bits,
    header_size,
    on_white,
    square,
    suffix_of,
)

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# name -> how to save; the first seven are lossless
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "bmp": {"format": "BMP"},
    "ppm": {"format": "PPM"},
    "tiff": {"format": "TIFF"},
    "tiff, lzw": {"format": "TIFF", "compression": "tiff_lzw"},
    "webp, lossless": {"format": "WEBP", "lossless": True},
    "jpeg 2000": {"format": "JPEG2000", "irreversible": False},
    "jpeg": {"format": "JPEG", "quality": 95},
    "jpeg, progressive": {"format": "JPEG", "quality": 95, "progressive": True},
    "mpo": {"format": "MPO", "quality": 95},
    "tiff, jpeg": {"format": "TIFF", "compression": "jpeg", "quality": 95},
    "webp": {"format": "WEBP", "quality": 95},
    "avif": {"format": "AVIF", "quality": 95},
    "gif": {"format": "GIF"},
}
LOSSLESS = list(FORMATS)[:7]


def encode(picture: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, **{**FORMATS[name], **options})
    return file.getvalue()


def corners(width: int = 48, height: int = 32) -> Pixels:
    """Red, green / blue, black: every turn and flip of it looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    return image


def noisy(width: int = 80, height: int = 60) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: NDArray[Any]) -> bytes:
    return encode(Image.fromarray(image), "png")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises more pixels than it has."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# Formats


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_format_keeps_every_pixel(name: str) -> None:
    image = noisy()
    assert np.array_equal(decode(encode(Image.fromarray(image), name)), image)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_comes_out_as_three_channels_that_look_right(name: str) -> None:
    content = encode(Image.fromarray(corners()), name)
    image = decode(content)
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable  # torch warns of arrays that are not
    for (row, column), colour in {(8, 12): RED, (8, 36): GREEN, (24, 12): BLUE, (24, 36): BLACK}.items():
        assert np.abs(image[row, column].astype(int) - colour).max() <= 12, (row, column)
    assert header_size(content) == (48, 32)


@pytest.mark.parametrize("name", FORMATS)
def test_the_usual_suffix_of_a_format(name: str) -> None:
    suffixes = {"jpeg": ".jpg", "jpeg, progressive": ".jpg", "mpo": ".jpg", "jpeg 2000": ".jp2"}
    kind = name.split(",")[0]
    content = encode(Image.new("RGB", (20, 10)), name)
    assert suffix_of(content) == suffixes.get(name, ".tif" if kind == "tiff" else f".{kind}")
    assert suffix_of(b"no picture" + content) == suffix_of(b"") == ""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_in_each_format(name: str, share: float) -> None:
    content = encode(Image.fromarray(noisy()), name)
    if name == "mpo":  # its second picture may be missing, the first may not
        content = encode(Image.fromarray(noisy()), "jpeg")
    with pytest.raises(DecodeError, match=r"^(truncated|damaged)"):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "tiff", "ppm"])
def test_the_commonest_formats_say_truncated(name: str) -> None:
    content = encode(Image.fromarray(noisy()), name)
    with pytest.raises(DecodeError, match=r"^truncated: the \w+ data end early$"):
        decode(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("extension", ["ico", "tga", "pcx", "eps", "pdf", "dds", "sgi", "icns"])
def test_formats_outside_the_list_are_not_opened(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{extension}"
    Image.new("RGB", (32, 32), RED).save(path)
    with pytest.raises(DecodeError, match=r"^not an image in a supported format$"):
        decode(path.read_bytes())
    assert header_size(path.read_bytes()) is None


# Modes


@pytest.mark.parametrize("name", ["png", "tiff", "bmp"])
def test_one_bit_is_black_and_white(name: str) -> None:
    dots = np.array([[True, False, False], [False, True, True]])
    assert np.array_equal(decode(encode(Image.fromarray(dots), name)), np.repeat(dots[..., None] * np.uint8(255), 3, 2))


def test_grey_becomes_three_equal_channels() -> None:
    grey = noisy()[..., 0]
    assert np.array_equal(decode(png(grey)), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["png", "gif", "tiff", "bmp"])
def test_palette(name: str) -> None:
    picture = Image.fromarray(corners()).quantize(4)
    assert np.array_equal(decode(encode(picture, name)), corners())


@pytest.mark.parametrize("name", ["png", "tiff", "webp, lossless"])
def test_transparency_is_laid_on_white(name: str) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(*RED, 255), (*RED, 0), (*BLUE, 51)]
    image = decode(encode(Image.fromarray(rgba), name))
    assert image[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 255]]


@pytest.mark.parametrize(("mode", "name"), [("LA", "png"), ("LA", "tiff"), ("PA", "tiff")])
def test_grey_and_palette_with_alpha(mode: str, name: str) -> None:
    picture = Image.fromarray(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)).convert(mode)
    content = encode(picture, name)
    assert Image.open(io.BytesIO(content)).mode == mode
    assert decode(content)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("name", "transparency"), [("png", 1), ("png", b"\xff\x00\xff\xff"), ("gif", 1)])
def test_palette_with_transparency(name: str, transparency: int | bytes) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    picture.putpixel((1, 0), 1)
    content = encode(picture, name, transparency=transparency)
    assert decode(content)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("mode", "key"), [("RGB", BLUE), ("L", 7)])
def test_a_transparent_colour_without_alpha(mode: str, key: Any) -> None:
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), (1, 2, 3) if mode == "RGB" else 50)
    image = decode(encode(picture, "png", transparency=key))
    assert image[0].tolist() == [[255, 255, 255], [1, 2, 3] if mode == "RGB" else [50, 50, 50]]


@pytest.mark.parametrize("name", ["jpeg", "tiff"])
def test_cmyk_is_not_a_negative(name: str) -> None:
    picture = Image.fromarray(corners()).convert("CMYK")
    content = encode(picture, name)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    image = decode(content)
    for (row, column), colour in {(8, 12): RED, (8, 36): GREEN, (24, 12): BLUE, (24, 36): BLACK}.items():
        assert np.abs(image[row, column].astype(int) - colour).max() <= 12, (row, column)


def test_the_cmyk_jpeg_above_is_of_the_inverted_kind_that_adobe_writes() -> None:
    white = encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "jpeg")
    assert b"Adobe" in white[:64]
    assert decode(white).min() >= 250


def test_lab() -> None:
    picture = Image.new("LAB", (2, 1), (255, 128, 128))
    picture.putpixel((1, 0), (0, 128, 128))
    image = decode(encode(picture, "tiff"))
    assert image[0, 0].min() >= 254
    assert image[0, 1].max() <= 1


@pytest.mark.parametrize(("mode", "name"), [("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"), ("I", "tiff")])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_files_use_the_depth_that_their_values_need(mode: str, name: str, bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, top // 3, top]], {"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode])
    content = encode(Image.fromarray(values), name)
    assert Image.open(io.BytesIO(content)).mode == mode
    assert decode(content)[0].tolist() == [[0] * 3, [85] * 3, [255] * 3]


def test_a_value_just_above_a_depth_takes_the_next() -> None:
    image = decode(png(np.array([[4095, 4096]], np.uint16)))  # 4096 needs 14 bits
    assert image[0, :, 0].tolist() == [64, 64]


def test_an_all_black_sixteen_bit_picture_stays_black() -> None:
    assert decode(png(np.zeros((2, 2), np.uint16))).max() == 0


def test_integers_beyond_sixteen_bits_are_stretched() -> None:
    values = np.array([[-1000, 0, 1000], [2**30, 2**31 - 1, -1000]], np.int32)
    expected = np.rint((values - -1000.0) * 255 / (2**31 - 1 + 1000))
    assert np.array_equal(decode(encode(Image.fromarray(values), "tiff"))[..., 0], expected)


FLOATS = {
    "unit": ([0, 0.25, 1], [0, 64, 255]),
    "unit, not full": ([0.5, 0.5, 0.2], [128, 128, 51]),  # 127.5 goes to the even neighbour
    "stretched": ([-10, 0, 30], [0, 64, 255]),
    "constant": ([7, 7, 7], [0, 0, 0]),
    "not finite": ([np.nan, 0.5, np.inf], [0, 128, 255]),
    "not finite, stretched": ([-np.inf, 100, 300], [0, 0, 255]),
}


@pytest.mark.parametrize("case", FLOATS)
def test_floats(case: str) -> None:
    values, expected = FLOATS[case]
    content = encode(Image.fromarray(np.array([values], np.float32)), "tiff")
    assert Image.open(io.BytesIO(content)).mode == "F"
    assert decode(content)[0, :, 0].tolist() == expected


def test_floats_without_a_number() -> None:
    content = encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "tiff")
    with pytest.raises(DecodeError, match="no finite pixel value"):
        decode(content)


def test_portable_maps_of_many_depths() -> None:
    assert decode(b"P5 2 1 15\n\x00\x0f")[0, :, 0].tolist() == [0, 255]
    assert decode(b"P2 2 1 4095\n0 4095")[0, :, 0].tolist() == [0, 255]
    assert decode(b"P1 2 1\n0 1")[0, :, 0].tolist() == [255, 0]


# Orientation


def turned(upright: Pixels, orientation: int, name: str) -> bytes:
    """A file whose pixels are stored so that `orientation` makes them `upright` again."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    picture = Image.fromarray(upright)
    picture.getexif()[274] = inverse
    stored = ImageOps.exif_transpose(picture)
    exif = Image.Exif()
    exif[274] = orientation
    return encode(stored, name, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["png", "tiff", "tiff, lzw", "webp, lossless"])
def test_each_orientation_is_shown_upright(name: str, orientation: int) -> None:
    content = turned(corners(), orientation, name)
    with Image.open(io.BytesIO(content)) as stored:
        assert stored.getexif().get(274) == orientation
    assert np.array_equal(decode(content), corners())
    assert header_size(content) == (48, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["jpeg", "avif"])
def test_each_orientation_is_shown_upright_in_lossy_formats(name: str, orientation: int) -> None:
    content = turned(corners(), orientation, name)
    assert np.abs(decode(content)[4::8, 4::8].astype(int) - corners()[4::8, 4::8]).max() <= 12
    assert header_size(content) == (48, 32)
    assert decode_square(content, 8)[1:] == (48, 32)


def test_orientation_six_means_a_quarter_turn_clockwise() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = decode(encode(Image.fromarray(corners()), "png", exif=exif))
    assert image.shape == (48, 32, 3)
    assert [tuple(image[i, j]) for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [BLUE, RED, BLACK, GREEN]


def test_sixteen_bit_pictures_turn_too() -> None:
    exif = Image.Exif()
    exif[274] = 3
    content = encode(Image.fromarray(np.array([[0, 65535]], np.uint16)), "png", exif=exif)
    assert decode(content)[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_broken_exif_does_not_lose_the_picture(exif: bytes) -> None:
    content = encode(Image.fromarray(corners()), "jpeg", exif=exif)
    assert decode(content).shape == (32, 48, 3)
    assert header_size(content) == (48, 32)


def test_exif_that_pillow_fails_on_does_not_lose_the_picture() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n       4\nno hexadecimal")
    content = encode(Image.fromarray(corners()), "png", pnginfo=info)
    with Image.open(io.BytesIO(content)) as picture, pytest.raises(ValueError, match="fromhex"):
        picture.getexif()
    assert np.array_equal(decode(content), corners())
    assert header_size(content) == (48, 32)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    assert np.array_equal(decode(encode(Image.fromarray(corners()), "png", exif=exif)), corners())


# Several frames


@pytest.mark.parametrize("name", ["gif", "webp, lossless", "png", "tiff", "mpo"])
def test_the_first_frame_is_taken(name: str) -> None:
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE))
    content = encode(first, name, save_all=True, append_images=others)
    with Image.open(io.BytesIO(content)) as picture:
        assert getattr(picture, "n_frames", 1) == 3
    assert np.abs(decode(content).astype(int) - RED).max() <= 3


# Errors


def apple_double() -> bytes:
    return struct.pack(">II16sH", 0x00051607, 0x00020000, b"Mac OS X", 2) + b"\0" * 60


BAD = {
    "empty": (b"", "^empty file$"),
    "text": (b"Notes of a day, nothing else. " * 9, "^not an image in a supported format$"),
    "sidecar": (apple_double(), "^not an image in a supported format$"),
    "zip": (b"PK\x03\x04" + b"\0" * 50, "^not an image in a supported format$"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^not an image in a supported format$"),
    "one byte": (b"\xff", "^not an image in a supported format$"),
    "signature and noise": (
        b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(500),
        r"^damaged PNG file: ",
    ),
    "jpeg signature only": (b"\xff\xd8\xff", "^(damaged|truncated)"),
    "text that begins like BMP": (b"BMW is a maker of cars and other vehicles.", "^(damaged|truncated)"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "^HEIC is not supported: convert it to JPEG$"),
    "wide header": (png_header(20_000, 10_000), r"^too large: 20000 x 10000 pixels, limit 178,000,000 in all$"),
    "no pixels": (png_header(0, 5), "^damaged PNG file: "),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_says_why_in_one_line(case: str) -> None:
    content, reason = BAD[case]
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(DecodeError, match=reason):
        decode_square(content, 8)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_has_no_header(case: str) -> None:
    assert header_size(BAD[case][0]) is None


def test_the_limit_is_ours_and_pillows_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = Image.MAX_IMAGE_PIXELS
    content = png(np.zeros((10, 11), np.uint8))
    monkeypatch.setattr(module, "MAX_PIXELS", 109)
    with pytest.raises(DecodeError, match="too large: 11 x 10 pixels, limit 109"):
        decode(content)
    monkeypatch.setattr(module, "MAX_PIXELS", 110)
    assert decode(content).shape == (10, 11, 3)
    assert pixels == Image.MAX_IMAGE_PIXELS
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_picture_that_pillow_only_warns_of_is_read() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS < 90_000_000 < MAX_PIXELS
    assert header_size(png_header(10_000, 9_000)) == (10_000, 9_000)


ERRORS = [
    OSError("broken data stream"),
    SyntaxError("not a PNG file"),
    ValueError("bad\nvalue"),
    struct.error("unpack requires 4 bytes"),
    Image.DecompressionBombError("Image size exceeds limit"),
    MemoryError(),
    EOFError(),
    IndexError("list index out of range"),
    KeyError("x"),
    TypeError(),
    ZeroDivisionError("division by zero"),
    RecursionError(),
    AttributeError("x"),
    OverflowError("x"),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", ["open", "load"])
def test_whatever_pillow_raises_is_a_decode_error(
    error: Exception, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    factory, accept = Image.OPEN["PNG"]
    if stage == "open":
        monkeypatch.setitem(Image.OPEN, "PNG", (fail, accept))
    else:
        monkeypatch.setattr(factory, "load", fail)
    with pytest.raises(DecodeError, match=r"^(damaged PNG file: .|truncated: |too large)[^\n]*$"):
        decode(png(corners()))


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(Image.OPEN, "PNG", (interrupt, Image.OPEN["PNG"][1]))
    with pytest.raises(KeyboardInterrupt):
        decode(png(corners()))
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


def is_sound(content: bytes) -> bool:
    """Whether decoding ends in pixels or in a reason; any other exception passes through and fails the test."""
    try:
        image = decode(content)
    except DecodeError as error:
        return bool(str(error)) and "\n" not in str(error)
    return image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


SEEDS = [encode(Image.fromarray(corners(16, 12)), name) for name in FORMATS]


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 10_000),
)
def test_damaged_bytes_decode_or_say_why(seed: bytes, changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(seed)
    for at, value in changes:
        content[at % len(content)] = value
    header_size(bytes(content[: length or None]))
    assert is_sound(bytes(content[: length or None]))


@given(st.binary(max_size=200))
def test_noise_decodes_or_says_why(content: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"P6 "):
        assert is_sound(start + content)


# Warnings


def warning_plugin(monkeypatch: pytest.MonkeyPatch, meet: Callable[[], object] = lambda: None) -> None:
    """Lets Pillow warn on opening each PNG."""
    factory, accept = Image.OPEN["PNG"]

    def warn(file: Any, name: Any) -> ImageFile.ImageFile:
        meet()
        warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
        return factory(file, name)

    monkeypatch.setitem(Image.OPEN, "PNG", (warn, accept))


def test_warnings_of_pillow_are_neither_heard_nor_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    warning_plugin(monkeypatch)
    with warnings.catch_warnings(record=True, action="always") as heard:
        decode(png(corners()))
        header_size(png(corners()))
    assert heard == []
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(decode(png(corners())), corners())


def test_filters_survive_threads_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    # The barrier holds all four inside at once, so that they enter and leave in any order.
    warning_plugin(monkeypatch, threading.Barrier(4).wait)
    before = list(warnings.filters)
    content, results = png(corners()), []
    threads = [threading.Thread(target=lambda: results.append(decode(content))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert list(warnings.filters) == before


# square and decode_square


@pytest.mark.parametrize(("height", "width"), [(1, 1), (24, 1200), (1200, 24), (5, 7), (16, 16), (17, 16), (300, 400)])
@pytest.mark.parametrize("size", [1, 16, 33])
def test_square_of_any_shape(height: int, width: int, size: int) -> None:
    image = square(np.full((height, width, 3), (9, 200, 77), np.uint8), size)
    assert image.shape == (size, size, 3)
    assert image.flags.c_contiguous
    assert (image == (9, 200, 77)).all()  # a constant colour stays what it is


def test_square_takes_the_centre_and_leaves_pixels_of_the_right_size_alone() -> None:
    image = noisy(20, 12)
    assert np.array_equal(square(image, 12), image[:, 4:16])
    assert np.array_equal(square(image.swapaxes(0, 1), 12), image.swapaxes(0, 1)[4:16])


def test_square_copies() -> None:
    image = noisy(8, 8)
    square(image, 8)[:] = 0
    assert image.any()


def test_square_cuts_the_ends_of_a_strip() -> None:
    strip = np.zeros((24, 1200, 3), np.uint8)
    strip[:, 588:612] = 255
    assert square(strip, 16).min() == 255
    strip = 255 - strip
    assert square(strip, 16).max() == 0


def test_square_shrinks_without_aliasing() -> None:
    checkers = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = square(checkers, 16)
    assert np.abs(small.astype(int) - 127).max() <= 2


def test_square_shrinks_as_averaging_does() -> None:
    smooth = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
    means = smooth.reshape(16, 8, 16, 8).mean(axis=(1, 3))
    assert np.abs(square(smooth, 16)[1:-1, 1:-1] - means[1:-1, 1:-1]).max() <= 2


def test_square_enlarges_smoothly() -> None:
    step = np.repeat(np.array([0, 0, 200, 200], np.uint8)[None], 4, axis=0)
    row = square(step, 16)[8].astype(int)
    assert row[0] <= 5
    assert row[-1] >= 195
    assert ((row > 20) & (row < 180)).sum() >= 2  # values between, where the nearest pixel would give none


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.integers(1, 24))
def test_square_treats_channels_alike(grey: Pixels, size: int) -> None:
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(square(colour, size), np.repeat(square(grey, size)[..., None], 3, axis=2))


def photo(width: int, height: int) -> Pixels:
    """Smooth with an edge, so that JPEG keeps it."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, np.where(x > width / 2, 220, 30)], axis=-1)
    return image.astype(np.uint8)


@pytest.mark.parametrize("size", [8, 16, 32, 100, 600])
def test_decode_square_is_square_of_decode(size: int) -> None:
    content = encode(Image.fromarray(photo(803, 501)), "jpeg")
    image, width, height = decode_square(content, size)
    assert (width, height) == (803, 501)
    assert image.shape == (size, size, 3)
    difference = np.abs(image.astype(int) - square(decode(content), size))
    assert difference.mean() < 1.5
    assert np.array_equal(image[:, 0, 2] < 60, np.full(size, True))


@pytest.mark.parametrize(("size", "shape"), [(8, (63, 101)), (60, (126, 201)), (100, (251, 402)), (200, (501, 803))])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_leaves_twice_the_side(size: int, shape: tuple[int, int]) -> None:
    content = encode(Image.fromarray(photo(803, 501)), "jpeg")
    seen: list[tuple[int, ...]] = []

    plain = module._square

    def watch(picture: Image.Image, side: int) -> Image.Image:
        seen.append(picture.size[::-1])
        return plain(picture, side)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_square", watch)
        assert decode_square(content, size)[1:] == (803, 501)
    assert seen == [shape]


def test_decode_square_is_exact_where_nothing_can_be_skipped() -> None:
    image, width, height = decode_square(png(noisy()), 16)
    assert np.array_equal(image, square(noisy(), 16))
    assert (width, height) == (80, 60)


# Small parts


def slow_eight_bits(values: NDArray[np.integer]) -> list[int]:
    low, high = min(values.tolist()), max(values.tolist())
    if low >= 0 and high < 65536:
        low, high = 0, min(top for top in (255, 1023, 4095, 16383, 65535) if high <= top)
    return [round((value - low) / (high - low) * 255) if high > low else 0 for value in values.tolist()]


@given(hnp.arrays(np.uint16, st.integers(1, 30)) | hnp.arrays(np.int32, st.integers(1, 30)))
def test_eight_bits_against_a_slow_twin(values: NDArray[np.integer]) -> None:
    found = eight_bits(values)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - slow_eight_bits(values)).max() <= 1
    assert found[values.argmin()] == found.min()
    assert found[values.argmax()] == found.max()


@given(hnp.arrays(np.uint8, (5, 7, 4)))
def test_on_white_is_what_pillow_pastes(rgba: Pixels) -> None:
    picture = Image.fromarray(rgba)
    paper = Image.new("RGB", picture.size, WHITE)
    paper.paste(picture, mask=picture.getchannel("A"))
    assert np.array_equal(on_white(rgba), np.asarray(paper))


def test_header_size_needs_little_of_a_large_file() -> None:
    content = encode(Image.fromarray(noisy(1000, 800)), "png")
    assert header_size(content[:10_000]) == (1000, 800)
    assert len(content) > 10_000


def test_no_torch_is_needed() -> None:
    code = "import sys, spiceclust.data.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
