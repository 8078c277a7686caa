"""Where images come from: folders, lists of paths and arrays, and how a single image is read from each.

n inputs.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.datasets import digits
from spiceclust.data.decode import DecodeError, decode, decode_square, eight_bits, header_size, on_white, square
from spiceclust.errors import SourceError
from spiceclust.manifest import Row

MAX_BYTES = 2**30  # a larger file is no photo, and reading it would fill the memory
HEADERS = 256  # headers read to learn the native size
ARRAY_BYTES = 2**22  # an array is read in parts of about this size
FILES_AT_ONCE = 4  # files are read in parts of this many

BUILTIN: dict[str, Callable[[], NDArray[np.uint8]]] = {"builtin:digits": digits}

Read: TypeAlias = tuple[Row, NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Files:
    r"""Images in files.

    Attributes:
        paths: what the manifest calls each file: relative to the folder with `/`, or as given in a list; bytes of a
            name that are not UTF-8 are written `\xff`.
        description: for run.json.
        files: where each is on disk.
        root: absolute path of the folder that `paths` are relative to; empty for a list.
    """

    paths: list[str]
    description: str
    files: list[str]
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def native_size(self) -> int:
        """Median shorter side, pixels, over at most 256 readable headers spread over the source; 0 without any."""
        sides: list[int] = []
        for i in _spread(len(self)):
            size = _file_header(self.files[i])
            if size is not None:
                sides.append(min(size))
            if len(sides) == HEADERS:
                break
        return round(float(np.median(sides))) if sides else 0

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The full picture `i`.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            DecodeError: it cannot be read.
        """
        return decode(_file_bytes(self.files[i]))

    def fetch(self, i: int) -> bytes:
        """The bytes of file `i`; raises DecodeError where they cannot be read."""
        return _file_bytes(self.files[i])

    def parts(self) -> list[range]:
        """The source in pieces that are worth one task of a thread."""
        return _parts(len(self), FILES_AT_ONCE)

    def read(self, part: range, size: int) -> list[Read]:
        """A row and, if readable, (size, size, 3) uint8 pixels for each file of `part`; duplicates are not sought."""
        return [self._read(i, size) for i in part]

    def _read(self, i: int, size: int) -> Read:
        digest = ""
        try:
            content = _file_bytes(self.files[i])
            digest = hashlib.sha256(content).hexdigest()
            pixels, width, height = decode_square(content, size)
        except DecodeError as error:
            return Row(self.paths[i], "quarantined", str(error), 0, 0, digest), None
        return Row(self.paths[i], "ok", "", width, height, digest), pixels


