"""The images that a run clustered, brought to another place: found again, checked, and copied or linked."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.arrays import Array
from spiceclust.data.decode import DecodeError, suffix_of
from spiceclust.data.files import Files
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import RunFolderError, SourceError
from spiceclust.files import UNFINISHED
from spiceclust.manifest import Row
from spiceclust.outputs.safe_names import safe_names
from spiceclust.progress import Progress
from spiceclust.result import Result

# Endings that viewers and loaders go by; a file with another one is given that of its format.
KNOWN: Final = {
    ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif",
}  # fmt: skip


def source_of(result: Result) -> Source:
    """The source that a run names.

    Raises:
        SourceError: it names none that can be opened again, or it is not there any more.
    """
    root, what = result.run.get("source_root"), result.run.get("source", "images that are not known")
    if not root:
        raise SourceError(f"the run clustered {what}: give the same images again, with --source")
    try:
        return open_source(root)
    except SourceError as error:
        raise SourceError(f"{error}; the images of the run were there: give them again, with --source") from None


def images_of(result: Result, run: Path, source: Any, progress: Progress) -> tuple[Source | None, str]:
    """The images to show beside a run, or None and why there are none where those it names are not there any more.

    Args:
        result: of the run.
        run: its folder, which is left out where it lies inside the source.
        source: the images, as in `fit`; None opens those that were clustered.
        progress: told why there are none.

    Raises:
        SourceError: the images that are given cannot be opened.
    """
    if source is not None:
        return open_source(source, exclude=[run]), ""
    try:
        return source_of(result), ""
    except SourceError as error:
        progress.say(f"no pictures: {error}")
        return None, str(error)


def new_names(source: Source, rows: list[Row], places: list[int | None]) -> list[str]:
    """A safe name for each row, as near to its own as can be, which does not depend on what became of other images.

    Args:
        source: the images.
        rows: (n,) rows of the manifest.
        places: (n,) the position of each in the source, None where it is not.
    """
    stems, suffixes = [], []
    for row, place in zip(rows, places, strict=True):
        name = PurePosixPath(row.path.replace("\\", "/")).name
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in KNOWN:
            stem, suffix = name, _suffix_of(source, place)
        stems.append(stem)
        suffixes.append(".png" if isinstance(source, Array) else suffix)
    return safe_names(stems, suffixes)


def put(source: Source, place: int, row: Row, target: Path, link: str) -> str:
    """Brings an image to `target`, whole or not at all, if it is what the run clustered.

    The bytes stay as they are, and a file's time with them; a picture of an array is written as PNG.

    Args:
        source: the images.
        place: the position of the image in the source.
        row: what the run knew of it.
        target: a new name in a folder that is there.
        link: a name of `LINKS`.

    Returns:
        Why it was not; empty when it was.

    Raises:
        RunFolderError: the target cannot be written.
    """
    try:
        content = _content_of(source, place, row)
    except DecodeError as error:
        return str(error)
    if content is None:
        return "changed since the fit"
    try:
        if isinstance(source, Files):
            LINKS[link](source.files[place], content, target)
        else:
            _write(content, target)
    except OSError as error:
        way_out = "choose another folder" if link == "copy" else "copy instead, with --link copy"
        raise RunFolderError(f"{target} cannot be written ({error.strerror}): {way_out}") from None
    return ""


def _content_of(source: Source, place: int, row: Row) -> bytes | None:
    """What the new file holds; None if the image is not the one that was clustered."""
    if isinstance(source, Array):
        now, _ = source.read(range(place, place + 1), 1)[0]
        return _png(source.picture(place)) if now.sha256 == row.sha256 else None
    content = source.fetch(place)
    return content if hashlib.sha256(content).hexdigest() == row.sha256 else None


def _copy(file: str, content: bytes, target: Path) -> None:
    _write(content, target)
    times = os.stat(file)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))  # photographs are sorted by it


def _hard_link(file: str, content: bytes, target: Path) -> None:
    os.link(os.path.realpath(file), target)  # of the file: a hard link of a link would be a link


def _symlink(file: str, content: bytes, target: Path) -> None:
    os.symlink(os.path.abspath(file), target)


LINKS: Final[dict[str, Callable[[str, bytes, Path], None]]] = {
    "copy": _copy,
    "hard": _hard_link,
    "symlink": _symlink,
}


def _write(content: bytes, target: Path) -> None:
    part = target.with_name(f"{UNFINISHED}image")
    try:
        with part.open("xb") as file:
            file.write(content)
        os.rename(part, target)
    finally:
        part.unlink(missing_ok=True)


def _png(picture: NDArray[np.uint8]) -> bytes:
    """Of (H, W, 3) uint8 RGB, as a grey picture where it is grey."""
    grey = bool((picture == picture[..., :1]).all())
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[..., 0]) if grey else picture).save(file, format="PNG")
    return file.getvalue()


def _suffix_of(source: Source, place: int | None) -> str:
    if place is None or isinstance(source, Array):
        return ""
    try:
        return suffix_of(source.fetch(place))
    except DecodeError:  # it will be left out, whatever its name
        return ""
