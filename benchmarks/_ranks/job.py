"""A command under torchrun, on this machine or on several hosts, whose processes are known and can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from _ranks.hosts import HERE, Host

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 20.0  # seconds that torchrun has to end its processes
CHILD: Final = str(Path(__file__).with_name("child.py"))


class Job:
    """Starts with the block and is ended with it.

    Args:
        words: of the command `spiceclust`, one list for each host or one for all of them.
        processes: on each host.
        folder: for what it says, by host, and for the numbers of its processes, by rank.
        hosts: where; the first one's name is where they meet.
        restarts: how often torchrun starts its processes again.
        child: options of `child.py`, which is then what runs in the place of `spiceclust`; see there.
    """

    def __init__(
        self,
        words: Sequence[list[str]],
        processes: int,
        folder: Path,
        *,
        hosts: Sequence[Host] = (HERE,),
        restarts: int = 0,
        child: Sequence[str] = (),
    ) -> None:
        self.words, self.processes, self.folder, self.hosts = words, processes, folder, hosts
        self.restarts, self.child = restarts, list(child)
        self.agents: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Job:
        for number in range(len(self.hosts)):
            self.begin(number)
        return self

    def begin(self, number: int) -> None:
        """Starts torchrun on a host, or starts it again where it was ended."""
        host = self.hosts[number]
        meeting = ["--standalone"]
        if len(self.hosts) > 1:
            meeting = ["--nnodes", str(len(self.hosts)), "--rdzv-backend", "c10d", "--rdzv-id", "job"]
            meeting += ["--rdzv-endpoint", f"{self.hosts[0].name}:29400"]
        what = [CHILD, str(self.folder), *self.child, "--"] if self.child else ["-m", "spiceclust"]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", *meeting),
            *("--nproc-per-node", str(self.processes), "--max-restarts", str(self.restarts)),
            *(*what, *self.words[number % len(self.words)]),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        if len(self.hosts) > 1:
            environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or no host can come back; docs/scaling.md
        with self._said(number).open("ab") as said:
            agent = subprocess.Popen(host.command(command), stdout=said, stderr=said, env=environment)
        for ended in self.agents[number : number + 1]:
            ended.wait()
        self.agents[number : number + 1] = [agent]

    def wait(self, seconds: float) -> bool:
        """Whether every host ended well.

        Raises:
            TimeoutExpired: it takes longer.
        """
        end = time.monotonic() + seconds
        return not any(agent.wait(max(0.0, end - time.monotonic())) for agent in self.agents)

    def over(self) -> bool:
        return all(agent.poll() is not None for agent in self.agents)

    def pids(self) -> dict[int, int]:
        """The number of the process of each rank that lives, where `child.py` runs."""
        found = {}
        for file in (self.folder / "pids").glob("*"):
            rank, pid = file.stem, file.read_text()
            if pid and str(self.folder).encode() in _command_of(pid):
                found[int(rank)] = int(pid)
        return found

    def said(self) -> str:
        """What all hosts said."""
        return "\n".join(self._said(number).read_text("utf-8", "replace") for number in range(len(self.hosts)))

    def _said(self, number: int) -> Path:
        return self.folder / f"said-{number}.txt"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.terminate()
        for agent in self.agents:
            try:
                agent.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
        for pid in self.pids().values():  # whose torchrun had no time for them
            os.kill(pid, signal.SIGKILL)


def _command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
