import os
from pathlib import Path

import numpy as np
import pytest

from spiceclust.data import room
from spiceclust.data.room import CHOICES, available, choose_room, in_gb, in_memory
from spiceclust.data.sources import open_source
from spiceclust.errors import ConfigError
from spiceclust.progress import Silent

MACHINE = "MemTotal:       10 kB\nMemAvailable:    8 kB\nSwapFree: 0 kB\n"
PAGES = "anon 1\ninactive_file {}\nactive_file 100\n"


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    ("asked", "needed", "there", "expected"),
    [
        ("auto", 50, 100, True),
        ("auto", 51, 100, False),
        ("auto", 0, 0, True),
        ("memory", 10**18, 100, True),
        ("disk", 0, 100, False),
    ],
)
def test_memory_takes_half_of_what_can_be_had(asked: str, needed: int, there: int, expected: bool) -> None:
    assert CHOICES[asked](needed, there) is expected


def test_another_word_is_an_error_that_lists_them() -> None:
    with pytest.raises(ConfigError, match="unknown place for pixels 'tape': choose one of auto, memory, disk"):
        in_memory("tape", 1)


def test_the_folder_is_told_with_what_is_needed_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, told = open_source(np.zeros((10, 4, 4), np.uint8)), Told()
    monkeypatch.setattr(room, "available", lambda: 959)
    assert choose_room(source, 4, 3, "auto", tmp_path / "run/pixels", told) == tmp_path / "run/pixels"
    (line,) = told.said
    assert line.startswith("pixels: up to 0.0 GB, of 0.0 GB of memory that can be had: they go into ")
    assert line.endswith("GB free there)")
    monkeypatch.setattr(room, "available", lambda: 960)
    assert choose_room(source, 4, None, "auto", tmp_path / "run/pixels", told) is None
    assert choose_room(source, 8, 1, "auto", tmp_path / "run/pixels", told) == tmp_path / "run/pixels"
    (tmp_path / "run/pixels").mkdir(parents=True)  # an earlier call began with it
    assert choose_room(source, 4, 3, "auto", tmp_path / "run/pixels", told) == tmp_path / "run/pixels"
    assert choose_room(source, 4, 3, "memory", tmp_path / "run/pixels", told) is None
    assert in_gb(3 * 2**29) == "1.5 GB"


def test_this_machine_has_memory() -> None:
    assert 2**20 < available() < 2**50


def test_a_system_that_does_not_tell_what_is_free_is_asked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = available()
    monkeypatch.setattr(room, "OWN_GROUPS", tmp_path / "absent")
    assert available() >= free / 2
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "absent")
    assert available() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_s_limit_counts_without_pages_of_files(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has 8 kB; a group above ours is limited to 6,000 bytes and uses 3,000, of which 150 are of files."""
    kind, limit, used = ("memory", "limit_in_bytes", "usage_in_bytes") if version == 1 else ("", "max", "current")
    (tmp_path / "meminfo").write_text(MACHINE)
    (tmp_path / "cgroup").write_text(f"{4 if kind else 0}:{kind}:/job/step\n7:cpu:/x\n")
    group = tmp_path / "groups" / kind / "job"
    (group / "step").mkdir(parents=True)
    endless = str(2**63 - 4096) if version == 1 else "max"
    for place, most, pages in ((group, "6000", 50), (group / "step", endless, 10)):
        (place / f"memory.{limit}").write_text(f"{most}\n")
        (place / f"memory.{used}").write_text("3000\n")
        (place / "memory.stat").write_text(PAGES.format(pages))
    monkeypatch.setattr(room, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "OWN_GROUPS", tmp_path / "cgroup")
    assert available() == 6000 - 3000 + 150
    (group / "memory.stat").write_text(PAGES.format(50) + "total_inactive_file 250\ntotal_active_file 0\n")
    assert available() == 6000 - 3000 + 250
    (group / f"memory.{limit}").write_text("60000")
    assert available() == 8 * 1024
    (group / f"memory.{limit}").write_text("100")
    assert available() == 0