@dataclass(frozen=True)
class Array:
    """Images in one array; build it with `open_source`, which checks it.

    Attributes:
        paths: the row numbers.
        description: for run.json.
        array: (N, H, W) or (N, H, W, 1 | 3 | 4) uint8, uint16, bool, or floats in [0, 1].
        root: empty: row numbers are relative to nothing.
    """

    paths: list[str]
    description: str
    array: NDArray[Any]
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def native_size(self) -> int:
        """The shorter side in pixels."""
        return int(min(self.array.shape[1:3]))

    def picture(self, i: int) -> NDArray[np.uint8]:
        """The full picture `i`: (H, W, 3) uint8, RGB."""
        return _three_channels(self._eight_bits(range(i, i + 1))[0])

    def parts(self) -> list[range]:
        """The source in pieces that are worth one task of a thread."""
        return _parts(len(self), max(1, ARRAY_BYTES // math.prod(self.array.shape[1:])))

    def read(self, part: range, size: int) -> list[Read]:
        """A row and (size, size, 3) uint8 pixels for each picture of `part`; duplicates are not sought."""
        height, width = self.array.shape[1:3]
        found: list[Read] = []
        for i, picture in zip(part, self._eight_bits(part), strict=True):
            digest = hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()
            pixels = _three_channels(square(picture, size))
            found.append((Row(self.paths[i], "ok", "", width, height, digest), pixels))
        return found

    def _eight_bits(self, part: range) -> NDArray[np.uint8]:
        """(n, H, W) or (n, H, W, 3) uint8."""
        values = self.array[part.start : part.stop]
        if values.dtype == np.bool_:
            values = values * np.uint8(255)
        elif values.dtype.kind == "f":
            values = np.rint(values * values.dtype.type(255)).astype(np.uint8)
        elif values.dtype != np.uint8:  # 16 bits: the depth is found per picture, as it is for files
            values = np.stack([eight_bits(picture) for picture in values])
        if values.ndim == 4 and values.shape[3] != 3:
            values = values[..., 0] if values.shape[3] == 1 else on_white(values)
        return values


Source: TypeAlias = Files | Array


def open_source(source: str | Path | NDArray[Any] | Sequence[str | Path], exclude: Path | None = None) -> Source:
    """Finds the images of a source without decoding them.

    Args:
        source: a folder (searched to any depth, hidden files too; links to folders are not followed), one picture,
            a .npy or .npz file (`images`, never `labels`), `builtin:digits`, a list of paths, or an array
            (N, H, W) or (N, H, W, 1 | 3 | 4) of uint8; bool, uint16 and floats in [0, 1] are brought to uint8.
        exclude: a folder to leave out when it lies inside `source`: the run's own.

    Returns:
        `Files` or `Array`; both have `paths`, `description`, `len()`, `native_size()` and `picture(i)`.

    Raises:
        SourceError: there is nothing there, or it is of another kind.
    """
    if isinstance(source, np.ndarray):
        return _open_array(source, "array")
    if isinstance(source, str) and source.startswith("builtin:"):
        if source not in BUILTIN:
            raise SourceError(f"unknown built-in data set {source!r}: choose one of {', '.join(BUILTIN)}")
        return _open_array(BUILTIN[source](), source)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), exclude)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return _open_list(source)
    raise SourceError(f"cannot read images from a {type(source).__name__}: give a folder, a list of paths or an array")


# Opening a source


