"""File names that every system and loader takes, from names that may be anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

MAX_BYTES: Final = 120  # of a stem in UTF-8: encrypted folders allow 143 with the suffix
# Names of devices, which Windows opens in place of a file whatever suffix follows.
_DEVICES: Final = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
# Categories: control characters, marks that turn the text around, half surrogates, ends of lines.
_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def safe_names(stems: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Names that stay in the folder they are put into, can be written anywhere, and differ from each other.

    They differ in their stems too, and still do where capitals and the ways to write one character are the same; a
    number parts those that would not. A name that is safe already is left as it is. No stem depends on a suffix.

    Args:
        stems: anything.
        suffixes: one for each, with its dot, of ASCII letters and digits.

    Returns:
        A name for each stem: its NFC form, at most `MAX_BYTES` long in UTF-8, with its suffix.
    """
    taken: set[str] = set()
    repeats: dict[str, int] = {}
    names = []
    for stem, suffix in zip(stems, suffixes, strict=True):
        clean = _clean(stem)
        name = _shorten(clean, MAX_BYTES)
        first = _key(name)
        while _key(name) in taken:
            repeats[first] = repeats.get(first, 1) + 1
            number = f"-{repeats[first]}"
            name = _shorten(clean, MAX_BYTES - len(number)) + number
        taken.add(_key(name))
        names.append(name + suffix)
    return names


def _clean(stem: str) -> str:
    kept = "".join(_character(character) for character in unicodedata.normalize("NFC", stem))
    kept = kept.strip(" ").strip(". ")  # Windows drops those at the end; a leading dot hides a file
    if not kept:
        return "image"
    device = kept.split(".")[0].rstrip(" ").lower() in _DEVICES
    return f"_{kept}" if device or kept[0] in "-~" else kept  # `-r` would be read as an option, `~` as a home


def _character(character: str) -> str:
    if character in _FORBIDDEN or unicodedata.category(character) in _INVISIBLE:
        return "_"
    return character


def _shorten(text: str, room: int) -> str:
    return text.encode()[:room].decode("utf-8", "ignore").rstrip(". ")


def _key(stem: str) -> str:
    """What is equal for two names that a file system may take for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", stem).casefold())
