"""From the bytes of one file to pixels, with Pillow.

Nothing here opens a path: `decoder.py` does this in child processes that are handed bytes and hand back pixels.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from spiceclust.data.wording import one_line
from spiceclust.errors import SpiceError

MAX_PIXELS = 178_000_000  # just below where Pillow itself refuses, so that our message with both sides comes first
MAX_ROOM: Final = 800_000_000  # bytes of memory that one picture may take while it is decoded
BIT_DEPTHS = (8, 10, 12, 14, 16)  # what cameras and microscopes store in 16-bit files
STRIP: Final = 2**18  # pixels that are converted at a time, so that a large picture is not held twice as numbers

# The only formats ever opened: importing a plugin registers it in Image.OPEN. JPEG covers the MPO files of phones.
_PLUGINS = {
    "JPEG": JpegImagePlugin,
    "PNG": PngImagePlugin,
    "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin,
    "WEBP": WebPImagePlugin,
    "TIFF": TiffImagePlugin,
    "PPM": PpmImagePlugin,
    "JPEG2000": Jpeg2KImagePlugin,
    "AVIF": AvifImagePlugin,
}

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"} | {
    name: f".{name.lower()}" for name in ("PNG", "GIF", "BMP", "WEBP", "PPM", "AVIF")
}

# EXIF orientation -> what makes the picture upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Bytes that a decoder takes for each pixel beside the file and the picture that it makes: measured, rounded up.
_WORKING = {"WEBP": 16, "JPEG2000": 18, "AVIF": 10}


class DecodeError(SpiceError):
    """These bytes are no picture that can be used; the message is one short line that says why."""


class RoomError(DecodeError):
    """Decoding takes more memory than was given."""


def decode(content: bytes, most: int | None = None, room: int = MAX_ROOM) -> NDArray[np.uint8]:
    """Decodes one picture, the way a viewer shows it.

    EXIF rotation is applied, transparency is laid on white, and of an animation or a stack the first frame is taken.
    Grey values of 16 bits are divided by the smallest of 8, 10, 12, 14 or 16 bits that holds the largest of them;
    floats in [0, 1] are scaled, other floats stretched from their minimum to their maximum.

    Args:
        content: the whole file.
        most: a picture of more pixels is made smaller by a whole number that leaves no more.
        room: bytes of memory that it may take, by an estimate from its header.

    Returns:
        (H, W, 3) uint8 in [0, 255], RGB.

    Raises:
        RoomError: it would take more than `room`.
        DecodeError: not a picture in a supported format, damaged, truncated, or above `MAX_PIXELS`.
    """
    with SILENCE, _reasons(content, room):
        picture, _, _ = _load(content, None, room)
        if most is not None and picture.width * picture.height > most:
            picture = Image.Image.reduce(picture, math.ceil(math.sqrt(picture.width * picture.height / most)))
        return _colour(picture)


def decode_square(content: bytes, size: int, room: int = MAX_ROOM) -> tuple[NDArray[np.uint8], int, int]:
    """Decodes one picture and makes it square; takes less time and memory than `square(decode(content), size)`.

    Args:
        content: the whole file.
        size: side in pixels.
        room: bytes of memory that it may take, by an estimate from its header.

    Returns:
        (size, size, 3) uint8, and the width and height of the full picture as displayed.

    Raises:
        RoomError, DecodeError: as `decode`.
    """
    with SILENCE, _reasons(content, room):
        # A JPEG may be decoded at 1/2, 1/4 or 1/8; twice the side leaves the last step to the better filter.
        picture, width, height = _load(content, 2 * size, room)
        return _colour(_square(picture, size)), width, height


def header_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as displayed (after EXIF rotation), from the header alone.

    Args:
        content: the file's bytes, or its first ones.

    Returns:
        (width, height) in pixels, or None when the header cannot be read.
    """
    with SILENCE:
        try:
            with _open(content) as picture:
                # Pillow would read a PNG to its end in search of EXIF; the sides of a TIFF are swapped already.
                late = picture.format == "PNG" and "exif" not in picture.info
                turned = not late and picture.format != "TIFF" and _orientation(picture) >= 5
                width, height = picture.size
        except Exception:
            return None
    return (height, width) if turned else (width, height)