def _open_path(path: str, exclude: Path | None) -> Source:
    shown = _printable(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        kinds = f"a folder, a picture, a .npy or .npz file, or {', '.join(BUILTIN)}"
        raise SourceError(f"source {shown!r} cannot be opened ({_why(error)}): give {kinds}") from None
    if stat.S_ISDIR(mode):
        files = _find_files(path, exclude)
        root = os.path.join(path, "")
        names = [_printable(file.removeprefix(root)).replace(os.sep, "/") for file in files]
        return Files(names, f"folder {shown}, {_count(files)}", files, _printable(os.path.abspath(path)))
    if path.lower().endswith((".npy", ".npz")):
        return _open_array(_array_in(path), f"file {shown}")
    if _file_header(path) is None:
        raise SourceError(f"source {shown!r} is neither a folder, nor a .npy or .npz file, nor a picture")
    return Files([shown], f"file {shown}", [path])


def _open_list(source: Sequence[str | Path]) -> Files:
    for i, item in enumerate(source):
        if not isinstance(item, str | os.PathLike):
            raise SourceError(
                f"item {i} of the list is a {type(item).__name__}, not a path; "
                "stack arrays of one size into a single array (N, H, W, 3)"
            )
    files = [os.fspath(item) for item in source]
    if not files:
        raise SourceError("the list of paths is empty")
    return Files([_printable(file) for file in files], f"list of {_count(files)}", files)


def _find_files(root: str, exclude: Path | None) -> list[str]:
    skipped = os.path.realpath(exclude) if exclude is not None else None
    files: list[str] = []

    def closed(error: OSError) -> None:
        if error.filename == root:
            raise SourceError(f"folder {_printable(root)} cannot be opened ({_why(error)})")
        files.append(error.filename)  # a row says that what is inside was not read

    for folder, subfolders, names in os.walk(root, onerror=closed):
        subfolders[:] = [name for name in subfolders if os.path.realpath(os.path.join(folder, name)) != skipped]
        files.extend(os.path.join(folder, name) for name in names)
    if not files:
        raise SourceError(f"folder {_printable(root)} holds no files (links to other folders are not followed)")
    return sorted(files, key=_order)


def _order(file: str) -> tuple[list[str], str, str]:
    """By folder, then name without suffix: `a.jpg` comes before its copies `a (1).jpg` and `a - Copy.jpg`."""
    folder, name = os.path.split(file)
    return folder.split(os.sep), *os.path.splitext(name)


def _array_in(path: str) -> NDArray[Any]:
    shown = _printable(path)
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                # a plain view: a memmap would leak its type into every picture
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                names = content.files
                if "images" in names:  # reading one member leaves the others, such as `labels`, alone
                    return np.asarray(content["images"])
    except Exception as error:  # a damaged file may raise anything: zip, zlib, header and memory errors
        raise SourceError(f"file {shown} cannot be read as arrays ({_why(error)})") from None
    raise SourceError(f"file {shown} has no array named images; it has: {', '.join(names) or 'none'}")


def _open_array(array: NDArray[Any], what: str) -> Array:
    given = f"{what}: given {array.dtype} of shape {array.shape}"
    if array.dtype not in (np.uint8, np.uint16, np.bool_) and array.dtype.kind != "f":
        raise SourceError(f"{given}, needed uint8 (bool, uint16 and floats in [0, 1] work too)")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)):
        raise SourceError(f"{given}, needed (N, H, W) or (N, H, W, 1 | 3 | 4)")
    if not array.size:
        raise SourceError(f"{given}, which holds no pixels")
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] != array.shape[2]:
        raise SourceError(f"{given}, which looks like a single picture; needed (N, H, W) or (N, H, W, 1 | 3 | 4)")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise SourceError(f"{given} with values from {low:g} to {high:g}; floats must lie in [0, 1]")
    n, height, width = array.shape[:3]
    return Array([str(i) for i in range(n)], f"{what}, {n} pictures of {width} x {height}", array)


# Reading files


def _open_file(path: str) -> tuple[BinaryIO, int]:
    """A regular file and its length in bytes. Pipes and devices are not opened: that alone can block or do harm.

    Raises:
        DecodeError: not a regular file, not readable, or too large.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DecodeError(_KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file"))
        if found.st_size > MAX_BYTES:
            raise DecodeError(f"too large: {found.st_size:,} bytes, limit {MAX_BYTES:,}")
        return open(path, "rb"), found.st_size
    except (OSError, ValueError) as error:
        raise DecodeError(f"cannot be opened: {_why(error)}") from None


_KINDS = {
    stat.S_IFDIR: "a folder; what it holds was not read",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def _file_bytes(path: str) -> bytes:
    file, length = _open_file(path)
    with file:
        try:
            return file.read(length)  # not to the end: a file that grows meanwhile must not fill the memory
        except OSError as error:
            raise DecodeError(f"cannot be read: {_why(error)}") from None


def _file_header(path: str) -> tuple[int, int] | None:
    try:
        file, _ = _open_file(path)
    except DecodeError:
        return None
    with file:
        return header_size(file)


# Small things


def _parts(n: int, step: int) -> list[range]:
    return [range(start, min(start + step, n)) for start in range(0, n, step)]


def _spread(n: int) -> Iterator[int]:
    """0 to n-1, each once, every beginning of it evenly spread: multiples of a step near the golden section of n."""
    step = next(step for step in range(max(1, round(0.618 * n)), n + 1) if math.gcd(step, n) == 1)
    return (k * step % n for k in range(n))


def _three_channels(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture.copy()


def _printable(path: str) -> str:
    """Text that can be written as UTF-8; bytes of a file name that are no UTF-8 become backslash escapes."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair in a path from a program: no file can have that name
        return path.encode("utf-8", "backslashreplace").decode()


def _count(files: list[str]) -> str:
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}"


def _why(error: Exception) -> str:
    """One short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:120] or type(error).__name__
