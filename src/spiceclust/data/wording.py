"""How names and errors of the outside are told: in one line of text that can be written anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence


def printable(path: str) -> str:
    """Text that can be written as UTF-8; bytes of a file name that are no UTF-8 become backslash escapes."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair in a path from a program: no file can have that name
        return path.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Text without line breaks and what else a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def why(error: Exception) -> str:
    """One short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text)[:120] or type(error).__name__


def several(files: Sequence[str], kind: str) -> str:
    """`tar a.tar`, `3 tars, a.tar to c.tar`."""
    first, last = printable(files[0]), printable(files[-1])
    return f"{kind} {first}" if len(files) == 1 else f"{len(files)} {kind}s, {first} to {last}"


def counted(n: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
