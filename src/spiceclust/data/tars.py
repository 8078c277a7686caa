"""Images in tar archives, as WebDataset keeps them: read where they lie, nothing is extracted.

The headers are read here and not by the standard library, which passes over a damaged one as if the archive ended
there, reads headers of any length into memory, and on some versions of Python runs in circles on a negative size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import FRONT, MAX_BYTES, Encoded, refuse_large
from spiceclust.data.files import open_regular
from spiceclust.data.wording import counted, printable, several, why
from spiceclust.errors import SourceError

BLOCK: Final = 512
CUT: Final = "truncated: the archive ends within it"
MAX_HEADER: Final = 2**20  # bytes of a long name or of a pax header
# What WebDataset keeps beside an image: labels, texts, arrays. They are never opened.
BESIDE: Final = {
    "cls", "cls2", "index", "inx", "id", "json", "jsonl", "txt", "text", "transcript", "caption", "csv",
    "tsv", "xml", "yaml", "yml", "html", "md", "npy", "npz", "ten", "tb", "pyd", "pkl",
    "pickle", "pth", "pt", "mp", "msg", "cbor", "safetensors",
}  # fmt: skip
_COMPRESSED: Final = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"(\xb5/\xfd": "unzstd"}
_LINKS: Final = {b"1": "a link within the archive", b"2": "a link within the archive"}
_SPECIAL: Final = {b"3": "a device, not a file", b"4": "a device, not a file", b"6": "a named pipe, not a file"}
_LONG_NAME, _LONG_LINK, _SPARSE, _FOLDER, _PAX, _PAX_GLOBAL = b"L", b"K", b"S", b"5", b"x", b"g"


class Member(NamedTuple):
    """One file in a tar: its name as stored, where its bytes are, and why they cannot be had, if so."""

    name: str
    offset: int
    size: int
    reason: str = ""


class _BrokenError(Exception):
    """The archive cannot be read on; the message says why."""


@dataclass(frozen=True)
class Tars(Encoded):
    """Images in tar archives. `paths` are `TAR/MEMBER`; a tar that cannot be read (on) has a row by its own name.

    Attributes:
        tars: where each archive is on disk.
        places: (n, 3) int64: which archive, offset and size in bytes.
        reasons: what is known to be unreadable, by row.
    """

    tars: list[str]
    places: NDArray[np.int64]
    reasons: dict[int, str]

    def holders(self) -> list[str]:
        return self.tars

    def fetch(self, i: int, most: int = MAX_BYTES) -> bytes:
        return self._bytes(i, most, MAX_BYTES)

    def front(self, i: int) -> bytes:
        return self._bytes(i, MAX_BYTES, FRONT)

    def _bytes(self, i: int, most: int, front: int) -> bytes:
        """Image `i`, of no more than `most` bytes, or its first `front` bytes."""
        if i in self.reasons:
            raise DecodeError(self.reasons[i])
        tar, offset, size = self.places[i].tolist()
        refuse_large(size, most)
        size = min(size, front)
        file, _ = open_regular(self.tars[tar])
        with file:
            try:
                content = os.pread(file.fileno(), size, offset)
            except OSError as error:
                raise DecodeError(f"cannot be read: {why(error)}") from None
        if len(content) < size:
            raise DecodeError(CUT)
        return content


def open_tars(tars: Sequence[str]) -> Tars:
    """Finds the images of tar archives by their headers.

    Every file of an archive is taken for an image but those whose extension says otherwise (`BESIDE`).

    Args:
        tars: paths of the archives.

    Raises:
        SourceError: an archive is compressed, or there is nothing in any.
    """
    found = in_tars(tars, os.path.commonpath([os.path.dirname(os.path.abspath(tar)) for tar in tars]))
    if not found.paths:
        raise SourceError(f"no images in {found.description}")
    return found


def in_tars(tars: Sequence[str], root: str) -> Tars:
    """As `open_tars`, where there may be nothing in them.

    Args:
        tars: paths of the archives.
        root: absolute path of the folder that what they are called is relative to.

    Raises:
        SourceError: an archive is compressed.
    """
    paths: list[str] = []
    places: list[tuple[int, int, int]] = []
    reasons: dict[int, str] = {}
    passed: Counter[str] = Counter()
    for number, tar in enumerate(tars):
        name = printable(os.path.relpath(os.path.abspath(tar), root)).replace(os.sep, "/")
        for member in _members(tar):
            extension = member.name.rpartition(".")[2].lower()
            if extension in BESIDE:
                passed[extension] += 1
                continue
            if member.reason:
                reasons[len(paths)] = member.reason
            paths.append(f"{name}/{printable(member.name)}" if member.name else name)
            places.append((number, member.offset, member.size))
    beside = ", ".join(f"{n} .{extension}" for extension, n in sorted(passed.items()))
    what = several(tars, "tar")
    described = f"{what}, {counted(len(paths), 'file')}" + (f"; passed over: {beside}" if beside else "")
    return Tars(paths, described, list(tars), np.array(places, np.int64).reshape(-1, 3), reasons, root=printable(root))


def _members(tar: str) -> Generator[Member]:
    """The files in an archive, and a last one without a name when it cannot be read to its end."""
    try:
        file, length = open_regular(tar)
        with file:
            start = os.pread(file.fileno(), 8, 0)
            for signature, remedy in _COMPRESSED.items():
                if start.startswith(signature):
                    raise SourceError(
                        f"tar {printable(tar)} is compressed, and its images cannot be read in place: "
                        f"decompress it first ({remedy})"
                    )
            yield from _walk(file, length)
    except (DecodeError, _BrokenError) as error:
        yield Member("", 0, 0, str(error))
    except OSError as error:
        yield Member("", 0, 0, f"cannot be read: {why(error)}")


def _walk(file: BinaryIO, length: int) -> Generator[Member]:
    at = found = 0
    given: dict[str, str] = {}  # what headers before a member say of it
    while True:
        block = os.pread(file.fileno(), BLOCK, at) if at < length else b""
        if not block.strip(b"\0") and len(block) == BLOCK:
            return
        if len(block) < BLOCK:
            raise _BrokenError(f"the archive is cut off after {counted(found, 'member')}; what followed is lost")
        if not _is_header(block):
            place = f"damaged at byte {at:,}; what follows was not read"
            raise _BrokenError(place if found else "not a tar archive")
        kind, size = block[156:157], int(given.get("size", _number(block[124:136])))
        name = (given.get("path") or _name(block)).removeprefix("./")
        data, at = at + BLOCK, at + BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            size = _number(block[124:136])
            given |= _header_data(file, kind, data, size)
            at += _padded(size)
            continue
        given = {}
        found += 1
        if kind == _SPARSE:
            raise _BrokenError(
                f"{printable(name)} is stored sparsely, which is not supported; what follows was not read"
            )
        if kind == _FOLDER or (kind == b"\0" and name.endswith("/")):
            continue
        reason = _LINKS.get(kind) or _SPECIAL.get(kind) or ""
        if reason:
            yield Member(name, 0, 0, reason)
            continue
        at += _padded(size)
        if data + size <= length:
            yield Member(name, data, size)
        else:
            yield Member(name, data, 0, CUT)


def _header_data(file: BinaryIO, kind: bytes, at: int, size: int) -> dict[str, str]:
    """What a header that goes before a member says of it: its name and size."""
    if kind in (_LONG_LINK, _PAX_GLOBAL):
        return {}
    if size > MAX_HEADER:
        raise _BrokenError(f"damaged at byte {at - BLOCK:,}: a header of {size:,} bytes; what follows was not read")
    content = os.pread(file.fileno(), size, at)
    if kind == _LONG_NAME:
        return {"path": _text(content)}
    told: dict[str, str] = {}
    while content:  # records `LENGTH KEY=VALUE\n`
        digits, _, _ = content[:20].partition(b" ")
        record = content[: int(digits)] if digits.isdigit() else b""
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals:
            raise _BrokenError(f"damaged at byte {at - BLOCK:,}: a header that is none; what follows was not read")
        if key == b"path" or (key == b"size" and value.isdigit() and len(value) < 20):
            told[key.decode()] = _text(value)
        content = content[int(digits) :]
    return told


def _is_header(block: bytes) -> bool:
    """Whether the checksum holds; some old writers summed signed bytes."""
    try:
        told = int(block[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    total = 8 * 32 + sum(block[:148]) + sum(block[156:])
    return told == total or told == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _number(digits: bytes) -> int:
    """Octal digits, or eight bits to a byte behind a byte 128."""
    try:
        value = int.from_bytes(digits[1:]) if digits[0] == 0x80 else int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise _BrokenError("damaged: a size that is no number; what follows was not read")
    return value


def _name(block: bytes) -> str:
    name, folder = _text(block[:100]), _text(block[345:500])
    return f"{folder}/{name}" if folder and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
