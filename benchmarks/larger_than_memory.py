"""Pixels in memory and in a file of the run folder: stage 1's images a second, and the memory that reading takes.

    python benchmarks/larger_than_memory.py --images 60000 --repeats 3

Three ways take turns, each in a process of its own that trains the network of `quick` on 64 px images for some seconds:
pixels in memory; the mapped file with its pages in memory already; and the mapped file under a limit of memory that it
does not fit beside the process (a control group, version 1 or 2, which needs root), from a cold cache. `ahead` is the
mapped file with the next batch gathered by a thread. Then tars of PNG files are read into memory and into a file, twice
as many each time: what is counted is the memory of the process's own, at its highest, without pages of files, which the
system takes back when it wants them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import about, write_results
from PIL import Image

from spiceclust.config import Facts, FitConfig, make_request, resolve
from spiceclust.data.images import load, mapped
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
from spiceclust.stages import pretrain
from spiceclust.training.context import open_context
from spiceclust.training.lanes import open_lanes
from spiceclust.training.pixels import HostPixels, Pixels

SIDE = 64
BATCH = 64
WAYS = ["memory", "mapped", "mapped, ahead", "limited", "limited, ahead"]
GROUPS = Path("/sys/fs/cgroup")


class Watch(Silent):
    """Counts the steps of a training for some seconds, the first ones left out, and ends it then."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.start, self.taken = seconds, 0, 0.0, 0.0

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Watch]:
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        if not self.start:
            self.start = time.perf_counter()
            return
        self.steps, self.taken = self.steps + steps, time.perf_counter() - self.start
        if self.taken > self.seconds:
            raise StopIteration


def configured(n: int) -> FitConfig:
    overrides = {"pretrain": {"batch_size": BATCH, "epochs": 1, "neighbor_share": 0.0}}
    request = make_request(n_clusters=10, views="natural", image_size=SIDE, overrides=overrides)
    return resolve(request, Facts(n_images=n, native_size=SIDE, channels=3, domain="natural"))


def train(way: str, folder: Path, seconds: float) -> dict[str, float]:
    """Images a second of stage 1, and pages that had to be fetched from the disk for each."""
    import resource

    images = torch.from_numpy(mapped(folder).pixels)
    if way == "memory":
        images = images.clone()
    elif way.startswith("mapped"):
        images.sum()  # all its pages are in memory then
    pixels: Pixels = HostPixels(images, torch.device("cpu")) if way.endswith("ahead") else images
    watch = Watch(seconds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    context = replace(open_context(0, "cpu", watch), progress=watch)
    with open_lanes(context.device) as lanes, suppress(StopIteration):
        pretrain.run(pixels, configured(len(images)), replace(context, lanes=lanes))
    fetched = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    return {"rate": watch.steps * BATCH / watch.taken, "fetched": fetched / (watch.steps * BATCH)}


def read(way: str, tars: Path, folder: Path) -> dict[str, float]:
    """Seconds and the most memory of its own that a process takes which reads tars, beyond what it had before."""
    started, most, done = own_memory(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], own_memory())

    looking = threading.Thread(target=look)
    looking.start()
    start = time.perf_counter()
    images = load(open_source(sorted(tars.glob("*.tar"))), SIDE, None, Silent(), folder if way == "file" else None)
    seconds = time.perf_counter() - start
    done.set()
    looking.join()
    return {"seconds": seconds, "peak": most[0] - started, "kept": own_memory() - started, "n": len(images.rows)}