def suffix_of(content: bytes) -> str:
    """The usual end of a file's name, such as `.jpg`, by the format that its first bytes announce; empty for none."""
    return _SUFFIXES.get(_format(content[:16]) or "", "")


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crops the centre square and resizes it.

    Args:
        image: (H, W) or (H, W, 3) uint8; each channel is treated alike.
        size: side in pixels.

    Returns:
        (size, size) or (size, size, 3) uint8, C-contiguous, a copy.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    centre = image[top : top + side, left : left + side]
    return centre.copy() if side == size else np.array(_square(Image.fromarray(centre), size))


def eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Brings integers of one picture to 8 bits.

    They are divided by 2^b - 1 with the smallest b of `BIT_DEPTHS` that holds the largest value, so that 12-bit
    microscopy in a 16-bit file is not black. Negative values or more than 16 bits are stretched from their minimum
    to their maximum.

    Args:
        values: integers of any shape but empty.

    Returns:
        uint8 of the same shape.
    """
    return _stretch(values, *_depth(int(values.min()), int(values.max())))


def _depth(low: int, high: int) -> tuple[int, int]:
    """What becomes 0 and 255 of integers from `low` to `high`."""
    if low < 0 or high >= 2 ** BIT_DEPTHS[-1]:
        return low, high
    return 0, next(2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits)


def on_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lays pictures with transparency on white.

    Args:
        image: (..., 4) uint8, RGB and alpha, not premultiplied.

    Returns:
        (..., 3) uint8, a copy.
    """
    colour, alpha = image[..., :3], image[..., 3:]
    if alpha.min() == 255:
        return colour.copy()
    # (c a + 255 (255 - a)) / 255, rounded exactly, in 16 bits: largest intermediate 65,407
    wide = 255 * (255 - alpha.astype(np.uint16)) + 128
    wide = wide + colour * alpha.astype(np.uint16)
    return ((wide + (wide >> 8)) >> 8).astype(np.uint8)


@contextmanager
def _reasons(content: bytes, room: int) -> Iterator[None]:
    """Turns whatever a decoder fed with garbage raises into a `DecodeError`."""
    try:
        yield
    except DecodeError:
        raise
    except MemoryError as error:
        raise RoomError(f"too large: takes more than {room / 1e6:,.0f} MB to decode") from error
    except Exception as error:
        raise DecodeError(_reason(error, content[:16])) from error


def _load(content: bytes, at_least: int | None, room: int) -> tuple[Image.Image, int, int]:
    """An upright picture of mode L or RGB, and its full size; a JPEG may come smaller, no side below `at_least`."""
    if not content:
        raise DecodeError("empty file")
    with _open(content) as picture:
        width, height = picture.size
        if at_least is not None:
            picture.draft(None, (at_least, at_least))
        needed = len(content) + _working(picture, width * height)
        if needed > room:
            raise RoomError(
                f"too large: {width} x {height} pixels take about {needed / 1e6:,.0f} MB to decode, "
                f"limit {room / 1e6:,.0f}"
            )
        picture.load()
        orientation = _orientation(picture)  # upright for a TIFF: its size is as displayed, and it loads turned
        image = _eight_bit(picture)
    if orientation > 1:
        image = image.transpose(_TURNS[orientation])
    return image, *((width, height) if orientation < 5 else (height, width))


def _working(picture: ImageFile.ImageFile, pixels: int) -> int:
    """Bytes of memory that loading and converting take, for a file of so many pixels; not yet loaded."""
    per_pixel = 1 if picture.mode in ("1", "L", "P") else 4
    if picture.mode not in ("L", "RGB") or picture.has_transparency_data:
        per_pixel += 4  # what it is converted to
    once = (per_pixel + _WORKING.get(picture.format or "", 0)) * picture.width * picture.height
    # a JPEG in several passes keeps its coefficients, of two bytes, whatever the scale
    return once + (2 * len(picture.getbands()) * pixels if picture.info.get("progressive") else 0)


