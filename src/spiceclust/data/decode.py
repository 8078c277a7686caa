"""From the bytes of one file to pixels, with Pillow.

Nothing here opens a path: decoding could move into a child process that is handed bytes and hands back pixels.
"""

from __future__ import annotations

import io
import threading
import warnings
from types import TracebackType
from typing import IO

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

from spiceclust.errors import SpiceError

MAX_PIXELS = 178_000_000  # just below where Pillow itself refuses, so that our message with both sides comes first
BIT_DEPTHS = (8, 10, 12, 14, 16)  # what cameras and microscopes store in 16-bit files

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

# EXIF orientation -> (swap rows and columns, then flip top to bottom, flip left to right)
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class DecodeError(SpiceError):
    """These bytes are no picture that can be used; the message is one short line that says why."""


def decode(content: bytes) -> NDArray[np.uint8]:
    """Decodes one picture, the way a viewer shows it.

    EXIF rotation is applied, transparency is laid on white, and of an animation or a stack the first frame is taken.
    Grey values of 16 bits are divided by the smallest of 8, 10, 12, 14 or 16 bits that holds the largest of them;
    floats in [0, 1] are scaled, other floats stretched from their minimum to their maximum.

    Args:
        content: the whole file.

    Returns:
        (H, W, 3) uint8 in [0, 255], RGB.

    Raises:
        DecodeError: not a picture in a supported format, damaged, truncated, or above `MAX_PIXELS`.
    """
    return _decode(content, None)[0]


def decode_square(content: bytes, size: int) -> tuple[NDArray[np.uint8], int, int]:
    """Decodes one picture and makes it square; faster than `square(decode(content), size)` for large JPEG files.

    Args:
        content: the whole file.
        size: side in pixels.

    Returns:
        (size, size, 3) uint8, and the width and height of the full picture as displayed.

    Raises:
        DecodeError: as `decode`.
    """
    # A JPEG may be decoded at 1/2, 1/4 or 1/8; twice the side leaves the last step to the better filter.
    image, width, height = _decode(content, 2 * size)
    return square(image, size), width, height


def header_size(content: bytes | IO[bytes]) -> tuple[int, int] | None:
    """Width and height as displayed (after EXIF rotation), from the header alone.

    Args:
        content: the file's bytes, or the file opened for reading in binary.

    Returns:
        (width, height) in pixels, or None when the header cannot be read.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with _SILENCE:
        try:
            with _open(file) as picture:
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
    if side == size:
        return centre.copy()
    method = Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC
    # The gap lets Pillow average whole blocks first when it shrinks by much: as good to the eye, and much faster.
    return np.array(Image.fromarray(centre).resize((size, size), method, reducing_gap=3.0))


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
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2 ** BIT_DEPTHS[-1]:
        return _stretch(values, low, high)
    return _stretch(values, 0, next(2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits))


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


def _decode(content: bytes, at_least: int | None) -> tuple[NDArray[np.uint8], int, int]:
    """Pixels, and the width and height of the full picture; a JPEG may come smaller, but no side below `at_least`."""
    if not content:
        raise DecodeError("empty file")
    with _SILENCE:
        try:
            with _open(io.BytesIO(content)) as picture:
                size = picture.size
                if at_least is not None:
                    picture.draft(None, (at_least, at_least))
                picture.load()
                orientation = _orientation(picture)  # upright for a TIFF: its size is as displayed, and it loads turned
                image = _turn(_rgb(picture), orientation)
        except DecodeError:
            raise
        except Exception as error:  # a decoder fed with garbage may raise anything
            raise DecodeError(_reason(error, content[:16])) from error
    width, height = size if orientation < 5 else size[::-1]
    return image, width, height


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens by signature. Not `Image.open`: it hides why a header is bad, and its pixel limit is a global setting."""
    prefix = file.read(16)
    name = _format(prefix)
    if name is None:
        heic = prefix[4:11] == b"ftyphei"  # what iPhones write unless told otherwise
        raise DecodeError("HEIC is not supported: convert it to JPEG" if heic else "not an image in a supported format")
    file.seek(0)
    picture = Image.OPEN[name][0](file, "")
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


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation == 1:
        return image
    swap, flip_rows, flip_columns = _TURNS[orientation]
    if swap:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) from a loaded picture of any mode."""
    if picture.mode == "F":
        return _grey_to_rgb(_floats(np.asarray(picture)))
    if picture.mode.startswith("I"):  # I, I;16, I;16B and so on: Pillow's own conversion clips these at 255
        return _grey_to_rgb(eight_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        return on_white(np.asarray(picture.convert("RGBA")))
    return np.array(picture.convert("RGB"))


def _grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


def _floats(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise DecodeError("no finite pixel value")
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return _stretch(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)


def _stretch(values: NDArray[np.number], low: float, high: float) -> NDArray[np.uint8]:
    """[low, high] to [0, 255], rounded; a constant picture becomes black."""
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def _reason(error: Exception, prefix: bytes) -> str:
    name = _format(prefix)
    text = " ".join(str(error).split())[:120]
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
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


_SILENCE = _Silence()
