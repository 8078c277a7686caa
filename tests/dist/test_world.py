"""Three processes tell each other what `World` says they do."""

import subprocess
import sys
from pathlib import Path

import pytest

from spiceclust.errors import ConfigError
from spiceclust.training.distributed import ALONE, GIVEN, expected


@pytest.mark.dist
def test_three_processes_find_what_one_would() -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
    done = subprocess.run(
        [*words, str(Path(__file__).with_name("three.py"))], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        assert f"process {rank} found all as it should be" in done.stderr


def test_alone_everything_is_one_s_own() -> None:
    assert ALONE.leads
    assert ALONE.share(7).rows == slice(0, 7)
    assert ALONE.any(True, False) == (True, False)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "two")])
def test_what_is_no_process_is_one_line(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GIVEN:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError, match=f"RANK={rank} of WORLD_SIZE={size} is no process"):
        expected()
