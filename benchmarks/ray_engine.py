"""The Ray engine of `predict` beside the local one, and what is left of it when workers and drivers are killed.

    python benchmarks/ray_engine.py --images 1000000 --speed 100000

The images are PNG files of 8 pixels a side in Parquet shards; the model is one that a few steps on some of them make:
what it says does not matter here. First both engines predict the first shards into folders, in turn. Then Ray predicts
all of them while a worker is killed every `--every` seconds, and the driver with its cluster `--drivers` times, at
random points; the same command goes on each time. What comes of it is compared with the local engine's, byte by byte.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from _report import about, write_results
from PIL import Image
from predict import BRIEF, FITTED

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source

SIDE = 8
# Every process that works on a shard writes that down first; the product itself has no such log.
SPY = """
import importlib.util, os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name != "spiceclust.bulk.work":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        plain = spec.loader.exec_module
        def run(module):
            plain(module)
            done = module.Work._done
            def told(self, shard):
                with open(os.environ["EXECUTIONS"], "a") as file:
                    file.write(f"{shard.name} {os.getpid()}\\n")
                return done(self, shard)
            module.Work._done = told
        spec.loader.exec_module = run
        return spec
sys.meta_path.insert(0, Spy())
"""


def write_shard(folder: Path, size: int, number: int) -> None:
    rng = np.random.default_rng(number)
    images = []
    for pixels in rng.integers(0, 256, (size, SIDE, SIDE), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png", compress_level=1)
        images.append(file.getvalue())
    pq.write_table(pa.table({"image": images}), folder / f"shard-{number:06}.parquet")


def write_shards(folder: Path, n: int, size: int) -> None:
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_shard, folder, size), range(n // size)))


def command(run: Path, source: str, out: Path, engine: str) -> list[str]:
    return [sys.executable, "-m", "spiceclust", "predict", str(run), source, "--out", str(out), "--engine", engine]


def timed(words: list[str], out: Path, n: int) -> tuple[float, float]:
    """Images a second of the whole command, and from the first table to the last one."""
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    times = sorted(file.stat().st_mtime for file in out.glob("*.parquet"))
    return n / seconds, n * (1 - 1 / len(times)) / (times[-1] - times[0])


def below(parent: int) -> dict[int, str]:
    """The processes that come from one, and their commands."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {parent}
    while more := {child for child, of in parents.items() if of in found} - found:
        found |= more
    named = {}
    for child in found - {parent}:
        try:
            named[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return named


def end(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def killed(words: list[str], out: Path, shards: int, every: float, drivers: int, log: Path) -> dict[str, float]:
    """Gives the command again until it ends well, killing meanwhile; counts what was killed."""
    rng = random.Random(0)
    points = sorted(rng.uniform(0.05, 0.95) for _ in range(drivers))
    count, start = {"workers": 0, "drivers": 0}, time.perf_counter()
    while True:
        with log.open("ab") as told:
            driver = subprocess.Popen(words, stdout=told, stderr=told, start_new_session=True)
        next_worker = time.perf_counter() + every
        while driver.poll() is None:
            time.sleep(0.2)
            done = len(list(out.glob("*.parquet"))) / shards if out.is_dir() else 0.0
            if points and done >= points[0]:
                points.pop(0)
                others = below(driver.pid)
                end(driver.pid)
                driver.wait()
                time.sleep(1)
                for process in others:  # what has not gone with it
                    end(process)
                count["drivers"] += 1
            elif time.perf_counter() > next_worker:
                next_worker += every
                workers = [child for child, name in below(driver.pid).items() if name.startswith("ray::MapWorker")]
                if workers:
                    end(rng.choice(workers))
                    count["workers"] += 1
        if driver.returncode == 0:
            return {**count, "seconds": time.perf_counter() - start}
        if driver.returncode != -signal.SIGKILL:
            raise SystemExit(f"the driver ended with {driver.returncode}: {log.read_text(errors='replace')[-1000:]}")


def compare(out: Path, reference: Path, source: Path, n: int, size: int) -> dict[str, int]:
    """How many rows are missing, there twice, or in a table that is not the local engine's."""
    paths = Counter(ds.dataset(out).to_table(columns=["path"])["path"].to_pylist())
    wanted = {f"{shard.name}:{row}" for shard in source.iterdir() for row in range(size)}
    files = {file.name for folder in (out, reference) for file in folder.glob("*.parquet")}
    assert len(wanted) == n
    return {
        "missing": len(wanted - paths.keys()),
        "duplicates": sum(paths.values()) - len(paths),
        "strange": len(paths.keys() - wanted),
        "tables": len(files),
        "different": sum((out / name).read_bytes() != (reference / name).read_bytes() for name in files),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1000, help="images in a shard")
    parser.add_argument("--speed", type=int, default=100_000, help="images for the rates; 0 for no rates")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=float, default=30, help="seconds between two workers that are killed")
    parser.add_argument("--drivers", type=int, default=5, help="how many drivers are killed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    n, size = options.images, options.size
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run, shards, spy = place / "run", place / "shards", place / "spy"
        write_shards(shards, n, size)
        spy.mkdir()
        (spy / "sitecustomize.py").write_text(SPY)
        os.environ["EXECUTIONS"] = str(place / "executions")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(spy), os.environ.get("PYTHONPATH", "")]))
        some = pq.read_table(shards / "shard-000000.parquet")["image"].to_pylist()[:FITTED]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in some])
        pipeline.fit(open_source(pixels), make_request(n_clusters=10, overrides=BRIEF), run)

        rates: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
        few = place / "few"
        few.mkdir()
        for file in sorted(shards.iterdir())[: options.speed // size]:
            os.link(file, few / file.name)
        for repeat in range(options.repeats if options.speed else 0):
            for engine, found in rates.items():
                out = place / f"{engine}-{repeat}"
                found.append(timed(command(run, str(few), out, engine), out, options.speed))

        start = time.perf_counter()
        subprocess.run(command(run, str(shards), place / "reference", "local"), check=True, stdout=subprocess.DEVNULL)
        alone = time.perf_counter() - start
        (place / "executions").write_text("")
        out, log = place / "out", place / "log"
        counts = killed(command(run, str(shards), out, "ray"), out, n // size, options.every, options.drivers, log)
        begun = len((place / "executions").read_text().splitlines())
        found = compare(out, place / "reference", shards, n, size)
    repeated = begun / (n // size) - 1
    how = (
        f"python benchmarks/ray_engine.py --images {n} --size {size} --speed {options.speed} --every {options.every:g}"
    )
    lines = [about("Prediction on Ray", how), ""]
    if options.speed:
        lines += [
            f"Images per second of {options.speed:,} ({SIDE} px, shards of {size:,}), medians of {options.repeats}",
            "",
        ]
        lines[-2] += " alternating runs on one machine, least and most in brackets:"
        lines += ["| engine | whole command | from the first table to the last |", "|---|---|---|"]
        for engine, found_rates in rates.items():
            cells = [
                f"{statistics.median(side):,.0f} ({min(side):,.0f} to {max(side):,.0f})"
                for side in zip(*found_rates, strict=True)
            ]
            lines += [f"| {engine} | {' | '.join(cells)} |"]
        lines += [""]
    lines += [
        f"{n:,} images in {n // size:,} shards while workers and drivers are killed ({counts['seconds']:,.0f} s; the "
        f"local engine, left alone, {alone:,.0f} s):",
        "",
        "| | |",
        "|---|---|",
        f"| workers killed | {counts['workers']} |",
        f"| drivers killed, each with its cluster | {counts['drivers']} |",
        f"| rows missing | {found['missing']} |",
        f"| rows there more than once | {found['duplicates']} |",
        f"| rows of no image | {found['strange']} |",
        f"| tables that are not the local engine's, byte by byte | {found['different']} of {found['tables']:,} |",
        f"| shards begun again, of all | {repeated:.1%} |",
    ]
    values = {"rates": rates, "killed": counts, "alone": alone, "found": found, "repeated": repeated}
    write_results(options.out / "ray_engine", "\n".join(lines) + "\n", values)


if __name__ == "__main__":
    main()