def _open(content: bytes) -> ImageFile.ImageFile:
    """Opens by signature. Not `Image.open`: it hides why a header is bad, and its pixel limit is a global setting."""
    prefix = content[:16]
    name = _format(prefix)
    if name is None:
        heic = prefix[4:11] == b"ftyphei"  # what iPhones write unless told otherwise
        raise DecodeError("HEIC is not supported: convert it to JPEG" if heic else "not an image in a supported format")
    picture = Image.OPEN[name][0](io.BytesIO(content), "")
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise DecodeError(f"too large: {width} x {height} pixels, limit {MAX_PIXELS:,} in all")
    return picture


def _format(prefix: bytes) -> str | None:
    for name in _PLUGINS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix) is True:  # a text instead of True: Pillow was built without it
            return name
    return None


def _orientation(picture: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) when there is none or it cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF beside sound pixels is no reason to lose the picture
        return 1
    return value if value in _TURNS else 1


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture of mode L or RGB, resized."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # Whole blocks are averaged first when it shrinks by much: as good to the eye, and much faster. Pillow does the same
    # when given `reducing_gap=3.0`, but to a crop, which is one more copy of a large picture.
    factor = int(side / size / 3.0) or 1
    if factor > 1:
        small, part = Image.Image.reduce(picture, factor, box), (0, 0, side / factor, side / factor)
        return small.resize((size, size), Image.Resampling.LANCZOS, part)
    centre = picture.crop(box)
    if side == size:
        return centre
    return centre.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC)


def _colour(picture: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture of mode L or RGB."""
    if picture.mode == "RGB":
        return np.array(picture)
    # Of small pictures `convert` and an array of three channels take most of the time after the decoder's.
    return np.repeat(np.asarray(picture)[..., None], 3, axis=2)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Mode L or RGB from a loaded picture of any mode."""
    if picture.mode == "F":
        return _ranged(picture, *_float_range(picture))
    if picture.mode.startswith("I"):  # I, I;16, I;16B and so on: Pillow's own conversion clips these at 255
        extremes = [(int(strip.min()), int(strip.max())) for _, strip in _strips(picture)]
        return _ranged(picture, *_depth(min(low for low, _ in extremes), max(high for _, high in extremes)))
    if picture.has_transparency_data:
        image = Image.new("RGB", picture.size)
        for top, strip in _strips(picture, "RGBA"):
            image.paste(Image.fromarray(on_white(strip)), (0, top))
        return image
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _strips(picture: Image.Image, mode: str = "") -> Iterator[tuple[int, NDArray[Any]]]:
    """The picture from the top down, in parts: the row at which each begins, and its values, converted to `mode`."""
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        yield top, np.asarray(strip.convert(mode) if mode else strip)


def _ranged(picture: Image.Image, low: float, high: float) -> Image.Image:
    """Mode L, where `low` becomes 0 and `high` 255."""
    image = Image.new("L", picture.size)
    for top, strip in _strips(picture):
        values = np.nan_to_num(strip, nan=low, posinf=high, neginf=low) if picture.mode == "F" else strip
        image.paste(Image.fromarray(_stretch(values, low, high)), (0, top))
    return image


def _float_range(picture: Image.Image) -> tuple[float, float]:
    finite = [strip[np.isfinite(strip)] for _, strip in _strips(picture)]
    extremes = [(float(values.min()), float(values.max())) for values in finite if values.size]
    if not extremes:
        raise DecodeError("no finite pixel value")
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _stretch(values: NDArray[np.number], low: float, high: float) -> NDArray[np.uint8]:
    """[low, high] to [0, 255], rounded; a constant picture becomes black."""
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def _reason(error: Exception, prefix: bytes) -> str:
    name = _format(prefix)
    text = one_line(str(error))[:120]
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {text}"
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"truncated: the {name} data end early"
    return f"damaged {name} file: {text or type(error).__name__}"


class _Silence:
    """Silences warnings while at least one thread decodes.

    `warnings.catch_warnings` swaps a global, so two threads that enter and leave it out of step would lose the
    caller's filters: here the first to enter swaps it and the last to leave puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings(action="ignore")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings(action="ignore")
                self._caught.__enter__()
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


SILENCE = _Silence()
