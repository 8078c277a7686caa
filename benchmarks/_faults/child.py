"""The command in a process of its own, with snapshots every few steps, that can be killed and whose writes can fail.

Processes are forked from one that has everything imported and has computed nothing.
"""

from __future__ import annotations

import builtins
import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

OURS: Final = ("cli", "pipeline", "prediction", "exports", "outputs.contact_sheet", "outputs.evaluate", "outputs.table")
THEIRS: Final = ("torch._dynamo", "pandas", "scipy.stats", "sklearn.cluster", "pyarrow.parquet", "safetensors.numpy")
PRELOADED: Final = [*(f"spiceclust.{name}" for name in OURS), *THEIRS]  # what the commands import sooner or later
BRIEF: Final[dict[str, Any]] = {
    "backbone": "resnet_small",
    "pretrain": {"epochs": 4, "batch_size": 12},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 6, "passes": 1},
    "graph_label": {"steps": 6},
    "scan": {"steps": 6},
    "semi": {"steps": 4, "unlabelled_ratio": 2},
}
FIT: Final = ["fit", "photos", "--clusters", "3", "--out", "run", "--config", "brief.json", "--image-size", "8"]
RESULTS: Final = ("clusters.csv", "result.safetensors", "images.parquet", "model/model.safetensors")
KILL: Final = -1  # in the place of an error's number
LOG, NOTE = "said.txt", "note.json"


@dataclass(frozen=True)
class Fault:
    """What happens at one of the calls that write: open, write, fsync, rename, mkdir and the like.

    Attributes:
        at: number of the call, from 1; 0 is none.
        what: number of an error, or KILL.
        share: of the bytes that are written before, where the call writes bytes.
        on: whether all later calls fail too, as on a full disk.
    """

    at: int = 0
    what: int = KILL
    share: float = 0.5
    on: bool = False


def make_place(folder: Path) -> None:
    """Writes `photos/KIND/NUMBER.png`, a broken file among them, and `brief.json`."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:8, :8]
    shapes = (rows // 4 % 2, columns // 4 % 2, (rows + columns) // 4 % 2)
    for number in range(24):
        home = folder / "photos" / f"kind {number % 3}"
        home.mkdir(parents=True, exist_ok=True)
        pixels = shapes[number % 3] * 150 + draw.integers(0, 100, (8, 8))
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"{number}.png")
    (folder / "photos/broken.png").write_bytes(b"no picture")
    (folder / "brief.json").write_text(json.dumps(BRIEF))


def start(words: list[str], folder: Path, *, every: int, fault: Fault = Fault(), threads: int = 1) -> BaseProcess:
    """Starts `spiceclust WORDS` in `folder`, with a snapshot before every `every`-th step.

    With two `threads` it computes in two lanes, to the same bytes.

    What it prints goes to `said.txt`, and the call at which it was hit, or the paths of all calls, to `note.json`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_command, args=(words, folder, every, fault, threads))
    process.start()
    return process


def run(words: list[str], folder: Path, *, every: int, fault: Fault = Fault(), threads: int = 1) -> int:
    """As `start`, and waits; returns the exit code, below zero for a signal."""
    process = start(words, folder, every=every, fault=fault, threads=threads)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def note(folder: Path) -> dict[str, Any]:
    """What the last command left in `note.json`."""
    content: dict[str, Any] = json.loads((folder / NOTE).read_text())
    return content


def contents(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The files of a folder, but for those whose names are in `without`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _command(words: list[str], folder: Path, every: int, fault: Fault, threads: int) -> None:
    import torch

    from spiceclust.cli import main
    from spiceclust.training.snapshots import Snapshots

    os.chdir(folder)
    (folder / NOTE).unlink(missing_ok=True)
    said = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    torch.set_num_threads(threads)
    asked = [0]

    def due(snapshots: Snapshots) -> bool:
        asked[0] += 1
        return asked[0] % every == 0

    Snapshots.due = due  # type: ignore[method-assign]
    sys.argv = ["spiceclust", *words]
    writes = _Writes(fault)
    try:
        main()
    finally:
        if not (folder / NOTE).exists():
            writes.say(calls=len(writes.seen), paths=writes.seen)


class _Writes:
    """Stands before every call of this process that writes, and counts them."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen: list[str] = []  # the path of each call
        self.open, self.write = os.open, os.write
        self.paths: dict[int, str] = {}
        for name in ("fsync", "ftruncate", "write", "mkdir", "rename", "replace", "link", "symlink"):
            setattr(os, name, self._before(name, getattr(os, name)))
        os.open = self._opened  # type: ignore[assignment]
        builtins.open = io.open = self._file(io.open)  # type: ignore[assignment]

    def say(self, **what: Any) -> None:
        handle = self.open(NOTE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self.write(handle, json.dumps(what).encode())
        os.close(handle)

    def hit(self, call: str, path: Any, part: Callable[[], Any] = lambda: None) -> None:
        """Counts a call, and lets happen what is to happen at it; `part` does some of it first."""
        path = self.paths.get(path, str(path)) if isinstance(path, int) else os.fspath(path)
        self.seen.append(path)
        number = len(self.seen)
        if not self.fault.at or number < self.fault.at or (number > self.fault.at and not self.fault.on):
            return
        part()
        if number == self.fault.at:
            self.say(call=call, path=path)
        if self.fault.what == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.fault.what, os.strerror(self.fault.what), path)

    def _before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *rest: Any, **named: Any) -> Any:
            if name != "mkdir" or not os.path.isdir(path):  # or nothing would be written
                self.hit(name, path)
            return call(path, *rest, **named)

        return wrapped

    def _opened(self, path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) and path != os.devnull  # which holds nothing
        if writes:
            self.hit("open", path)
        handle = self.open(path, flags, mode, **named)
        self.paths[handle] = os.fspath(path)
        return handle

    def _file(self, call: Callable[..., Any]) -> Callable[..., Any]:
        writes = self

        class Raw(io.FileIO):
            def write(self, data: Any, /) -> int:
                some = bytes(data)[: int(len(data) * writes.fault.share)]
                writes.hit("write", self.name, lambda: io.FileIO.write(self, some))
                return io.FileIO.write(self, data)

        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not set(mode) & set("wxa") or "b" not in mode:
                return call(file, mode, *rest, **named)
            if not isinstance(file, int):
                self.hit("open", file)
            return io.BufferedWriter(Raw(file, mode.replace("b", "")))

        return opened