def own_memory() -> int:
    """Bytes of this process that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def in_process(function: str, *words: object, group: Path | None = None) -> dict[str, float]:
    """A function of this file in a process of its own, which enters a control group first."""
    code = (
        "import json, os, sys; group = sys.argv[1]\n"
        "if group: open(os.path.join(group, 'cgroup.procs'), 'w').write(str(os.getpid()))\n"
        "import larger_than_memory as here; from pathlib import Path\n"
        "kinds = lambda word: Path(word) if os.sep in word else float(word) if word[0].isdigit() else word\n"
        "print(json.dumps(getattr(here, sys.argv[2])(*map(kinds, sys.argv[3:]))))"
    )
    command = [sys.executable, "-c", code, str(group or ""), function, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return dict(json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout))


@contextmanager
def limited(limit: int) -> Iterator[Path | None]:
    """A control group whose processes get at most `limit` bytes, pages of files too; None where not allowed."""
    old = (GROUPS / "memory").is_dir()
    group = GROUPS / ("memory" if old else "") / f"spiceclust-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def forget(folder: Path) -> None:
    """Lets the system forget the pages of files, so that whoever reads them next has them counted."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_packed(folder: Path, n: int) -> None:
    """A packed file of n random images, which are made a few at a time."""
    from spiceclust.data.packed import open_packed, part_size
    from spiceclust.manifest import Row

    about = {"stamp": "random", "size": SIDE, "channels": 3, "n": n, "version": ""}
    packed, draw = open_packed(folder, about, SIDE, 3, Silent()), np.random.default_rng(0)
    for start in range(0, n, part_size(SIDE)):
        rows = [Row(str(i), "ok", "", SIDE, SIDE, f"{i:064}") for i in range(start, min(start + part_size(SIDE), n))]
        packed.append(rows, draw.integers(0, 256, (len(rows), 3, SIDE, SIDE), dtype=np.uint8))


def write_tars(folder: Path, n: int) -> None:
    folder.mkdir()
    draw = np.random.default_rng(1)
    for shard in range(-(-n // 1000)):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for i in range(1000 * shard, min(1000 * shard + 1000, n)):
                content = io.BytesIO()
                coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((SIDE, SIDE)).save(content, "PNG")
                member = tarfile.TarInfo(f"{i:09}.png")
                member.size = content.tell()
                content.seek(0)
                archive.addfile(member, content)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000, help="in the packed file")
    parser.add_argument("--limit", type=int, default=700, help="MiB of the limited processes")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read", type=int, nargs="+", default=[5_000, 20_000], help="images in tars")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    found: dict[str, Any] = {"rates": {way: [] for way in WAYS}, "read": {}}
    with tempfile.TemporaryDirectory() as place, limited(options.limit * 2**20) as group:
        folder = Path(place) / "pixels"
        write_packed(folder, options.images)
        for _ in range(options.repeats):
            for way in WAYS:
                if way.startswith("limited"):
                    forget(folder)
                if group or not way.startswith("limited"):
                    within = group if way.startswith("limited") else None
                    found["rates"][way].append(in_process("train", way, folder, options.seconds, group=within))
        for n in options.read:
            write_tars(Path(place) / f"tars-{n}", n)
            for way in ("memory", "file"):
                kept = Path(place) / f"kept-{n}"
                found["read"][f"{way} {n}"] = in_process("read", way, Path(place) / f"tars-{n}", kept)
    write_results(options.out / "larger_than_memory", page(found, options), found)


def page(found: dict[str, Any], options: argparse.Namespace) -> str:
    gb = options.images * 3 * SIDE**2 / 2**30
    lines = [about("Pixels larger than memory", "python benchmarks/larger_than_memory.py"), ""]
    lines += [
        f"Stage 1 on {options.images:,} images of {SIDE} px ({gb:.2f} GB), {options.seconds:.0f} s in each of "
        f"{options.repeats} alternating runs; `limited` processes have {options.limit} MiB for all, and begin without "
        "a page of the file in memory.",
        "",
        "| pixels | images a second, median | least | most | to memory | pages fetched an image |",
        "|---|---|---|---|---|---|",
    ]
    for way, runs in found["rates"].items():
        if not runs:
            lines.append(f"| {way} | no control group could be made here | | | | |")
            continue
        rates = [run["rate"] for run in runs]
        ratios = [run["rate"] / first["rate"] for run, first in zip(runs, found["rates"]["memory"], strict=True)]
        fetched = statistics.median(run["fetched"] for run in runs)
        lines.append(
            f"| {way} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | "
            f"{statistics.median(ratios):.2f} | {fetched:.2f} |"
        )
    lines += ["", "Reading tars of PNG files, the program's own memory (MiB) beyond what it had before:", ""]
    lines += ["| pixels | images | of pixels | at the highest | when read | seconds |", "|---|---|---|---|---|---|"]
    for way, run in found["read"].items():
        pixels = run["n"] * 3 * SIDE**2 / 2**20
        peak, kept = run["peak"] / 2**20, run["kept"] / 2**20
        lines.append(
            f"| {way.split()[0]} | {run['n']:,.0f} | {pixels:,.0f} | {peak:,.0f} | {kept:,.0f} | {run['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
