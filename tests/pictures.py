"""Pictures of noise, in memory, in files and in tars."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.decode import DecodeError, decode_square
from spiceclust.data.decoder import Decoder


def picture(seed: int, width: int = 10, height: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """The file of `picture(seed)`."""
    content = io.BytesIO()
    Image.fromarray(picture(seed)).save(content, kind)
    return content.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def told(decoder: Decoder, contents: list[bytes]) -> list[str]:
    """Why each file is refused, empty where its pixels are right."""
    reasons = []
    for content, answer in zip(contents, decoder.squares(contents, 5), strict=True):
        if isinstance(answer, DecodeError):
            reasons.append(str(answer))
            continue
        pixels, width, height = decode_square(content, 5)
        assert np.array_equal(answer[0], pixels)
        assert answer[1:] == (width, height)
        reasons.append("")
    return reasons
