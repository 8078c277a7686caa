"""Where the pixels of a run are kept while it goes on: in memory, or on disk where they would not fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from spiceclust.config import choose
from spiceclust.data.sources import Source
from spiceclust.progress import Progress

SHARE: Final = 0.5  # of the memory that can be had; the rest is for the training, and for what grows with the images
CHOICES: Final[dict[str, Callable[[int, int], bool]]] = {  # given bytes needed and there, whether memory takes them
    "auto": lambda needed, there: needed <= SHARE * there,
    "memory": lambda needed, there: True,
    "disk": lambda needed, there: False,
}
ALL: Final = 2**63  # what a group without a limit leaves
MEMINFO: Final = Path("/proc/meminfo")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
GROUPS: Final = Path("/sys/fs/cgroup")  # where Linux tells of the limits of groups of processes


def choose_room(
    source: Source, size: int, channels: int | None, asked: str, folder: Path, say: Progress
) -> Path | None:
    """Decides where pixels go before an image is read, and tells where that is not the memory.

    What an earlier call has begun to write there is gone on with, but where memory is asked for.

    Args:
        source: the images.
        size: their side in pixels, as they will be read.
        channels: theirs; None is as many as three.
        asked: `auto`, `memory` or `disk`.
        folder: where a file would lie.
        say: told of the file, with what it takes and what there is.

    Returns:
        The folder; None is the memory.

    Raises:
        ConfigError: another word.
    """
    needed = bytes_of(source, size, channels)
    if in_memory(asked, needed) and not (asked == "auto" and folder.is_dir()):
        return None
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    say.say(
        f"pixels: up to {in_gb(needed)}, of {in_gb(available())} of memory that can be had: they go into {folder} "
        f"({in_gb(shutil.disk_usage(above).free)} free there)"
    )
    return folder


def in_memory(asked: str, needed: int) -> bool:
    """Whether so many bytes of pixels are kept in memory, where `asked` for; ConfigError for another word."""
    return choose(CHOICES, asked, "place for pixels")(needed, available())


def bytes_of(source: Source, size: int, channels: int | None) -> int:
    """Bytes that the pixels of a source take at the most: copies, and what cannot be read, are not known yet."""
    return len(source) * (channels or 3) * size**2


def in_gb(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:,.1f} GB"


def available() -> int:
    """Bytes of memory that can be had: of the machine, and within each limit on a group of processes, as of Slurm.

    A system that does not tell what is free, such as macOS, is asked for all that there is.
    """
    if not MEMINFO.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    return max(0, min([int(fields["MemAvailable"].split()[0]) * 1024, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """What the limits of this process's groups leave; pages of files, which are given back on demand, count as free."""
    names = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else ():
        _, kind, path = line.split(":", 2)
        if kind not in names:
            continue
        group = GROUPS / kind / path.strip("/")
        for place in (group, *group.parents):
            if place.is_relative_to(GROUPS / kind) and (place / names[kind][0]).is_file():
                limit, used = ((place / name).read_text().strip() for name in names[kind])
                told = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                files = sum(int(told.get(f"total_{name}", told[name])) for name in ("inactive_file", "active_file"))
                yield int(limit) - int(used) + files if limit.isdigit() else ALL
